//! S01 to S15, as the platform.

use std::{sync::atomic::Ordering, time::Duration};

use qudao_pcp::{Event, Secret};
use serde_json::{Value, json};

use super::{Heard, Plan, Platform, room, words};
use crate::{
    case::{Miss, Verdict, ensure},
    client::{Answer, Made, empty_signature},
};

fn refused(answer: &Answer) -> Verdict {
    let status = answer.status;
    ensure((400..500).contains(&status), || format!("answered with {status} and not refused"))
}

fn taken(answer: &Answer) -> Verdict {
    let status = answer.status;
    ensure(answer.is_yes(), || format!("answered with {status} and not taken"))
}

impl Platform {
    pub(super) async fn security(&self, id: &str) -> Verdict {
        let room = room(id);
        let event = self.message(&room, &json!([{ "type": "text", "text": "Hello" }]));
        let keys = &self.config.keys;
        let well = Made::well(keys);
        let with = async |made: Made| self.send(&event, &made).await;
        match id {
            "S01" => taken(&with(well).await?),
            "S02" => match keys.secrets.get(1) {
                Some(second) => taken(&with(Made::with(second)).await?),
                None => Err(Miss::Skipped("no second secret was given".to_owned())),
            },
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
                let parts = json!([{ "type": "text", "text": "Bye" }]);
                let other = Event { data: self.message(&room, &parts).data, ..event.clone() };
                let answer = self.send(&other, &well).await?;
                ensure(answer.status == 409, || format!("answered with {}", answer.status))
            }
            "S12" => {
                let text = "忙しい שלום مرحبا 👩‍👩‍👧‍👦 e\u{301} \u{202e}rtl";
                self.say(&room, text).await?;
                let got = words(&self.mirror(&room, 1).await?[0].event);
                ensure(got == text, || format!("shown as {got:?}"))
            }
            "S13" => {
                let signature = empty_signature(&event.id, &event.to_bytes());
                refused(&with(Made { signature: Some(signature), ..well }).await?)
            }
            "S14" => self.challenge().await,
            _ => self.redirect(&room).await,
        }
    }

    async fn malformed_list(&self, event: &Event, well: Made) -> Verdict {
        let bad = Some("nocomma ,, v1 v9,AAAA v1,$$$".to_owned());
        refused(&self.send(event, &Made { signature: Some(bad), ..well.clone() }).await?)?;
        let good = well.signer.sign(&event.id, jiff::Timestamp::now(), &event.to_bytes());
        let good = good.map_err(|error| Miss::Failed(error.to_string()))?;
        let mixed = Some(format!("nocomma v9,AAAA {good}"));
        taken(&self.send(event, &Made { signature: Some(mixed), ..well }).await?)
    }

    pub(super) async fn comes_again(&self, event: &Event, made: &Made, room: &str) -> Verdict {
        for _ in 0..4 {
            taken(&self.send(event, made).await?)?;
        }
        taken(&self.send(event, &Made { replay: true, ..made.clone() }).await?)?;
        self.mirror(room, 1).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let count = self.mirror(room, 1).await?.len();
        ensure(count == 1, || format!("it was shown {count} times"))
    }

    pub(super) async fn challenge(&self) -> Verdict {
        let challenge = qudao_pcp::EventId::generate().to_string();
        let verify = self.event("", "endpoint.verify", json!({ "challenge": challenge }));
        let verify = Event { conversation: None, ..verify };
        let answer = self.send(&verify, &Made::well(&self.config.keys)).await?;
        let shown = answer.json()["challenge"] == challenge.as_str();
        ensure(answer.status == 200 && shown, || {
            format!("answered with {} {}", answer.status, answer.json())
        })
    }

    async fn redirect(&self, room: &str) -> Verdict {
        let header = Some(("location", format!("{}/stolen", self.base)));
        self.plan(room, vec![Plan { status: 307, header, ..Plan::default() }]);
        self.say(room, "Hello").await?;
        let again =
            |heard: &[Heard]| 2 <= heard.iter().filter(|h| words(&h.event) == "Hello").count();
        self.wait(room, "the event after a redirect", again).await?;
        let stolen = self.door.stolen.load(Ordering::SeqCst);
        ensure(stolen == 0, || "the redirect was followed".to_owned())
    }

    /// Deliveries signed with a new key as well, which the adapter does not know yet.
    pub(super) async fn rotation_under_load(&self, room: &str) -> Verdict {
        let mut made = Made::well(&self.config.keys);
        made.signer.secrets.insert(0, Secret::generate());
        for n in 0..20 {
            let text = format!("n{n}");
            let event = self.message(room, &json!([{ "type": "text", "text": text }]));
            taken(&self.send(&event, &made).await?)?;
        }
        self.mirror(room, 20).await.map(drop)
    }
}
