//! R01 to R05 and P01 to P08, as the platform.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Heard, Platform, room, words};
use crate::{
    case::{Miss, Verdict, ensure, failed},
    client::Made,
};

/// What every picture of the kit holds.
pub(super) const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\nnot much of a picture";

fn first_part(heard: &Heard) -> &Value {
    &heard.event["data"]["message"]["parts"][0]
}

fn of<'a>(heard: &'a [Heard], kind: &str) -> Vec<&'a Heard> {
    heard.iter().filter(|heard| heard.event["type"] == kind).collect()
}

impl Platform {
    pub(super) async fn rich(&self, id: &str) -> Verdict {
        let room = room(id);
        match id {
            "R01" => self.picture(&room, "good").await,
            "R02" => {
                let before = self.door.renewed.load(Ordering::SeqCst);
                self.picture(&room, "stale").await?;
                let after = self.door.renewed.load(Ordering::SeqCst);
                ensure(before < after, || "no fresh address was asked for".to_owned())
            }
            "R03" => self.button(&room).await,
            "R04" => {
                let list = json!([{
                    "type": "list", "fallback_text": "1) Tea  2) Coffee", "label": "Drinks",
                    "rows": [{ "id": "r1", "label": "Tea" }, { "id": "r2", "label": "Coffee" }],
                }]);
                self.deliver(&self.message(&room, &list)).await?;
                let got = self.mirror(&room, 1).await?;
                let shown = words(&got[0].event);
                let native = first_part(&got[0])["type"] == "list";
                ensure(native || shown.contains("1) Tea"), || format!("shown as {shown:?}"))
            }
            "R05" => {
                let asked = self.say(&room, "Hello").await?;
                let got = self.mirror(&room, 1).await?;
                let reply_to = &got[0].event["data"]["message"]["reply_to"];
                let wanted = &asked.data["message"]["id"];
                ensure(reply_to == wanted, || format!("reply_to is {reply_to} and not {wanted}"))
            }
            "P01" => self.typing(&room).await,
            "P02" => self.receipts(&room).await,
            "P03" => self.edits(&room).await,
            "P04" | "P05" => Err(Miss::Skipped("an adapter offers no event stream".to_owned())),
            "P06" => self.rotation_under_load(&room).await,
            "P07" => {
                let event = self.message(&room, &json!([{ "type": "text", "text": "Hello" }]));
                self.comes_again(&event, &Made::well(&self.config.keys), &room).await
            }
            _ => self.handoff(&room).await,
        }
    }

    async fn picture(&self, room: &str, address: &str) -> Verdict {
        let hash = hex::encode(Sha256::digest(PICTURE));
        let image = json!([{
            "type": "image", "upload_id": "upl_1", "url": format!("{}/media/{address}", self.base),
            "mime": "image/png", "size": PICTURE.len(), "sha256": hash, "alt": "a picture",
        }]);
        self.deliver(&self.message(room, &image)).await?;
        let got = self.mirror(room, 1).await?;
        let part = first_part(&got[0]);
        ensure(part["type"] == "image" && part["sha256"] == hash.as_str(), || {
            format!("shown as {part}")
        })
    }

    async fn button(&self, room: &str) -> Verdict {
        let buttons = json!([{
            "type": "buttons", "fallback_text": "1) Yes",
            "items": [{ "id": "b1", "kind": "postback", "label": "Yes", "value": "yes" }],
        }]);
        let event = self.message(room, &buttons);
        self.deliver(&event).await?;
        let pressed = |all: &[Heard]| !of(all, "button.pressed").is_empty();
        let heard = self.wait(room, "button.pressed", pressed).await?;
        let data = &of(&heard, "button.pressed")[0].event["data"];
        let fits = data["item_id"] == "b1"
            && data["value"] == "yes"
            && data["message_id"] == event.data["message"]["id"];
        ensure(fits, || format!("pressed as {data}"))
    }

    async fn typing(&self, room: &str) -> Verdict {
        let began = Instant::now();
        self.deliver(&self.event(room, "typing.started", json!({ "ttl_s": 5 }))).await?;
        self.say(room, "Hello").await?;
        self.mirror(room, 1).await?;
        let took = began.elapsed();
        ensure(took < Duration::from_secs(4), || {
            format!("typing held the message back for {took:?}")
        })
    }

    async fn receipts(&self, room: &str) -> Verdict {
        self.say(room, "Hello").await?;
        self.mirror(room, 1).await?;
        let order = ["message.sent", "message.delivered", "message.read", "message.failed"];
        let places = || {
            let heard = self.heard(room);
            let kinds = heard.iter().filter_map(|heard| heard.event["type"].as_str());
            kinds
                .filter_map(|kind| order.iter().position(|known| *known == kind))
                .collect::<Vec<_>>()
        };
        // An adapter may report one or none of them: this waits for two and does not insist.
        let until = Instant::now() + Duration::from_secs(5);
        while places().len() < 2 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        let places = places();
        if places.is_empty() {
            return Err(Miss::Skipped("the adapter reports no receipts".to_owned()));
        }
        ensure(places.is_sorted(), || format!("the receipts came as {places:?} of {order:?}"))
    }

    async fn edits(&self, room: &str) -> Verdict {
        let event = self.say(room, "v0").await?;
        self.mirror(room, 1).await?;
        for n in 1..=5 {
            let data = json!({ "message": {
                "id": event.data["message"]["id"], "parts": [{ "type": "text", "text": format!("v{n}") }],
            }});
            self.deliver(&self.event(room, "message.updated", data)).await?;
        }
        let last = |all: &[Heard]| {
            of(all, "message.updated").last().is_some_and(|heard| words(&heard.event) == "v5")
        };
        self.wait(room, "the last edit", last).await?;
        let heard = self.heard(room);
        let times: Vec<_> = of(&heard, "message.updated").iter().map(|heard| heard.at).collect();
        let quick = times
            .windows(2)
            .any(|two| two[1].saturating_duration_since(two[0]) < Duration::from_millis(600));
        ensure(!quick, || "five edits were shown faster than one a second".to_owned())
    }

    async fn handoff(&self, room: &str) -> Verdict {
        self.deliver(&self.event(room, "handoff.requested", json!({ "reason": "asked" }))).await?;
        let back = |all: &[Heard]| !of(all, "handoff.returned").is_empty();
        let heard = self.wait(room, "handoff.accepted and handoff.returned", back).await?;
        let kinds: Vec<_> = heard.iter().filter_map(|heard| heard.event["type"].as_str()).collect();
        if kinds == ["handoff.accepted", "handoff.returned"] {
            return Ok(());
        }
        failed(format!("the adapter reported {kinds:?}"))
    }
}
