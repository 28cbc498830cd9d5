//! A person on the web chat, over a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::platform::Platform;

/// How long a person waits for anything.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Visitor {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What the browser keeps.
    pub(crate) token: String,
    /// The last position that was told.
    pub(crate) cursor: String,
    base: String,
    channel_key: String,
}

impl Visitor {
    /// Opens the chat page's session and its socket.
    pub(crate) async fn arrive(platform: &Platform) -> Self {
        let channel_key = platform.text("chat_url").rsplit('/').next().unwrap().to_owned();
        let path = format!("/v1/web/{channel_key}/session");
        let (status, session) = platform.send(Method::POST, &path, "", &[], None).await;
        assert!(status.is_success(), "{status} {session}");
        let token = session["token"].as_str().unwrap().to_owned();
        Self::connect(platform.text("base_url"), &channel_key, token, String::new()).await
    }

    /// A socket for a visitor who is known already.
    pub(crate) async fn connect(
        base: &str,
        channel_key: &str,
        token: String,
        cursor: String,
    ) -> Self {
        Self::try_connect(base, channel_key, token, cursor).await.expect("the door is open")
    }

    /// The same at a node that may be on its way out.
    pub(crate) async fn try_connect(
        base: &str,
        channel_key: &str,
        token: String,
        cursor: String,
    ) -> Option<Self> {
        let url = format!("{}/v1/web/{channel_key}/socket", base.replacen("http", "ws", 1));
        let (socket, _) = connect_async(url).await.ok()?;
        let (base, channel_key) = (base.to_owned(), channel_key.to_owned());
        let mut visitor = Self { socket, token, cursor, base, channel_key };
        let hello = json!({ "type": "hello", "token": visitor.token, "after": visitor.cursor });
        visitor.try_write(hello).await.then_some(visitor)
    }

    /// Closes the socket without a word and opens another, at a node of one's choice.
    pub(crate) async fn reconnect(self, base: Option<&str>) -> Self {
        let base = base.unwrap_or(&self.base).to_owned();
        Self::connect(&base, &self.channel_key, self.token, self.cursor).await
    }

    pub(crate) async fn write(&mut self, frame: Value) {
        assert!(self.try_write(frame).await, "the socket was closed");
    }

    /// Whether the socket took it; not whether it arrived.
    pub(crate) async fn try_write(&mut self, frame: Value) -> bool {
        self.socket.send(Message::text(frame.to_string())).await.is_ok()
    }

    pub(crate) async fn say(&mut self, id: &str, text: &str) {
        self.write(json!({ "type": "send", "id": id, "text": text })).await;
    }

    /// The next frame, whatever it is.
    pub(crate) async fn read(&mut self) -> Value {
        self.try_read().await.expect("the socket was closed")
    }

    /// The next frame, or nothing when the socket is closed.
    pub(crate) async fn try_read(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let message = message.expect("nothing came in time")?;
            match message.ok()? {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if let Some(cursor) = frame["cursor"].as_str() {
                        self.cursor = cursor.to_owned();
                    }
                    return Some(frame);
                }
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// The next frame of a type, those before it dropped.
    pub(crate) async fn read_until(&mut self, wanted: &str) -> Value {
        loop {
            let frame = self.read().await;
            if frame["type"] == wanted {
                return frame;
            }
        }
    }

    /// The next message of the assistant or the platform.
    pub(crate) async fn reply(&mut self) -> Value {
        loop {
            let frame = self.read_until("message").await;
            if frame["role"] != "user" {
                return frame;
            }
        }
    }
}
