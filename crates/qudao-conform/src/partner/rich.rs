//! R01 to R05 and P01 to P08, as a partner.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use super::{Got, Partner, Plan, event, message, parts, room, words};
use crate::{
    case::{Miss, Verdict, ensure, failed},
    client::{Made, answer},
};

/// A red dot, as PNG.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde\x00\x00\x00\x0cIDATx\x9cc\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xc9\xfe\x92\xef\x00\x00\x00\x00IEND\xaeB`\x82";

/// An event of a stream: its id, its kind and its data.
type Frame = (String, String, Value);

fn first_part(got: &Got) -> &Value {
    &got.event["data"]["message"]["parts"][0]
}

impl Partner {
    pub(super) async fn rich(&self, id: &str) -> Verdict {
        let room = room(id);
        match id {
            "R01" => self.picture(&room).await,
            "R02" => self.expired_address(&room).await,
            "R03" => self.button(&room).await,
            "R04" => {
                self.say(&room, "!list").await?;
                let got = self.messages(&room, 1).await?;
                let text = words(&got[0].event);
                ensure(first_part(&got[0])["type"] == "text" && text.contains("1) Tea"), || {
                    format!("came as {}", first_part(&got[0]))
                })
            }
            "R05" => {
                let asked = self.say(&room, "Hello").await?;
                let got = self.messages(&room, 1).await?;
                let reply_to = &got[0].event["data"]["message"]["reply_to"];
                let wanted = &asked.data["message"]["external_id"];
                ensure(reply_to == wanted, || format!("reply_to is {reply_to} and not {wanted}"))
            }
            "P01" => self.typing(&room).await,
            "P02" => self.receipts(&room).await,
            "P03" => self.edits(&room).await,
            "P04" => self.resume(&room).await,
            "P05" => self.growth(&room).await,
            "P06" => self.rotation_under_load(&room).await,
            "P07" => self.replay(&room).await,
            _ => self.handoff(&room).await,
        }
    }

    async fn picture(&self, room: &str) -> Verdict {
        let part = reqwest::multipart::Part::bytes(PICTURE.to_vec()).file_name("dot.png");
        let part = part.mime_str("image/png").map_err(|error| Miss::Failed(error.to_string()))?;
        let form = reqwest::multipart::Form::new().part("file", part);
        let request = self.client.post(self.path("media")).bearer_auth(&self.config.keys.bearer);
        let uploaded = answer(request.multipart(form)).await?;
        let upload = uploaded.json();
        ensure(uploaded.status == 201, || format!("the upload: {} {upload}", uploaded.status))?;
        let hash = hex::encode(Sha256::digest(PICTURE));
        ensure(upload["sha256"] == hash.as_str(), || "the upload has another hash".to_owned())?;
        let image = json!([{
            "type": "image", "upload_id": upload["upload_id"], "mime": "image/png",
            "size": PICTURE.len(), "sha256": hash, "alt": "a red dot",
        }]);
        let made = Made::well(&self.keys());
        let taken = self.report(&parts(room, &image), &made, "").await?;
        ensure(taken.is_yes(), || format!("answered with {}", taken.status))?;
        let got = self.messages(room, 1).await?;
        let url = first_part(&got[0])["url"].as_str().unwrap_or_default().to_owned();
        ensure(!url.is_empty(), || format!("came as {}", first_part(&got[0])))?;
        let fetched = answer(self.client.get(url)).await?;
        let same = hex::encode(Sha256::digest(&fetched.body)) == hash;
        ensure(fetched.is_yes() && same, || {
            format!("its address gives other bytes ({})", fetched.status)
        })
    }

    async fn expired_address(&self, room: &str) -> Verdict {
        self.say(room, "!media").await?;
        let got = self.messages(room, 1).await?;
        let part = first_part(&got[0]);
        let url = part["url"].as_str().unwrap_or_default();
        let upload = part["upload_id"].as_str().unwrap_or_default();
        let old: String = url
            .split('&')
            .map(|pair| if pair.starts_with("until=") { "until=1000000000" } else { pair })
            .collect::<Vec<_>>()
            .join("&");
        let stale = answer(self.client.get(&old)).await?;
        ensure(matches!(stale.status, 403 | 404 | 410), || {
            format!("an expired address answers {}", stale.status)
        })?;
        let renewed = self.ask("POST", &format!("media/{upload}"), None).await?;
        let fresh = renewed.json()["url"].as_str().unwrap_or_default().to_owned();
        ensure(renewed.is_yes() && !fresh.is_empty(), || "no fresh address is given".to_owned())?;
        let fetched = answer(self.client.get(fresh)).await?;
        let hash = hex::encode(Sha256::digest(&fetched.body));
        ensure(part["sha256"] == hash.as_str(), || "the fresh address gives other bytes".to_owned())
    }

    async fn button(&self, room: &str) -> Verdict {
        self.say(room, "!buttons").await?;
        let got = self.messages(room, 1).await?;
        let item = &first_part(&got[0])["items"][0];
        let data = json!({
            "message_id": got[0].event["data"]["message"]["id"],
            "item_id": item["id"], "value": item["value"],
        });
        ensure(item["value"] == "yes", || format!("came as {}", first_part(&got[0])))?;
        let made = Made::well(&self.keys());
        let pressed = self.report(&event(room, "button.pressed", data), &made, "").await?;
        ensure(pressed.is_yes(), || format!("pressing it is answered with {}", pressed.status))?;
        let text = words(&self.messages(room, 2).await?[1].event);
        ensure(text == "yes", || format!("pressing it says {text:?}"))
    }

    async fn typing(&self, room: &str) -> Verdict {
        self.say(room, "Hello").await?;
        let typing = |got: &[Got]| got.iter().any(|got| got.event["type"] == "typing.started");
        let got = self.wait(room, "typing.started", typing).await?;
        let typing = got.iter().find(|got| got.event["type"] == "typing.started");
        let Some(typing) = typing else { return failed("typing.started did not come") };
        let event = &typing.event;
        ensure(event["data"]["ttl_s"] == 7 && event["seq"].is_null(), || format!("it is {event}"))?;
        self.messages(room, 1).await.map(drop)
    }

    async fn receipts(&self, room: &str) -> Verdict {
        self.say(room, "Hello").await?;
        let got = self.messages(room, 1).await?;
        let message_id = &got[0].event["data"]["message"]["id"];
        let made = Made::well(&self.keys());
        for kind in ["message.read", "message.delivered", "message.sent"] {
            let event = event(room, kind, json!({ "message_id": message_id }));
            let answer = self.report(&event, &made, "").await?;
            ensure(answer.is_yes(), || format!("{kind} is answered with {}", answer.status))?;
        }
        let deliveries = self.ask("GET", "deliveries?limit=200", None).await?.json();
        let all = deliveries["data"].as_array().cloned().unwrap_or_default();
        let ours = all.iter().find(|one| one["event_id"] == got[0].id.as_str());
        let receipt = ours.map_or(&Value::Null, |one| &one["receipt"]);
        ensure(receipt == "read", || format!("after read, delivered and sent it is {receipt}"))
    }

    async fn edits(&self, room: &str) -> Verdict {
        let mut caps = self.capabilities();
        caps["stream"] = json!("edit");
        caps["edit"] = json!({ "level": "native", "min_interval_ms": 2000 });
        self.declare(&caps).await?;
        let said = self.say(room, "!stream 6").await;
        self.declare(&self.capabilities()).await?;
        said?;
        let updated = |got: &&Got| got.event["type"] == "message.updated";
        let three = |got: &[Got]| 3 <= got.iter().filter(updated).count();
        let got = self.wait(room, "three edits", three).await?;
        let times: Vec<_> = got.iter().filter(updated).map(|got| got.at).collect();
        let shortest = times.windows(2).map(|two| two[1].saturating_duration_since(two[0])).min();
        // A little less than is declared: the network may hold back the first of two.
        ensure(shortest.is_some_and(|time| Duration::from_millis(1200) <= time), || {
            format!("two edits came within {shortest:?}, and not 2 s")
        })
    }

    /// Reads a stream until `enough` says so.
    async fn frames(
        &self,
        request: reqwest::RequestBuilder,
        enough: impl Fn(&[Frame]) -> bool,
    ) -> Result<Vec<Frame>, Miss> {
        let response = request.send().await.map_err(|error| Miss::Failed(error.to_string()))?;
        if !response.status().is_success() {
            return failed(format!("the stream answers {}", response.status()));
        }
        let (mut bytes, mut frames) = (response.bytes_stream(), Vec::new());
        let (mut text, until) = (String::new(), Instant::now() + Duration::from_secs(20));
        while let Ok(Some(Ok(chunk))) = timeout_at(until, bytes.next()).await {
            text.push_str(&String::from_utf8_lossy(&chunk));
            while let Some((frame, rest)) = text.split_once("\n\n") {
                let field = |name: &str| {
                    let found = frame.lines().find_map(|line| line.strip_prefix(name));
                    found.unwrap_or_default().trim().to_owned()
                };
                let data = serde_json::from_str(&field("data:")).unwrap_or_default();
                frames.push((field("id:"), field("event:"), data));
                text = rest.to_owned();
            }
            if enough(&frames) {
                break;
            }
        }
        Ok(frames)
    }

    async fn resume(&self, room: &str) -> Verdict {
        let before = self.ask("POST", "ping", None).await?.json()["last_cursor"].clone();
        let after = before.as_str().unwrap_or("0");
        let ours = |frames: &[Frame]| -> Vec<(String, String)> {
            let fits = |(_, _, data): &&Frame| {
                super::room_of(data) == room && data["type"] == "message.created"
            };
            frames.iter().filter(fits).map(|(id, _, data)| (id.clone(), words(data))).collect()
        };
        let open = |after: &str| {
            let request = self.client.get(self.path("stream"));
            request.bearer_auth(&self.config.keys.bearer).header("last-event-id", after.to_owned())
        };
        for n in 1..=3 {
            self.say(room, &format!("n{n}")).await?;
        }
        let first = self.frames(open(after), |frames| 2 <= ours(frames).len()).await?;
        let mut seen: Vec<_> = ours(&first).into_iter().take(2).collect();
        for n in 4..=6 {
            self.say(room, &format!("n{n}")).await?;
        }
        let last = seen.last().map(|(id, _)| id.clone()).unwrap_or_default();
        let rest = self.frames(open(&last), |frames| 4 <= ours(frames).len()).await?;
        seen.extend(ours(&rest));
        let texts: Vec<_> = seen.iter().map(|(_, text)| text.as_str()).collect();
        ensure(texts == ["n1", "n2", "n3", "n4", "n5", "n6"], || {
            format!("the stream said {texts:?}")
        })
    }

    async fn growth(&self, room: &str) -> Verdict {
        let event = message(room, "!stream 40");
        let keys = self.keys();
        let body = event.to_bytes();
        let now = jiff::Timestamp::now();
        let signature = Made::well(&keys).signer.sign(&event.id, now, &body);
        let signature = signature.map_err(|error| Miss::Failed(error.to_string()))?;
        let request = self
            .client
            .post(self.path("events?reply=sse"))
            .bearer_auth(&keys.bearer)
            .header("content-type", "application/json")
            .header("pcp-version", qudao_pcp::VERSION)
            .header("webhook-id", event.id.as_str())
            .header("webhook-timestamp", now.as_second().to_string())
            .header("webhook-signature", signature)
            .body(body);
        let ended = |frames: &[Frame]| {
            frames.iter().any(|(_, _, data)| data["data"]["turn"]["final"] == true)
        };
        let frames = self.frames(request, ended).await?;
        let deltas = frames.iter().filter(|(_, kind, _)| kind == "message.delta");
        let grown: String = deltas.filter_map(|(_, _, data)| data["append"].as_str()).collect();
        let said = frames.iter().filter(|(_, kind, _)| kind == "message.created");
        let said: Vec<_> = said.map(|(_, _, data)| words(data)).collect();
        let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (grown, said) = (flat(&grown), flat(&said.join(" ")));
        ensure(!grown.is_empty() && grown == said, || format!("grew {grown:?}, said {said:?}"))
    }

    async fn replay(&self, room: &str) -> Verdict {
        self.plan(room, vec![Plan { status: 422, ..Plan::default() }]);
        self.say(room, "Hello").await?;
        let gap = |got: &[Got]| got.iter().any(|got| got.event["type"] == "delivery.gap");
        let got = self.wait(room, "word of the gap", gap).await?;
        let Some(first) = got.iter().find(|got| got.event["seq"].is_i64()) else {
            return failed("the message did not come");
        };
        // A second earlier: the times of the log are of another clock.
        let time = first.event["time"].as_str().and_then(|time| time.parse().ok());
        let time: jiff::Timestamp = time.unwrap_or_default();
        let since = time.saturating_sub(jiff::SignedDuration::from_secs(1)).unwrap_or(time);
        let range = json!({ "status": "dead", "since": since });
        let replayed = self.ask("POST", "deliveries:replay", Some(&range)).await?;
        ensure(replayed.is_yes(), || {
            format!("the replay: {} {}", replayed.status, replayed.json())
        })?;
        let twice = |got: &[Got]| 2 <= got.iter().filter(|got| got.event["seq"].is_i64()).count();
        let got = self.wait(room, "the replay", twice).await?;
        let tries: Vec<_> = got.iter().filter(|got| got.event["seq"].is_i64()).collect();
        ensure(tries[0].id == tries[1].id, || "it came under another id".to_owned())?;
        ensure(tries[1].replay && !tries[0].replay, || "pcp-replay is not 1".to_owned())
    }
}
