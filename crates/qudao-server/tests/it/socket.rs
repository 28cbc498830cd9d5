//! A browser tab with a WebSocket.

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::{http::PATIENCE, world::World};

pub(crate) struct Tab {
    socket: WebSocketStream<TcpStream>,
    /// What the page keeps for its next connection.
    pub(crate) cursor: String,
    /// What was streamed, by turn: pieces in their places, as the page does it.
    typed: BTreeMap<String, String>,
}

impl Tab {
    /// Opens the socket and says hello.
    pub(crate) async fn open(world: &World, channel: &str, token: &str, after: &str) -> Self {
        let connection = TcpStream::connect(world.addr()).await.unwrap();
        let url = format!("ws://{}/v1/web/{channel}/socket", world.addr());
        let (socket, _) = client_async(url, connection).await.unwrap();
        let mut tab = Self { socket, cursor: after.to_owned(), typed: BTreeMap::new() };
        tab.write(&json!({ "type": "hello", "token": token, "after": after })).await;
        tab
    }

    pub(crate) async fn write(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub(crate) async fn say(&mut self, id: &str, text: &str) {
        self.write(&json!({ "type": "send", "id": id, "text": text })).await;
    }

    /// The next frame; the code of the close is an `Err`.
    pub(crate) async fn next(&mut self) -> Result<Value, Option<CloseCode>> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    self.note(&frame);
                    return Ok(frame);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    fn note(&mut self, frame: &Value) {
        if let Some(cursor) = frame["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
        if frame["type"] == "delta" {
            let typed = self.typed.entry(frame["turn"].as_str().unwrap().to_owned()).or_default();
            let offset = usize::try_from(frame["offset"].as_u64().unwrap()).unwrap();
            // The tests write in ASCII, where UTF-16 code units are bytes.
            assert!(offset <= typed.len(), "a hole before {frame}");
            let fresh = frame["text"].as_str().unwrap().get(typed.len() - offset..);
            typed.push_str(fresh.unwrap_or_default());
        }
    }

    /// The next frame of this type, whatever comes before it.
    pub(crate) async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await.expect("an open socket");
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// What becomes of a message that was sent: `accepted` or `error`.
    pub(crate) async fn receipt(&mut self) -> Value {
        loop {
            let frame = self.next().await.expect("an open socket");
            if frame["type"] == "accepted" || frame["type"] == "error" {
                return frame;
            }
        }
    }

    /// The next message of the assistant.
    pub(crate) async fn reply(&mut self) -> Value {
        loop {
            let message = self.until("message").await;
            if message["role"] == "assistant" {
                return message;
            }
        }
    }

    /// Waits until this much of an answer was streamed.
    pub(crate) async fn typed(&mut self, text: &str) {
        while !self.typed.values().any(|typed| typed == text) {
            self.until("delta").await;
        }
    }

    /// What was streamed of this turn.
    pub(crate) fn streamed(&self, turn: &Value) -> &str {
        self.typed.get(turn.as_str().unwrap()).map_or("", String::as_str)
    }
}
