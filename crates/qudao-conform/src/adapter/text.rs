//! T01 to T12, as the platform.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use qudao_pcp::Event;
use serde_json::json;

use super::{Heard, Plan, Platform, room, words};
use crate::case::{Verdict, ensure};

fn answering(status: u16) -> Plan {
    Plan { status, ..Plan::default() }
}

fn said<'a>(heard: &'a [Heard], text: &str) -> Vec<&'a Heard> {
    heard.iter().filter(|heard| words(&heard.event) == text).collect()
}

impl Platform {
    pub(super) async fn text(&self, id: &str) -> Verdict {
        let room = room(id);
        match id {
            "T01" => {
                self.say(&room, "Order 17 leaves today.").await?;
                let got = words(&self.mirror(&room, 1).await?[0].event);
                ensure(got == "Order 17 leaves today.", || format!("shown as {got:?}"))
            }
            "T02" => {
                let text = "🙂a".repeat(1365);
                self.say(&room, &text).await?;
                let got = words(&self.mirror(&room, 1).await?[0].event);
                ensure(got == text, || {
                    format!("of 4095 units {} are shown", got.encode_utf16().count())
                })
            }
            "T03" => self.order(&room).await,
            "T04" => self.lanes(&room).await,
            "T05" => self.again(&room, answering(500), Duration::ZERO).await,
            "T06" => {
                let delay = self.config.silence;
                self.again(&room, Plan { status: 202, delay, ..Plan::default() }, Duration::ZERO)
                    .await
            }
            "T07" => {
                let header = Some(("retry-after", "2".to_owned()));
                self.again(&room, Plan { header, ..answering(429) }, Duration::from_millis(1900))
                    .await
            }
            "T08" => {
                self.plan(&room, vec![answering(422)]);
                self.say(&room, "poison").await?;
                self.say(&room, "well").await?;
                self.wait(&room, "the next message", |all| !said(all, "well").is_empty()).await?;
                tokio::time::sleep(Duration::from_millis(1500)).await;
                let count = said(&self.heard(&room), "poison").len();
                ensure(count == 1, || format!("what was refused came {count} times"))
            }
            "T09" => {
                let unknown = self.event(&room, "weather.changed", json!({ "sky": "blue" }));
                self.deliver(&unknown).await
            }
            "T10" => {
                let part = json!([{ "type": "hologram", "fallback_text": "a dancing cat" }]);
                self.deliver(&self.message(&room, &part)).await?;
                let got = words(&self.mirror(&room, 1).await?[0].event);
                ensure(got == "a dancing cat", || format!("shown as {got:?}"))
            }
            "T11" => self.expired(&room).await,
            _ => self.gone(&room).await,
        }
    }

    async fn order(&self, room: &str) -> Verdict {
        for n in 1..=50 {
            self.say(room, &format!("n{n}")).await?;
        }
        let got = self.mirror(room, 50).await?;
        let wrong =
            got.iter().enumerate().find(|(at, one)| words(&one.event) != format!("n{}", at + 1));
        ensure(wrong.is_none(), || {
            let (at, one) = wrong.map_or((0, String::new()), |(at, one)| (at, words(&one.event)));
            format!("in the place of n{} is shown {one:?}", at + 1)
        })
    }

    async fn lanes(&self, slow: &str) -> Verdict {
        let fast = room("T04");
        let delay = Duration::from_millis(1500);
        self.plan(slow, vec![Plan { status: 202, delay, ..Plan::default() }]);
        self.say(slow, "slow").await?;
        let one = self.mirror(slow, 1).await?;
        self.say(&fast, "fast").await?;
        let other = self.mirror(&fast, 1).await?;
        let between = other[0].at.saturating_duration_since(one[0].at);
        ensure(between < delay, || "the fast one waited for the slow one".to_owned())
    }

    async fn again(&self, room: &str, plan: Plan, wait: Duration) -> Verdict {
        self.plan(room, vec![plan]);
        self.say(room, "Hello").await?;
        let heard =
            self.wait(room, "a second attempt", |all| 2 <= said(all, "Hello").len()).await?;
        let tries = said(&heard, "Hello");
        ensure(tries[0].id == tries[1].id, || "it came again under another id".to_owned())?;
        ensure(tries.iter().all(|one| one.verified), || "it was not signed anew".to_owned())?;
        let between = tries[1].at.saturating_duration_since(tries[0].at);
        ensure(wait <= between, || format!("it came again after {between:?}"))?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let count = said(&self.heard(room), "Hello").len();
        ensure(count == 2, || format!("it came {count} times"))
    }

    async fn expired(&self, room: &str) -> Verdict {
        let part = json!([{ "type": "text", "text": "too late" }]);
        let past = Timestamp::now().saturating_sub(SignedDuration::from_secs(5)).ok();
        self.deliver(&Event { expires_at: past, ..self.message(room, &part) }).await?;
        self.say(room, "in time").await?;
        let heard =
            self.wait(room, "the message after it", |all| !said(all, "in time").is_empty()).await?;
        ensure(said(&heard, "too late").is_empty(), || "it was shown".to_owned())
    }

    async fn gone(&self, room: &str) -> Verdict {
        self.plan(room, vec![answering(410)]);
        self.say(room, "one").await?;
        self.wait(room, "the first message", |all| !said(all, "one").is_empty()).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.say(room, "two").await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let count = self.heard(room).iter().filter(|one| !words(&one.event).is_empty()).count();
        // Whoever is asked to show its endpoint may report again.
        self.challenge().await?;
        ensure(count == 1, || format!("{count} messages came, all but one after a 410"))
    }
}
