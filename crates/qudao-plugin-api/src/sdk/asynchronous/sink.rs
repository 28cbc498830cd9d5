//! Where an asynchronous plugin writes its answer.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;

use super::net::{Inbox, Net};
use crate::{
    abi::{
        QD_E_AGAIN, QD_EF_REASONING, QD_EV_DATA, QD_EV_PROGRESS, QD_EV_TOKEN, QD_EV_USAGE, QdEvent,
    },
    sdk::{
        Host, LogLevel, PluginError,
        boundary::{emit_error, parts},
    },
    wire::Usage,
};

/// Events of one batch: a part of the window, so that a reader who is a little behind does not
/// hold up the whole.
const BATCH_EVENTS_MAX: usize = 64;

/// What a plugin says that cannot do without.
pub(super) const NO_NET: &str = "this host makes no HTTP exchanges for plugins: it needs ABI 1.1";

/// What the host says of a request while it is under way.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pub(super) credit: Notify,
    pub(super) cancel: Notify,
    pub(super) inbox: Inbox,
}

/// One piece of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text of the answer.
    Text(&'a str),
    /// Text of the model's reasoning.
    Reasoning(&'a str),
    /// A delta, as JSON.
    Json(&'a str),
}

impl<'a> Piece<'a> {
    /// Cut to what one event may hold.
    fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (text, json, flags) = match *self {
            Self::Text(text) => (text, None, 0),
            Self::Reasoning(text) => (text, None, QD_EF_REASONING),
            Self::Json(json) => ("", Some(json), 0),
        };
        let token = move |text| Part { kind: QD_EV_TOKEN, flags, text };
        let data = |text| Part { kind: QD_EV_DATA, flags: 0, text };
        parts(text).map(token).chain(json.map(data))
    }
}

/// What becomes one event. Unlike an event it holds no pointers and may live across a wait.
struct Part<'a> {
    kind: u16,
    flags: u16,
    text: &'a str,
}

impl Part<'_> {
    const fn event(&self) -> QdEvent {
        QdEvent { flags: self.flags, ..QdEvent::new(self.kind, self.text.as_bytes()) }
    }
}

/// Where an asynchronous plugin writes its answer. Waits for credit when the reader is slow.
#[derive(Debug)]
pub struct AsyncSink {
    pub(super) host: Host,
    pub(super) id: u64,
    pub(super) signals: Arc<Signals>,
    pub(super) trace: String,
}

impl AsyncSink {
    /// The host's HTTP exchanges and timer for this request.
    ///
    /// # Errors
    /// On a host before ABI 1.1.
    pub fn net(&self) -> Result<Net, PluginError> {
        if self.host.has_net() {
            return Ok(Net { host: self.host, id: self.id, signals: Arc::clone(&self.signals) });
        }
        Err(PluginError::internal(NO_NET))
    }

    /// Writes a line about this request to the host's log, which puts the id of its trace to it.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.host.log_about(&self.trace, level, message);
    }

    /// Streams text of the answer.
    ///
    /// # Errors
    /// When the caller is gone: return it with `?`.
    pub async fn token(&self, text: &str) -> Result<(), PluginError> {
        self.text(text, 0).await
    }

    /// Streams text of the model's reasoning.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn reasoning(&self, text: &str) -> Result<(), PluginError> {
        self.text(text, QD_EF_REASONING).await
    }

    async fn text(&self, text: &str, flags: u16) -> Result<(), PluginError> {
        for part in parts(text) {
            self.send(QD_EV_TOKEN, flags, part.as_bytes()).await?;
        }
        Ok(())
    }

    /// Streams a JSON delta.
    ///
    /// # Errors
    /// As [`AsyncSink::token`], or when `value` does not serialise.
    pub async fn data<T: Serialize + Sync>(&self, value: &T) -> Result<(), PluginError> {
        let json = serde_json::to_vec(value).map_err(|e| PluginError::internal(e.to_string()))?;
        self.send(QD_EV_DATA, 0, &json).await
    }

    /// Reports usage early; the usage of the [`Completion`] comes last and wins.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn usage(&self, usage: Usage) -> Result<(), PluginError> {
        let json = serde_json::to_vec(&usage).map_err(|e| PluginError::internal(e.to_string()))?;
        self.send(QD_EV_USAGE, 0, &json).await
    }

    /// A line for the operator.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn progress(&self, note: &str) -> Result<(), PluginError> {
        self.send(QD_EV_PROGRESS, 0, note.as_bytes()).await
    }

    /// Streams several pieces with as few crossings of the boundary as the reader's credit
    /// allows: what one network read brought costs one.
    ///
    /// # Errors
    /// As [`AsyncSink::token`].
    pub async fn pieces(&self, pieces: &[Piece<'_>]) -> Result<(), PluginError> {
        let parts: Vec<_> = pieces.iter().flat_map(Piece::parts).collect();
        let mut rest = parts.as_slice();
        while !rest.is_empty() {
            match self.emit_some(rest) {
                Ok(0) => self.signals.credit.notified().await,
                Ok(taken) => rest = &rest[taken..],
                Err(code) => return Err(emit_error(code)),
            }
        }
        Ok(())
    }

    /// How many of `parts` were taken; 0 when there is no credit.
    fn emit_some(&self, parts: &[Part<'_>]) -> Result<usize, i32> {
        let parts = parts.iter().take(BATCH_EVENTS_MAX);
        let events: Vec<_> = parts.map(Part::event).collect();
        let mut count = events.len();
        while 0 < count {
            match self.host.emit(self.id, &events[..count]) {
                QD_E_AGAIN => count /= 2,
                code if code < 0 => return Err(code),
                _ => break,
            }
        }
        Ok(count)
    }

    async fn send(&self, kind: u16, flags: u16, data: &[u8]) -> Result<(), PluginError> {
        loop {
            // The event holds pointers and is not `Send`: it may not live across the wait.
            let code = self.host.emit(self.id, &[QdEvent { flags, ..QdEvent::new(kind, data) }]);
            match code {
                QD_E_AGAIN => self.signals.credit.notified().await,
                code if code < 0 => return Err(emit_error(code)),
                _ => return Ok(()),
            }
        }
    }
}
