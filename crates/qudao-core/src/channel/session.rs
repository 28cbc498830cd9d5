//! The contract of adapters whose platform keeps a socket open. It is as pure as the others': the host
//! owns the socket, and a session is tested on frames.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    adapter::ChannelAdapter,
    config::ChannelConfig,
    event::Event,
    plan::{HttpPlan, RawResponse},
};

/// A platform that keeps a socket open instead of sending requests. The host owns the socket and
/// the clock; one node of all holds a channel's session.
pub trait SessionAdapter: ChannelAdapter {
    /// Whether this channel has a socket, by its settings.
    fn is_held(&self, _config: &ChannelConfig) -> bool {
        true
    }

    /// The request whose answer says where the socket is, and `None` if that is known.
    fn locate(&self, config: &ChannelConfig) -> Option<HttpPlan>;

    /// A session, given the answer to [`Self::locate`] and what [`ChannelSession::state`] said when
    /// the last one of this channel was open: from there it goes on. The host does not locate anew
    /// as long as what is kept is enough to open a session, and does once that has failed.
    ///
    /// # Errors
    /// [`OpenError`].
    fn open(
        &self,
        config: &ChannelConfig,
        located: Option<&RawResponse>,
        kept: Option<&Value>,
    ) -> Result<Box<dyn ChannelSession>, OpenError>;
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has to be asked first where the socket is.
    #[error("it is not known where the socket is")]
    Unlocated,
    /// Not now, for this reason.
    #[error("{0}")]
    Later(String),
    /// Never with these credentials: what is wrong, in words for the tenant.
    #[error("{0}")]
    Refused(String),
}

/// An open socket of a [`SessionAdapter`], without the socket.
pub trait ChannelSession: Send {
    /// The WebSocket's address: `wss://…`, or `ws://…` where the operator allows plain http.
    fn address(&self) -> String;

    /// A frame arrived. The host does all that comes of one before it hands over the next.
    fn on_frame(&mut self, frame: &SessionFrame, now: Timestamp) -> Vec<SessionStep>;

    /// The time of the last [`SessionStep::Wake`] has come.
    fn on_timer(&mut self, now: Timestamp) -> Vec<SessionStep>;

    /// What it takes to go on with this session over another socket, from another node. The host
    /// keeps it in the database once everything is durable that was to be accepted so far, so it may
    /// be some seconds old when it is needed; what comes twice because of that is known by its id.
    fn state(&self) -> Option<Value> {
        None
    }
}

/// A frame of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionFrame {
    /// Words.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// The last one: the other side has closed the socket, with a code if it gave one. Without a
    /// [`SessionStep`] that says otherwise the session is opened anew.
    Closed {
        /// As the protocol numbers them.
        code: Option<u16>,
        /// What was said beside it.
        reason: String,
    },
}

/// What a session wants.
#[derive(Debug, Clone)]
pub enum SessionStep {
    /// That a frame is sent.
    Send(SessionFrame),
    /// That events are accepted. What follows in the list is done when they are durable, so that
    /// an acknowledgement is sent afterwards.
    Accept(Vec<Event>),
    /// To be woken after this time.
    Wake(Duration),
    /// That the platform has let it in: what was wrong with the channel is over.
    Established,
    /// To be opened anew after this time, the state kept.
    Reconnect(Duration),
    /// Never to be opened again with these settings, for this reason, in words for the tenant.
    Stop(String),
}
