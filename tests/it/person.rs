//! A person whose browser reconnects and repeats itself, as the chat page does.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{platform::Platform, visitor::Visitor};

/// Where people knock: the present addresses of the nodes for clients.
pub(crate) type Doors = Arc<Mutex<Vec<String>>>;

/// A person whose browser reconnects, as the chat page does.
pub(crate) struct Person {
    doors: Doors,
    visitor: Visitor,
    key: String,
    /// Words that were seen while they were written.
    pub(crate) previews: usize,
}

impl Person {
    pub(crate) async fn arrive(api: &Platform, doors: &Doors) -> Self {
        let visitor = Visitor::arrive(api).await;
        let key = api.text("chat_url").rsplit('/').next().unwrap().to_owned();
        Self { doors: Arc::clone(doors), visitor, key, previews: 0 }
    }

    async fn reconnect(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for knock in 0.. {
            assert!(Instant::now() < deadline, "every door stays closed");
            let door = {
                let doors = self.doors.lock().unwrap();
                doors[knock % doors.len()].clone()
            };
            let (token, cursor) = (self.visitor.token.clone(), self.visitor.cursor.clone());
            if let Some(visitor) = Visitor::try_connect(&door, &self.key, token, cursor).await {
                self.visitor = visitor;
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Says something and waits for its answer; says it again where the socket was lost before
    /// it was accepted. Every reply that came on the way.
    pub(crate) async fn talk(&mut self, id: &str, text: &str) -> Vec<String> {
        let frame = json!({ "type": "send", "id": id, "text": text });
        let (mut accepted, mut replies) = (false, Vec::new());
        self.visitor.try_write(frame.clone()).await;
        loop {
            let Some(heard) = self.visitor.try_read().await else {
                self.reconnect().await;
                if !accepted {
                    self.visitor.try_write(frame.clone()).await;
                }
                continue;
            };
            match heard["type"].as_str() {
                Some("accepted") => accepted = true,
                Some("delta") => self.previews += 1,
                // The database may be away for a moment.
                Some("error") if !accepted => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    self.visitor.try_write(frame.clone()).await;
                }
                Some("message") if heard["role"] == "assistant" => {
                    let said = heard["text"].as_str().unwrap().to_owned();
                    let done = said == text;
                    replies.push(said);
                    if done {
                        return replies;
                    }
                }
                _ => {}
            }
        }
    }
}
