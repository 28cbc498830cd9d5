//! A visitor on a WebSocket whose connection breaks at a random moment, and who comes back as the
//! chat page does: with the same token, and with every message again that was not acknowledged.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, time};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::platform::{Platform, Visitor};

/// How long somebody who came back waits for the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long they listen for a second one.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// What a visitor who came back saw of their message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// Whether the first connection lived long enough to hear that the message was accepted.
    pub heard: bool,
    /// How often the message stands in the conversation.
    pub questions: usize,
    /// How many answers.
    pub answers: usize,
}

/// What matters of a frame; hints of what is being written have no role.
#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

/// Sends a message, loses the connection after `patience`, comes back, and looks at what there is.
///
/// # Errors
/// When no node lets the visitor in, or there is no answer in time.
pub async fn leave_and_return(
    platform: &Platform,
    visitor: &Visitor,
    id: &str,
    patience: Duration,
) -> anyhow::Result<Returned> {
    let mut heard = false;
    let first = async {
        let mut chat = Chat::open(platform, visitor).await?;
        chat.send(id).await?;
        while let Some(frame) = chat.hear().await? {
            heard |= frame.kind == "accepted";
            if frame.role.as_deref() == Some("assistant") {
                break;
            }
        }
        anyhow::Ok(())
    };
    // Dropped in the middle of whatever it does: the connection is gone without a word. What it met
    // on the way does not matter, for the visitor comes back.
    let _ = time::timeout(patience, first).await;
    time::timeout(PATIENCE, look(platform, visitor, id, heard))
        .await
        .with_context(|| format!("{id} came back and got no answer"))?
}

async fn look(
    platform: &Platform,
    visitor: &Visitor,
    id: &str,
    heard: bool,
) -> anyhow::Result<Returned> {
    let mut chat = Chat::open(platform, visitor).await?;
    let mut returned = Returned { heard, questions: 0, answers: 0 };
    let mut sent = false;
    loop {
        let frame = match time::timeout(AFTERWARDS, chat.hear()).await {
            Ok(frame) => frame?.context("sent away")?,
            Err(_) if 0 < returned.answers => return Ok(returned),
            Err(_) => continue,
        };
        match (frame.kind.as_str(), frame.role.as_deref()) {
            ("ready", _) if !sent => {
                chat.send(id).await?;
                sent = true;
            }
            ("message", Some("user")) if frame.client_id.as_deref() == Some(id) => {
                returned.questions += 1;
            }
            ("message", Some("assistant" | "notice")) => returned.answers += 1,
            ("error", _) => bail!("the chat refuses: {:?}", frame.detail),
            _ => {}
        }
    }
}

struct Chat {
    socket: WebSocketStream<TcpStream>,
}

impl Chat {
    async fn open(platform: &Platform, visitor: &Visitor) -> anyhow::Result<Self> {
        let door = platform.door().context("a node that serves")?;
        let stream = TcpStream::connect(door).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://{door}/v1/web/{}/socket", visitor.public_key());
        let (mut socket, _) = client_async(url, stream).await?;
        let hello = json!({ "type": "hello", "token": visitor.token() });
        socket.send(Message::text(hello.to_string())).await?;
        Ok(Self { socket })
    }

    async fn send(&mut self, id: &str) -> anyhow::Result<()> {
        let frame = json!({ "type": "send", "id": id, "text": "hello and goodbye" });
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }

    /// The next frame; `None` when the other side ended the connection.
    async fn hear(&mut self) -> anyhow::Result<Option<Frame>> {
        while let Some(message) = self.socket.next().await {
            if let Message::Text(text) = message? {
                return Ok(Some(serde_json::from_str(&text)?));
            }
        }
        Ok(None)
    }
}
