//! S01 to S15, as a partner.

use std::{sync::atomic::Ordering, time::Duration};

use qudao_pcp::{Event, Secret};
use serde_json::{Value, json};

use super::{Partner, Plan, message, room, words};
use crate::{
    case::{Miss, Verdict, ensure, failed},
    client::{Answer, Made, empty_signature},
};

fn refused(answer: &Answer) -> Verdict {
    let status = answer.status;
    ensure((400..500).contains(&status), || format!("answered with {status} and not refused"))
}

fn taken(answer: &Answer) -> Verdict {
    let status = answer.status;
    ensure(answer.is_yes(), || format!("answered with {status} {}", answer.json()))
}

impl Partner {
    pub(super) async fn security(&self, id: &str) -> Verdict {
        let room = room(id);
        let event = message(&room, "Hello");
        let keys = self.keys();
        let well = Made::well(&keys);
        let with = async |made: Made| self.report(&event, &made, "").await;
        match id {
            "S01" => taken(&with(well).await?),
            "S02" => self.second_secret(&event, &room).await,
            "S03" => taken(&with(Made::with_pair(&keys.private)).await?),
            "S04" => {
                let body = String::from_utf8_lossy(&event.to_bytes()).replace("Hello", "Hellp");
                refused(&with(Made { body: Some(body.into_bytes()), ..well }).await?)
            }
            "S05" => {
                let value: Value = serde_json::from_slice(&event.to_bytes()).unwrap_or_default();
                let body = serde_json::to_vec_pretty(&value).unwrap_or_default();
                refused(&with(Made { body: Some(body), ..well }).await?)
            }
            "S06" => refused(&with(Made { skew: -302, ..well }).await?),
            "S07" => refused(&with(Made { skew: 360, ..well }).await?),
            "S08" => refused(&with(Made { signature: Some(None), ..well }).await?),
            "S09" => self.malformed_list(&event, well).await,
            "S10" => self.comes_again(&event, &well, &room).await,
            "S11" => {
                taken(&with(well.clone()).await?)?;
                let other = Event { data: message(&room, "Bye").data, ..event.clone() };
                let answer = self.report(&other, &well, "").await?;
                ensure(answer.status == 409, || format!("answered with {}", answer.status))
            }
            "S12" => self.every_script(&room).await,
            "S13" => {
                let signature = empty_signature(&event.id, &event.to_bytes());
                refused(&with(Made { signature: Some(signature), ..well }).await?)
            }
            "S14" => self.challenge().await,
            _ => self.redirect(&room).await,
        }
    }

    async fn rotate(&self) -> Result<Secret, Miss> {
        let rotated = self.ask("POST", "keys:rotate", None).await?;
        taken(&rotated)?;
        let json = rotated.json();
        let secret = Secret::parse(json["secret"].as_str().unwrap_or_default());
        let Ok(secret) = secret else { return failed("keys:rotate shows no secret") };
        self.endpoint.know(&secret);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        Ok(secret)
    }

    async fn second_secret(&self, event: &Event, room: &str) -> Verdict {
        let old = self.keys().secrets.first().cloned();
        let new = self.rotate().await?;
        let Some(old) = old else { return failed("no secret is known") };
        taken(&self.report(event, &Made::with(&old), "").await?)?;
        taken(&self.report(&message(room, "new"), &Made::with(&new), "").await?)
    }

    async fn malformed_list(&self, event: &Event, well: Made) -> Verdict {
        let bad = Some("nocomma ,, v1 v9,AAAA v1,$$$".to_owned());
        refused(&self.report(event, &Made { signature: Some(bad), ..well.clone() }, "").await?)?;
        let now = jiff::Timestamp::now();
        let good = well.signer.sign(&event.id, now, &event.to_bytes());
        let good = good.map_err(|error| Miss::Failed(error.to_string()))?;
        let mixed = Some(format!("nocomma v9,AAAA {good}"));
        taken(&self.report(event, &Made { signature: Some(mixed), ..well }, "").await?)
    }

    async fn comes_again(&self, event: &Event, well: &Made, room: &str) -> Verdict {
        let first = self.report(event, well, "").await?;
        taken(&first)?;
        for _ in 0..4 {
            let again = self.report(event, well, "").await?;
            let json = again.json();
            ensure(again.status == 200 && json["duplicate"] == true, || {
                format!("the second time it was answered with {} {json}", again.status)
            })?;
            ensure(json["message_id"] == first.json()["message_id"], || {
                "the second time it has another id".to_owned()
            })?;
        }
        self.messages(room, 1).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let count = self.messages(room, 1).await?.len();
        ensure(count == 1, || format!("it was answered {count} times"))
    }

    async fn every_script(&self, room: &str) -> Verdict {
        let text = "忙しい שלום مرحبا 👩‍👩‍👧‍👦 e\u{301} \u{202e}rtl";
        self.say(room, text).await?;
        let got = words(&self.messages(room, 1).await?[0].event);
        ensure(got == text, || format!("came back as {got:?}"))
    }

    async fn challenge(&self) -> Verdict {
        self.endpoint.lies.store(true, Ordering::SeqCst);
        let lied = self.ask("POST", "endpoint:verify", None).await;
        self.endpoint.lies.store(false, Ordering::SeqCst);
        let lied = lied?;
        ensure(!lied.is_yes(), || "an endpoint that lies is verified".to_owned())?;
        taken(&self.ask("POST", "endpoint:verify", None).await?)
    }

    async fn redirect(&self, room: &str) -> Verdict {
        let target = self.url.replace("/pcp", "/stolen");
        let header = Some(("location", target));
        self.plan(room, vec![Plan { status: 307, header, ..Plan::default() }]);
        self.say(room, "Hello").await?;
        let again =
            |got: &[super::Got]| 2 <= got.iter().filter(|g| g.event["seq"].is_i64()).count();
        self.wait(room, "the event after a redirect", again).await?;
        let stolen = self.endpoint.stolen.load(Ordering::SeqCst);
        ensure(stolen == 0, || "the redirect was followed".to_owned())
    }

    /// A rotation while events come in, and go out.
    pub(super) async fn rotation_under_load(&self, room: &str) -> Verdict {
        let old = Made::well(&self.keys());
        let events: Vec<_> = (0..20).map(|n| message(room, &format!("n{n}"))).collect();
        let load = async {
            for event in &events {
                let answer = self.report(event, &old, "").await?;
                taken(&answer)?;
            }
            Ok::<_, Miss>(())
        };
        let (loaded, rotated) = tokio::join!(load, self.rotate());
        loaded?;
        let new = rotated?;
        for n in 20..25 {
            let event = message(room, &format!("n{n}"));
            taken(&self.report(&event, &Made::with(&new), "").await?)?;
        }
        self.messages(room, 25).await?;
        let unverified = self.got(room).iter().filter(|got| !got.verified).count();
        ensure(unverified == 0, || format!("{unverified} deliveries could not be verified"))
    }

    /// Over and back.
    pub(super) async fn handoff(&self, room: &str) -> Verdict {
        let made = Made::well(&self.keys());
        let tell = async |kind: &str| {
            taken(&self.report(&super::event(room, kind, json!({})), &made, "").await?)
        };
        self.say(room, "before").await?;
        self.messages(room, 1).await?;
        tell("handoff.accepted").await?;
        self.say(room, "a person answers this").await?;
        tell("handoff.returned").await?;
        self.say(room, "after").await?;
        let all: Vec<_> =
            self.messages(room, 2).await?.iter().map(|got| words(&got.event)).collect();
        ensure(all == ["before", "after"], || format!("the assistant said {all:?}"))
    }
}
