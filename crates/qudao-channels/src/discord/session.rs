//! The gateway's socket, without the socket: identify or resume, heartbeats, events.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::{
    config::ChannelConfig,
    plan::RawResponse,
    session::{ChannelSession, OpenError, SessionFrame, SessionStep},
};
use rand::RngExt as _;
use serde_json::{Value, json};

use super::event;
use crate::wire::{id, text};

/// Messages and reactions, in servers and directly.
const INTENTS: u64 = 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13;
/// What people say who do not call the bot.
const MESSAGE_CONTENT: u64 = 1 << 15;
/// How long to wait before a session that Discord ended is begun anew: what it asks for, drawn anew
/// each time.
const AGAIN_S: std::ops::Range<f64> = 1.0..5.0;
const TOO_MANY: &str = "this bot began too many sessions today: Discord allows more tomorrow";

/// An operation of the gateway.
mod op {
    pub(super) const DISPATCH: u64 = 0;
    pub(super) const HEARTBEAT: u64 = 1;
    pub(super) const IDENTIFY: u64 = 2;
    pub(super) const RESUME: u64 = 6;
    pub(super) const RECONNECT: u64 = 7;
    pub(super) const INVALID_SESSION: u64 = 9;
    pub(super) const HELLO: u64 = 10;
    pub(super) const HEARTBEAT_ACK: u64 = 11;
}

pub(super) fn open(
    config: &ChannelConfig,
    located: Option<&RawResponse>,
    kept: Option<&Value>,
) -> Result<Box<dyn ChannelSession>, OpenError> {
    let token = config.secret("bot_token");
    let token = token.map_err(|_| OpenError::Refused("the bot token is not set".to_owned()))?;
    let content = if config.flag("read_all", false) { MESSAGE_CONTENT } else { 0 };
    let of = |at: &str| kept.and_then(|kept| text(kept, at)).map(str::to_owned);
    let gateway = match located {
        Some(located) => gateway(located)?,
        None => of("/gateway").ok_or(OpenError::Unlocated)?,
    };
    Ok(Box::new(Session {
        token: token.to_owned(),
        intents: INTENTS | content,
        gateway,
        own: of("/own"),
        resumable: of("/session"),
        seen: kept.and_then(|kept| kept.get("seen")).and_then(Value::as_u64),
        beat: Duration::from_secs(40),
        acknowledged: true,
    }))
}

/// Where Discord says that its gateway is.
fn gateway(located: &RawResponse) -> Result<String, OpenError> {
    if located.status == 401 {
        return Err(OpenError::Refused("Discord does not take this bot token".to_owned()));
    }
    let body = located.json();
    let Some(url) = text(&body, "/url") else {
        let what = format!("Discord did not say where its gateway is: {}", located.excerpt());
        return Err(OpenError::Later(what));
    };
    if body.pointer("/session_start_limit/remaining") == Some(&json!(0)) {
        return Err(OpenError::Later(TOO_MANY.to_owned()));
    }
    Ok(url.to_owned())
}

struct Session {
    token: String,
    intents: u64,
    /// Where the next socket is opened.
    gateway: String,
    /// The bot's own user.
    own: Option<String>,
    /// The session that can be gone on with.
    resumable: Option<String>,
    /// The number of the last event.
    seen: Option<u64>,
    /// Between two heartbeats.
    beat: Duration,
    /// The last heartbeat was answered.
    acknowledged: bool,
}

impl ChannelSession for Session {
    fn address(&self) -> String {
        format!("{}/?v=10&encoding=json", self.gateway.trim_end_matches('/'))
    }

    fn on_frame(&mut self, frame: &SessionFrame, _now: Timestamp) -> Vec<SessionStep> {
        let words = match frame {
            SessionFrame::Text(words) => words,
            SessionFrame::Binary(_) => return Vec::new(),
            SessionFrame::Closed { code, .. } => return self.closed(*code),
        };
        let Ok(body) = serde_json::from_str::<Value>(words) else { return Vec::new() };
        let data = body.get("d").unwrap_or(&Value::Null);
        match body.get("op").and_then(Value::as_u64) {
            Some(op::HELLO) => self.hello(data),
            Some(op::HEARTBEAT) => vec![self.heartbeat()],
            Some(op::HEARTBEAT_ACK) => {
                self.acknowledged = true;
                Vec::new()
            }
            Some(op::RECONNECT) => vec![SessionStep::Reconnect(Duration::ZERO)],
            Some(op::INVALID_SESSION) => {
                if data != &Value::Bool(true) {
                    self.forget();
                }
                vec![again()]
            }
            Some(op::DISPATCH) => {
                let kind = text(&body, "/t").unwrap_or("unnamed");
                let steps = self.dispatched(kind, data);
                // Only now: an event is not seen before it is handed on.
                self.seen = body.get("s").and_then(Value::as_u64).or(self.seen);
                steps
            }
            _ => Vec::new(),
        }
    }

    fn on_timer(&mut self, _now: Timestamp) -> Vec<SessionStep> {
        if !self.acknowledged {
            // The other side is gone without a word.
            return vec![SessionStep::Reconnect(Duration::ZERO)];
        }
        self.acknowledged = false;
        vec![self.heartbeat(), SessionStep::Wake(self.beat)]
    }

    fn state(&self) -> Option<Value> {
        Some(json!({ "gateway": self.gateway, "session": self.resumable, "seen": self.seen,
            "own": self.own }))
    }
}

fn again() -> SessionStep {
    SessionStep::Reconnect(Duration::from_secs_f64(rand::rng().random_range(AGAIN_S)))
}

impl Session {
    /// Nothing to go on with: the next one is begun anew.
    fn forget(&mut self) {
        self.resumable = None;
        self.seen = None;
    }

    /// What the number says with which Discord closed the socket. Those that say that trying again
    /// is of no use are for the tenant to mend.
    fn closed(&mut self, code: Option<u16>) -> Vec<SessionStep> {
        let stop = |words: &str| vec![SessionStep::Stop(words.to_owned())];
        match code {
            Some(4004) => stop(
                "Discord does not take this bot token: reset it on the app's Bot page and save the \
                 new one here",
            ),
            Some(4010 | 4011) => stop(
                "this bot is in more servers than one connection may serve; Discord wants it \
                 sharded, which this platform does not do",
            ),
            Some(4012) => stop("Discord has closed the version of its gateway that is spoken here"),
            Some(4013) => stop("Discord does not know what this channel asks to be told"),
            Some(4014) => stop(
                "this app may not read all messages: switch on Message Content Intent on the app's \
                 Bot page, or switch off reading what is not said to the bot",
            ),
            // The session is over, by what was sent or by its age. Whether any other can be gone on
            // with, Discord says when it is tried.
            Some(4003 | 4007 | 4009) => {
                self.forget();
                vec![again()]
            }
            _ => Vec::new(),
        }
    }

    fn hello(&mut self, data: &Value) -> Vec<SessionStep> {
        let told = data.get("heartbeat_interval").and_then(Value::as_u64).unwrap_or(40_000);
        self.beat = Duration::from_millis(told.clamp(1_000, 600_000));
        self.acknowledged = true;
        let begin = match (&self.resumable, self.seen) {
            (Some(session), Some(seen)) => json!({ "op": op::RESUME,
                "d": { "token": self.token, "session_id": session, "seq": seen } }),
            _ => json!({ "op": op::IDENTIFY, "d": { "token": self.token, "intents": self.intents,
                "properties": { "os": "linux", "browser": "qudao", "device": "qudao" } } }),
        };
        let begin = SessionFrame::Text(begin.to_string());
        // The first heartbeat comes early, so that many sessions do not beat at once.
        vec![SessionStep::Send(begin), SessionStep::Wake(self.beat / 2)]
    }

    fn heartbeat(&self) -> SessionStep {
        let beat = json!({ "op": op::HEARTBEAT, "d": self.seen });
        SessionStep::Send(SessionFrame::Text(beat.to_string()))
    }

    fn dispatched(&mut self, kind: &str, data: &Value) -> Vec<SessionStep> {
        match kind {
            "READY" => {
                self.own = id(data, "/user/id");
                self.resumable = id(data, "/session_id");
                let next = text(data, "/resume_gateway_url").map(str::to_owned);
                self.gateway = next.unwrap_or_else(|| self.gateway.clone());
                vec![SessionStep::Established]
            }
            "RESUMED" => vec![SessionStep::Established],
            _ => vec![SessionStep::Accept(event::dispatched(kind, data, self.own.as_deref()))],
        }
    }
}
