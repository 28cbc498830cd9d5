//! One open chat as a state machine without I/O: what happened goes in, what to do comes out.
//!
//! The database is the truth. Hints from the bus only say when to look; a poll looks when a hint
//! was lost. Every message is sent once per connection, because each read starts where the last
//! one ended.

use std::{collections::VecDeque, time::Duration};

use qudao_core::{AssistantState, PreviewEvent};
use qudao_domain::{
    ConversationId,
    text::{ExternalId, MessageText},
};
use qudao_storage::TimelineCursor;
use tokio::time::Instant;

use super::frame::{ClientFrame, MessageFrame, MessageKey, ServerFrame};
use crate::code::Code;

/// The longest client id, in characters.
pub(crate) const MAX_CLIENT_ID: usize = 64;

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The node shuts down; come back.
    Restart,
    /// Nothing was heard for too long.
    Silence,
    /// The client breaks the protocol.
    Misuse,
    /// The client sent more at once than is taken.
    TooLarge,
}

/// A part of the conversation, read from the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// The visitor's conversation, if one exists by now.
    pub(crate) conversation: Option<ConversationId>,
    /// What follows the cursor, in the order of the timeline.
    pub(crate) messages: Vec<MessageFrame>,
    /// Whether more follows.
    pub(crate) more: bool,
    /// Whether an answer is owed.
    pub(crate) answer_due: bool,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The client said something.
    Frame(ClientFrame),
    /// The client said something that is no frame.
    Unreadable(String),
    /// The client said more at once than is taken.
    TooLarge,
    /// The client is alive.
    Heard,
    /// A read is done.
    Page(Page),
    /// A read failed.
    ReadFailed,
    /// The bus had a hint.
    Hint(PreviewEvent),
    /// The bus is heard from now on; what was said before may have been missed.
    Listening,
    /// A message of the client is durable.
    Accepted { id: String, seq: i64, duplicate: bool },
    /// A message of the client was refused.
    Refused { id: String, code: Code, detail: String, retry_after: Option<u64> },
    /// Time has passed.
    Tick,
    /// The node shuts down.
    Draining,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Tell the client.
    Send(ServerFrame),
    /// Listen to the bus.
    Subscribe(ConversationId),
    /// Read what follows the cursor.
    Read(TimelineCursor),
    /// Store a message.
    Accept { id: ExternalId, text: MessageText },
    /// Stop the running answer.
    Stop(ConversationId),
    /// Have the running answer shown from its beginning.
    Replay(ConversationId),
    /// Ask the client whether it is alive.
    Ping,
    /// End the connection.
    Close(Farewell),
}

/// How patient a session is.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    pub(crate) heartbeat: Duration,
    /// Silence that ends the connection; `None` where the client cannot speak.
    pub(crate) silence: Option<Duration>,
    pub(crate) open_turn_poll: Duration,
    pub(crate) idle_poll: Duration,
    /// Messages of the client that wait to be stored. More at once is no person typing.
    pub(crate) waiting: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Nothing is under way.
    Idle,
    /// A read is under way.
    Busy,
    /// A read is under way, and something has happened since it began.
    Stale,
}

/// One open chat.
#[derive(Debug)]
pub(crate) struct Session {
    patience: Patience,
    conversation: Option<ConversationId>,
    cursor: TimelineCursor,
    reading: Reading,
    /// Whether the client was told that the history is complete.
    ready: bool,
    answer_due: bool,
    accepting: bool,
    waiting: VecDeque<(ExternalId, MessageText)>,
    read_at: Instant,
    heard_at: Instant,
    pinged_at: Instant,
}

impl Session {
    /// A session that continues at `cursor`, and what to do first.
    pub(crate) fn open(
        cursor: TimelineCursor,
        patience: Patience,
        now: Instant,
    ) -> (Self, Vec<Effect>) {
        let session = Self {
            patience,
            conversation: None,
            cursor,
            reading: Reading::Busy,
            ready: false,
            answer_due: false,
            accepting: false,
            waiting: VecDeque::new(),
            read_at: now,
            heard_at: now,
            pinged_at: now,
        };
        (session, vec![Effect::Read(cursor)])
    }

    /// How far the client has read.
    pub(crate) fn cursor(&self) -> TimelineCursor {
        self.cursor
    }

    /// When the next [`Input::Tick`] is of use. A session that nobody talks in is left alone until
    /// then, for there may be thousands of them.
    pub(crate) fn due(&self) -> Instant {
        let ping = self.pinged_at + self.patience.heartbeat;
        let silence = self.patience.silence.map(|limit| self.heard_at + limit);
        let poll = (self.reading == Reading::Idle).then(|| self.read_at + self.poll());
        [silence, poll].into_iter().flatten().fold(ping, Instant::min)
    }

    /// Between two reads without a hint.
    fn poll(&self) -> Duration {
        if self.answer_due { self.patience.open_turn_poll } else { self.patience.idle_poll }
    }

    /// Takes note of what happened.
    pub(crate) fn on(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        match input {
            Input::Frame(frame) => {
                self.heard_at = now;
                self.on_frame(frame)
            }
            Input::Unreadable(detail) => {
                self.heard_at = now;
                vec![error(Code::BadRequest, detail, None)]
            }
            Input::TooLarge => vec![Effect::Close(Farewell::TooLarge)],
            Input::Heard => {
                self.heard_at = now;
                Vec::new()
            }
            Input::Page(page) => self.on_page(page, now),
            Input::ReadFailed => {
                // The poll tries again; the client loses nothing but time.
                self.reading = Reading::Idle;
                self.read_at = now;
                Vec::new()
            }
            Input::Hint(hint) => self.on_hint(hint),
            Input::Listening => self.on_listening(),
            Input::Accepted { id, seq, duplicate } => self.on_accepted(id, seq, duplicate),
            Input::Refused { id, code, detail, retry_after } => {
                self.accepting = false;
                let (code, id) = (code.as_str(), Some(id));
                let frame = ServerFrame::Error { code, detail, id, retry_after };
                let mut effects = vec![Effect::Send(frame)];
                effects.extend(self.accept_next());
                effects
            }
            Input::Tick => self.on_tick(now),
            Input::Draining => {
                vec![Effect::Send(ServerFrame::Reconnect), Effect::Close(Farewell::Restart)]
            }
        }
    }

    fn on_frame(&mut self, frame: ClientFrame) -> Vec<Effect> {
        match frame {
            ClientFrame::Hello { .. } => vec![
                error(Code::BadRequest, "hello is said once".to_owned(), None),
                Effect::Close(Farewell::Misuse),
            ],
            ClientFrame::Ping => vec![Effect::Send(ServerFrame::Pong)],
            ClientFrame::Stop => self.conversation.map(Effect::Stop).into_iter().collect(),
            ClientFrame::Send { id, text } => self.on_send(id, &text),
        }
    }

    fn on_send(&mut self, id: String, text: &str) -> Vec<Effect> {
        let (external_id, text) = match check_message(&id, text) {
            Ok(checked) => checked,
            Err(wrong) => {
                let detail = format!("{} {}", wrong.field, wrong.detail);
                return vec![error(Code::ValidationFailed, detail, Some(id))];
            }
        };
        if self.patience.waiting <= self.waiting.len() {
            let detail = "too many messages at once".to_owned();
            return vec![error(Code::RateLimited, detail, Some(id))];
        }
        self.waiting.push_back((external_id, text));
        self.accept_next()
    }

    /// One at a time, so that messages are stored in the order in which they were typed.
    fn accept_next(&mut self) -> Vec<Effect> {
        if self.accepting {
            return Vec::new();
        }
        let Some((id, text)) = self.waiting.pop_front() else { return Vec::new() };
        self.accepting = true;
        vec![Effect::Accept { id, text }]
    }

    fn on_accepted(&mut self, id: String, seq: i64, duplicate: bool) -> Vec<Effect> {
        self.accepting = false;
        self.answer_due |= !duplicate;
        let key = MessageKey::Inbound(seq);
        let mut effects = vec![Effect::Send(ServerFrame::Accepted { id, key, duplicate })];
        effects.extend(self.read());
        effects.extend(self.accept_next());
        effects
    }

    fn on_page(&mut self, page: Page, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let newly_known = self.conversation.is_none() && page.conversation.is_some();
        if let (true, Some(conversation)) = (newly_known, page.conversation) {
            self.conversation = Some(conversation);
            effects.push(Effect::Subscribe(conversation));
        }
        for message in page.messages {
            self.cursor = message.cursor;
            effects.push(Effect::Send(ServerFrame::Message(message)));
        }
        self.answer_due = page.answer_due;
        self.read_at = now;
        let stale = std::mem::replace(&mut self.reading, Reading::Idle) == Reading::Stale;
        if !page.more && !self.ready {
            self.ready = true;
            effects.push(Effect::Send(ServerFrame::Ready { cursor: self.cursor }));
            if self.answer_due {
                let state = AssistantState::Thinking;
                effects.push(Effect::Send(ServerFrame::Preview(PreviewEvent::Status { state })));
            }
        }
        // What was stored between the read and the subscription had no listener yet.
        if page.more || stale || newly_known {
            effects.extend(self.read());
        }
        effects
    }

    fn on_hint(&mut self, hint: PreviewEvent) -> Vec<Effect> {
        match hint {
            PreviewEvent::Message { .. } => self.read().into_iter().collect(),
            PreviewEvent::Delta { .. }
            | PreviewEvent::Reset { .. }
            | PreviewEvent::Heard { .. }
            | PreviewEvent::Status { .. } => {
                self.answer_due = true;
                vec![Effect::Send(ServerFrame::Preview(hint))]
            }
        }
    }

    /// What was said before is lost: what is stored can be read, what is being written must be
    /// asked for.
    fn on_listening(&mut self) -> Vec<Effect> {
        let open = self.conversation.filter(|_| self.answer_due);
        open.map(Effect::Replay).into_iter().chain(self.read()).collect()
    }

    fn on_tick(&mut self, now: Instant) -> Vec<Effect> {
        let silent = now.saturating_duration_since(self.heard_at);
        if self.patience.silence.is_some_and(|limit| limit <= silent) {
            return vec![Effect::Close(Farewell::Silence)];
        }
        let mut effects = Vec::new();
        if self.patience.heartbeat <= now.saturating_duration_since(self.pinged_at) {
            self.pinged_at = now;
            effects.push(Effect::Ping);
        }
        let due = self.poll() <= now.saturating_duration_since(self.read_at);
        if due && self.reading == Reading::Idle {
            effects.extend(self.read());
        }
        effects
    }

    /// Reads now, or once more after the read that is under way.
    fn read(&mut self) -> Option<Effect> {
        match self.reading {
            Reading::Idle => {
                self.reading = Reading::Busy;
                Some(Effect::Read(self.cursor))
            }
            Reading::Busy | Reading::Stale => {
                self.reading = Reading::Stale;
                None
            }
        }
    }
}

/// What is wrong with a message.
#[derive(Debug)]
pub(crate) struct BadMessage {
    pub(crate) field: &'static str,
    pub(crate) detail: String,
}

/// Checks what a visitor wrote and the id that the browser gave it.
///
/// # Errors
/// What is wrong, with the field's name.
pub(crate) fn check_message(id: &str, text: &str) -> Result<(ExternalId, MessageText), BadMessage> {
    let wrong = |field, detail: String| BadMessage { field, detail };
    if id.is_empty() || MAX_CLIENT_ID < id.len() || !id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(wrong(
            "id",
            format!("has to be 1 to {MAX_CLIENT_ID} visible ASCII characters"),
        ));
    }
    let id = ExternalId::parse(id).map_err(|error| wrong("id", error.to_string()))?;
    let text = MessageText::parse(text).map_err(|error| wrong("text", error.to_string()))?;
    Ok((id, text))
}

fn error(code: Code, detail: String, id: Option<String>) -> Effect {
    // What is refused here without asking anybody is either wrong or too much within a moment.
    let retry_after = (code == Code::RateLimited).then_some(1);
    Effect::Send(ServerFrame::Error { code: code.as_str(), detail, id, retry_after })
}

#[cfg(test)]
mod tests;
