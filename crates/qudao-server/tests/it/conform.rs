//! The conformance kit as a partner: green against this platform, and red for each case in which
//! something between the two misbehaves.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use qudao_conform::{
    case::{CASES, run},
    client::Keys,
    http::{Reply, Request, serve},
    partner::{Config, Partner as Kit},
};
use qudao_core::CoreSettings;
use qudao_pcp::{CaseReport, EventId, Outcome, PrivateKey, Secret, Signer};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc},
};

use crate::{
    partner::{Partner, world_with},
    world::World,
};

/// How long the platform waits for the kit.
const TOTAL: Duration = Duration::from_secs(2);

/// Stands between kit and platform in both directions, and misbehaves in one case.
struct Between {
    fault: &'static str,
    platform: String,
    inside: String,
    kit: Mutex<String>,
    secret: Secret,
    client: reqwest::Client,
    rotated: AtomicUsize,
    count: AtomicUsize,
    one_at_a_time: AsyncMutex<()>,
    /// What is held back until another comes.
    late: Mutex<Option<Request>>,
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_default()
}

impl Between {
    async fn start(fault: &'static str, world: &World, partner: &Partner) -> String {
        let (outer, inner) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let base = format!("http://{}", outer.local_addr().unwrap());
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(Duration::from_secs(40));
        let between = Arc::new(Self {
            fault,
            platform: format!("http://{}", world.addr()),
            inside: format!("http://{}/pcp", inner.local_addr().unwrap()),
            kit: Mutex::default(),
            secret: partner.secret.clone(),
            client: client.build().unwrap(),
            rotated: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            one_at_a_time: AsyncMutex::new(()),
            late: Mutex::new(None),
        });
        let own = Arc::clone(&between);
        serve(
            outer,
            Arc::new(move |request| Box::pin(Arc::clone(&own).inwards(request)) as Pin<Box<_>>),
        );
        serve(
            inner,
            Arc::new(move |request| {
                Box::pin(Arc::clone(&between).outwards(request)) as Pin<Box<_>>
            }),
        );
        base
    }

    async fn forward(&self, base: &str, request: &Request) -> Reply {
        let mut sent =
            self.client.request(request.method.parse().unwrap(), format!("{base}{}", request.path));
        for (name, value) in &request.headers {
            if !["content-length", "connection", "accept-encoding"].contains(&name.as_str()) {
                sent = sent.header(name, value);
            }
        }
        let Ok(response) = sent.body(request.body.clone()).send().await else {
            return Reply::status(504);
        };
        let mut reply = Reply::status(response.status().as_u16());
        for name in ["content-type", "retry-after", "location", "ratelimit"] {
            if let Some(value) = response.headers().get(name) {
                reply = reply.header(name, value.to_str().unwrap());
            }
        }
        let streams = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap_or_default().starts_with("text/event-stream"));
        if !streams {
            return Reply { body: response.bytes().await.unwrap_or_default().to_vec(), ..reply };
        }
        let (pieces, stream) = mpsc::channel(64);
        let (fault, resumed) = (self.fault, !request.header("last-event-id").is_empty());
        let opened = self.count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let (mut chunks, mut text, mut dropped) =
                (response.bytes_stream(), String::new(), false);
            while let Some(Ok(chunk)) = chunks.next().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
                while let Some((frame, rest)) = text.split_once("\n\n") {
                    let frame = format!("{frame}\n\n");
                    text = rest.to_owned();
                    // The first event after a resumption, or the first delta.
                    let loses = match fault {
                        "P04" => resumed && opened > 0 && frame.contains("message.created"),
                        "P05" => frame.contains("message.delta"),
                        _ => false,
                    };
                    if loses && !dropped {
                        dropped = true;
                    } else if pieces.send(frame.into_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
        Reply { stream: Some(stream), ..reply }
    }

    /// From the kit to the platform.
    async fn inwards(self: Arc<Self>, mut request: Request) -> Reply {
        if request.path.ends_with("/partner-endpoint") {
            let mut to: Value = serde_json::from_slice(&request.body).unwrap();
            *self.kit.lock().unwrap() = to["endpoint_url"].as_str().unwrap().to_owned();
            to["endpoint_url"] = json!(self.inside);
            request.body = to.to_string().into_bytes();
        }
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let is_event = request.method == "POST" && request.path.contains("/events");
        let signature = request.header("webhook-signature").to_owned();
        let fault = self.fault;
        if request.path.ends_with("keys:rotate") {
            self.rotated.fetch_add(1, Ordering::SeqCst);
        }
        let rotated = self.rotated.load(Ordering::SeqCst) > 0;
        let refuses = match fault {
            "S01" => is_event,
            "S02" | "P06" => is_event && rotated,
            "S03" => is_event && signature.starts_with("v1a"),
            "T09" => is_event && event["type"] == "weather.changed",
            "R03" => is_event && event["type"] == "button.pressed",
            _ => false,
        };
        if refuses {
            return Reply::status(401);
        }
        if fault == "P08" && event["type"] == "handoff.accepted" {
            return Reply::json(202, &json!({ "duplicate": false }));
        }
        if fault == "R02" && request.path.contains("until=1000000000") {
            return Reply::status(200);
        }
        let mut reply = self.forward(&self.platform, &request).await;
        match fault {
            "S04" | "S05" | "S06" | "S07" | "S08" | "S09" | "S13" if reply.status == 401 => {
                return Reply::json(202, &json!({ "duplicate": false }));
            }
            "S10" if is_event && reply.status == 200 => {
                let mut told = body(&reply);
                told["duplicate"] = json!(false);
                return Reply::json(202, &told);
            }
            "S11" if reply.status == 409 => return Reply::status(200),
            "S14" if request.path.ends_with("endpoint:verify") => return Reply::status(200),
            "R01" if request.path.contains("/media/upl_") => {
                reply.body.pop();
            }
            "P02" if request.path.contains("/deliveries") => {
                let text = String::from_utf8(reply.body).unwrap();
                reply.body =
                    text.replace("\"receipt\":\"read\"", "\"receipt\":\"sent\"").into_bytes();
            }
            _ => {}
        }
        reply
    }

    /// The same event with other words, signed anew.
    fn change(&self, request: &mut Request, change: impl Fn(&mut Value)) {
        let mut event: Value = serde_json::from_slice(&request.body).unwrap();
        change(&mut event);
        request.body = event.to_string().into_bytes();
        self.sign(request);
    }

    fn sign(&self, request: &mut Request) {
        let signer = Signer { secrets: vec![self.secret.clone()], ..Signer::default() };
        let (id, now) = (EventId::parse(request.header("webhook-id")).unwrap(), Timestamp::now());
        let signature = signer.sign(&id, now, &request.body).unwrap();
        request.headers.insert("webhook-timestamp".into(), now.as_second().to_string());
        request.headers.insert("webhook-signature".into(), signature);
    }

    async fn hand_on(&self, request: &Request) -> Reply {
        let kit = self.kit.lock().unwrap().clone();
        self.forward(kit.strip_suffix("/pcp").unwrap_or_default(), request).await
    }

    /// From the platform to the kit.
    async fn outwards(self: Arc<Self>, mut request: Request) -> Reply {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let (is_message, fault) = (event["seq"].is_i64(), self.fault);
        let is = |kind: &str| event["type"] == kind;
        request.path = "/pcp".to_owned();
        let part = |event: &mut Value, name: &str, to: &Value| {
            event["data"]["message"]["parts"][0][name] = to.clone();
        };
        match fault {
            "T01" if is_message => return Reply::status(200),
            "P01" if is("typing.started") => return Reply::status(200),
            // Says yes before anybody could.
            "T06" if is_message => {
                tokio::spawn(async move { self.hand_on(&request).await });
                return Reply::status(200);
            }
            "P07" => {
                request.headers.remove("pcp-replay");
            }
            "S12" if is_message => {
                self.change(&mut request, |event| part(event, "text", &json!("?")))
            }
            "T02" if is_message => {
                self.change(&mut request, |event| part(event, "text", &json!("x".repeat(201))));
            }
            "T10" if is_message => {
                self.change(&mut request, |event| part(event, "text", &json!("")))
            }
            "R04" if is_message => {
                self.change(&mut request, |event| part(event, "text", &json!("…")))
            }
            "R05" if is_message => self.change(&mut request, |event| {
                event["data"]["message"]["reply_to"] = Value::Null;
            }),
            "T11" if is_message => {
                let mut late = request.clone();
                late.headers.insert("webhook-id".into(), EventId::generate().to_string());
                self.change(&mut late, |event| {
                    part(event, "text", &json!("This must never be shown."));
                });
                self.hand_on(&late).await;
            }
            // Two change places.
            "T03" if is_message && self.count.fetch_add(1, Ordering::SeqCst) == 3 => {
                *self.late.lock().unwrap() = Some(request);
                return Reply::status(200);
            }
            // Edits come all at once.
            "P03" if is("message.updated") => {
                let at = self.count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(
                    4000 - 1900 * u64::try_from(at).unwrap().min(2),
                ))
                .await;
                self.sign(&mut request);
            }
            _ => {}
        }
        let _lock = match fault {
            "T04" => Some(self.one_at_a_time.lock().await),
            _ => None,
        };
        let mut reply = self.hand_on(&request).await;
        let late = if is_message { self.late.lock().unwrap().take() } else { None };
        if let Some(mut late) = late {
            self.sign(&mut late);
            self.hand_on(&late).await;
        }
        match (fault, reply.status) {
            ("S15", 307) => {
                let (_, to) = reply.headers.iter().find(|(name, _)| name == "location").unwrap();
                let _ = self.client.post(to).send().await;
            }
            ("T05", 500) => return Reply::status(200),
            ("T07", 429) => reply.headers.clear(),
            ("T08", 422) | ("T12", 410) => return Reply::status(500),
            _ => {}
        }
        reply
    }
}

async fn tried(world: &World, fault: &'static str, only: &[String]) -> Vec<CaseReport> {
    let partner = world.partner().await;
    let base = Between::start(fault, world, &partner).await;
    let config = Config {
        base,
        tenant: partner.tenant.id.to_string(),
        api_key: partner.tenant.api_key.reveal(),
        keys: Keys {
            channel: partner.channel.to_string(),
            bearer: partner.bearer.clone(),
            secrets: vec![partner.secret.clone()],
            private: PrivateKey::generate(),
        },
        silence: 2 * TOTAL,
    };
    let kit = Kit::start(config).await.unwrap();
    run(
        only,
        |_| {},
        |id| {
            let kit = kit.clone();
            async move { kit.run(id).await }
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn conform_is_green_against_the_platform() {
    let world = world_with(None, CoreSettings::default(), TOTAL).await;
    let cases = tried(&world, "", &[]).await;
    assert_eq!(cases.len(), 40);
    let red: Vec<_> = cases.iter().filter(|case| case.outcome != Outcome::Passed).collect();
    assert!(red.is_empty(), "{red:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conform_is_red_for_each_planted_fault() {
    let world = world_with(None, CoreSettings::default(), TOTAL).await;
    let each = stream::iter(CASES.iter().map(|case| case.id));
    let tried = each.map(|id| {
        let world = &world;
        async move { (id, tried(world, id, &[id.to_owned()]).await) }
    });
    let tried: Vec<_> = tried.buffer_unordered(4).collect().await;
    assert_eq!(tried.len(), 40);
    let green: Vec<_> =
        tried.iter().filter(|(_, cases)| cases[0].outcome != Outcome::Failed).collect();
    assert!(green.is_empty(), "{green:#?}");
}
