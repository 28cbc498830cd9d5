//! T01 to T12, as a partner.

use std::time::Duration;

use serde_json::json;

use super::{Got, Partner, Plan, event, parts, room, words};
use crate::{
    case::{Verdict, ensure, failed},
    client::Made,
};

fn answering(status: u16) -> Plan {
    Plan { status, ..Plan::default() }
}

fn numbered(got: &[Got]) -> Vec<&Got> {
    got.iter().filter(|got| got.event["seq"].is_i64()).collect()
}

impl Partner {
    pub(super) async fn text(&self, id: &str) -> Verdict {
        let room = room(id);
        match id {
            "T01" => {
                self.say(&room, "Where is order 17?").await?;
                let got = words(&self.messages(&room, 1).await?[0].event);
                ensure(got == "Where is order 17?", || format!("came back as {got:?}"))
            }
            "T02" => self.split(&room).await,
            "T03" => self.order(&room).await,
            "T04" => self.lanes(&room).await,
            "T05" => self.again(&room, answering(500), Duration::ZERO).await,
            "T06" => {
                let delay = self.config.silence;
                self.again(&room, Plan { status: 200, delay, ..Plan::default() }, Duration::ZERO)
                    .await
            }
            "T07" => {
                let header = Some(("retry-after", "2".to_owned()));
                let plan = Plan { header, ..answering(429) };
                self.again(&room, plan, Duration::from_millis(1900)).await
            }
            "T08" => self.poison(&room).await,
            "T09" => {
                let unknown = event(&room, "weather.changed", json!({ "sky": "blue" }));
                let made = Made::well(&self.keys());
                let answer = self.report(&unknown, &made, "").await?;
                ensure(answer.is_yes(), || format!("answered with {}", answer.status))
            }
            "T10" => {
                let unknown = json!([{ "type": "hologram", "fallback_text": "a dancing cat" }]);
                let made = Made::well(&self.keys());
                let answer = self.report(&parts(&room, &unknown), &made, "").await?;
                ensure(answer.is_yes(), || format!("answered with {}", answer.status))?;
                let got = words(&self.messages(&room, 1).await?[0].event);
                ensure(got == "a dancing cat", || format!("came back as {got:?}"))
            }
            "T11" => self.expired(&room).await,
            _ => self.gone(&room).await,
        }
    }

    async fn split(&self, room: &str) -> Verdict {
        self.say(room, "!big").await?;
        let last = |got: &[Got]| got.iter().any(|g| g.event["data"]["turn"]["final"] == true);
        self.wait(room, "the last piece", last).await?;
        let pieces = self.messages(room, 2).await?;
        for piece in &pieces {
            let length = words(&piece.event).encode_utf16().count();
            ensure((1..=200).contains(&length), || format!("a piece has {length} units of 200"))?;
        }
        let text: Vec<_> = pieces.iter().map(|piece| words(&piece.event)).collect();
        let text = text.join(" ");
        let numbers: Vec<u32> =
            text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let whole =
            numbers.windows(2).all(|two| two[0] + 1 == two[1]) && numbers.first() == Some(&1);
        ensure(whole && 2 < pieces.len(), || format!("the pieces are not the whole: {text:?}"))
    }

    async fn order(&self, room: &str) -> Verdict {
        for n in 1..=50 {
            self.say(room, &format!("n{n}")).await?;
        }
        let got = self.messages(room, 50).await?;
        for (at, one) in got.iter().enumerate() {
            let (text, seq) = (words(&one.event), one.event["seq"].as_u64());
            let wanted = at + 1;
            ensure(text == format!("n{wanted}") && seq == u64::try_from(wanted).ok(), || {
                format!("in the place of number {wanted} came {text:?} with seq {seq:?}")
            })?;
        }
        Ok(())
    }

    async fn lanes(&self, slow: &str) -> Verdict {
        let fast = room("T04");
        let delay = Duration::from_secs(3);
        self.plan(slow, vec![Plan { status: 200, delay, ..Plan::default() }]);
        self.say(slow, "slow").await?;
        self.messages(slow, 1).await?;
        self.say(&fast, "fast").await?;
        let (one, other) = (self.messages(slow, 1).await?, self.messages(&fast, 1).await?);
        let between = other[0].at.saturating_duration_since(one[0].at);
        ensure(between < delay, || "the fast one waited for the slow one".to_owned())
    }

    /// After this answer it comes again, with the same id, not before `wait`.
    async fn again(&self, room: &str, plan: Plan, wait: Duration) -> Verdict {
        self.plan(room, vec![plan]);
        self.say(room, "Hello").await?;
        let got = self.wait(room, "a second attempt", |got| 2 <= numbered(got).len()).await?;
        let tries = numbered(&got);
        ensure(tries[0].id == tries[1].id, || "it came again under another id".to_owned())?;
        ensure(tries.iter().all(|one| one.verified), || "it was not signed anew".to_owned())?;
        let between = tries[1].at.saturating_duration_since(tries[0].at);
        ensure(wait <= between, || format!("it came again after {between:?}"))?;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let count = numbered(&self.got(room)).len();
        ensure(count == 2, || format!("it came {count} times"))
    }

    async fn poison(&self, room: &str) -> Verdict {
        self.plan(room, vec![answering(422)]);
        self.say(room, "poison").await?;
        self.say(room, "well").await?;
        let gap = |got: &[Got]| got.iter().any(|got| got.event["type"] == "delivery.gap");
        let well = |got: &[Got]| got.iter().any(|got| words(&got.event) == "well");
        self.wait(room, "word of the gap, and the next message", |got| gap(got) && well(got))
            .await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let got = self.got(room);
        let count = got.iter().filter(|got| words(&got.event) == "poison").count();
        ensure(count == 1, || format!("what was refused came {count} times"))
    }

    async fn expired(&self, room: &str) -> Verdict {
        self.say(room, "!expire").await?;
        self.say(room, "after").await?;
        let after = |got: &[Got]| got.iter().any(|got| words(&got.event) == "after");
        let got = self.wait(room, "the message after it", after).await?;
        let shown = got.iter().any(|got| words(&got.event).contains("never be shown"));
        ensure(!shown, || "it was delivered".to_owned())
    }

    async fn gone(&self, room: &str) -> Verdict {
        self.plan(room, vec![answering(410)]);
        self.say(room, "one").await?;
        self.wait(room, "the first message", |got| !numbered(got).is_empty()).await?;
        self.say(room, "two").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let count = numbered(&self.got(room)).len();
        let verified = self.ask("POST", "endpoint:verify", None).await?;
        ensure(count == 1, || format!("{count} messages came, all but one after a 410"))?;
        if !verified.is_yes() {
            return failed("the endpoint cannot be verified again");
        }
        self.messages(room, 2).await.map(drop)
    }
}
