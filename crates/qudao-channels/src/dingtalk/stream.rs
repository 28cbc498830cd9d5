//! DingTalk's stream mode, without the socket: messages come over a connection that is opened from
//! here, so a robot needs no public address. There is no session to go on with: each connection takes a
//! ticket of its own, and what was not acknowledged is DingTalk's to send again.

use std::time::Duration;

use jiff::Timestamp;
use qudao_core::channel::{
    config::ChannelConfig,
    event::EventBody,
    plan::{HttpPlan, RawResponse},
    session::{ChannelSession, OpenError, SessionFrame, SessionStep},
};
use serde_json::{Value, json};

use super::{api, read, robot};
use crate::lenient::{some_text, text};

/// What a robot is told.
const MESSAGES: &str = "/v1.0/im/bot/messages/get";
/// After so long without a word the connection is taken for dead. DingTalk pings more often.
const SILENCE: Duration = Duration::from_secs(300);
/// Before another connection after one that DingTalk ends, as it does from time to time.
const AGAIN: Duration = Duration::from_secs(1);

/// Whether a channel's settings ask for it.
pub(super) fn is_chosen(config: &ChannelConfig) -> bool {
    config.setting("receive") == Some("stream")
}

/// The request for a place at the gateway and a ticket that opens it once.
pub(super) fn locate(config: &ChannelConfig) -> Option<HttpPlan> {
    let body = json!({
        "clientId": config.setting("app_key")?, "clientSecret": config.secret("app_secret").ok()?,
        "subscriptions": [{ "type": "CALLBACK", "topic": MESSAGES }], "ua": "qudao",
    });
    Some(HttpPlan::post_json("stream", api(config, "gateway/connections/open"), &body))
}

pub(super) fn open(
    config: &ChannelConfig,
    located: Option<&RawResponse>,
) -> Result<Box<dyn ChannelSession>, OpenError> {
    let located = located.ok_or(OpenError::Unlocated)?;
    let body = located.json();
    let place = some_text(&body, "/endpoint").zip(some_text(&body, "/ticket"));
    let Some((endpoint, ticket)) = place else {
        let said = located.excerpt();
        return Err(match located.status {
            400 | 401 | 403 => OpenError::Refused(format!(
                "DingTalk opens no stream for this Client ID and secret: {said}"
            )),
            _ => OpenError::Later(format!("DingTalk opens no stream: {said}")),
        });
    };
    let ticket: String = url::form_urlencoded::byte_serialize(ticket.as_bytes()).collect();
    Ok(Box::new(Stream {
        address: format!("{endpoint}?ticket={ticket}"),
        robot: robot(config).unwrap_or_default().to_owned(),
        is_established: false,
        is_quiet: false,
    }))
}

struct Stream {
    address: String,
    robot: String,
    is_established: bool,
    /// Nothing was heard since the last look.
    is_quiet: bool,
}

impl ChannelSession for Stream {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn on_frame(&mut self, frame: &SessionFrame, _now: Timestamp) -> Vec<SessionStep> {
        let SessionFrame::Text(words) = frame else { return Vec::new() };
        let Ok(frame) = serde_json::from_str::<Value>(words) else { return Vec::new() };
        self.is_quiet = false;
        let mut steps = Vec::new();
        if !self.is_established {
            self.is_established = true;
            steps.extend([SessionStep::Established, SessionStep::Wake(SILENCE)]);
        }
        let (kind, topic) = (text(&frame, "/type"), text(&frame, "/headers/topic"));
        let data = text(&frame, "/data");
        match (kind.as_str(), topic.as_str()) {
            ("SYSTEM", "ping") => steps.push(answer(&frame, &data)),
            ("SYSTEM", "disconnect") => steps.push(SessionStep::Reconnect(AGAIN)),
            ("CALLBACK", MESSAGES) => {
                steps.extend(self.said(&data));
                // Only now: what is acknowledged does not come again.
                steps.push(answer(&frame, r#"{"response":null}"#));
            }
            // Nobody asked for it, and it would come again.
            ("CALLBACK" | "EVENT", _) => steps.push(answer(&frame, r#"{"status":"SUCCESS"}"#)),
            _ => {}
        }
        steps
    }

    fn on_timer(&mut self, _now: Timestamp) -> Vec<SessionStep> {
        if self.is_quiet {
            return vec![SessionStep::Reconnect(Duration::ZERO)];
        }
        self.is_quiet = true;
        vec![SessionStep::Wake(SILENCE)]
    }
}

impl Stream {
    fn said(&self, data: &str) -> Option<SessionStep> {
        let body = serde_json::from_str::<Value>(data).ok().filter(Value::is_object)?;
        let code = some_text(&body, "/robotCode");
        let of_another = code.is_some_and(|code| code != self.robot && code != "normal");
        let mut event = read::event(body)?;
        if of_another {
            event.body = EventBody::Unknown { kind: "message_of_another_robot".to_owned() };
        }
        Some(SessionStep::Accept(vec![event]))
    }
}

/// The acknowledgement of a frame.
fn answer(frame: &Value, data: &str) -> SessionStep {
    let id = text(frame, "/headers/messageId");
    let answer = json!({ "code": 200, "message": "OK", "data": data,
        "headers": { "messageId": id, "contentType": "application/json" } });
    SessionStep::Send(SessionFrame::Text(answer.to_string()))
}
