//! The log as server-sent events: the whole channel's, or one turn's while it is made.

use std::{convert::Infallible, rc::Rc};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, HeaderName},
    rt,
    web::{self, Bytes},
};
use futures_util::{future::select_all, stream};
use qudao_channels::partner::{Asked, Received};
use qudao_core::PreviewEvent;
use qudao_pcp::kind;
use qudao_storage::{BusEvent, PartnerEvent, StorageError, Subscription, Topic};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    PartnerCaller, PartnerDoor,
    events::{LOOK, readable, turn},
    parse_cursor,
};
use crate::{code::Code, error::ApiError, extract::Query, state::AppState};

const PAGE: u32 = 100;
/// Answers of one channel that one reader sees grow at the same time; of more it gets the whole.
const MOST_GROWING: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamQuery {
    after: Option<String>,
}

pub(crate) async fn open(
    state: web::Data<AppState>,
    request: HttpRequest,
    PartnerCaller(door): PartnerCaller,
    Query(query): Query<StreamQuery>,
) -> Result<HttpResponse, ApiError> {
    let seen = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let after = match seen.or(query.after.as_deref()).filter(|text| !text.is_empty()) {
        Some(text) => parse_cursor(text)?,
        None => door.partner.acked_cursor,
    };
    if state.is_draining() {
        return Err(ApiError::new(Code::Draining, "this node is shutting down"));
    }
    let (frames, incoming) = mpsc::channel(state.settings.limits.outgoing_frames);
    rt::spawn(follow(state.clone(), door, after, frames));
    Ok(respond(incoming))
}

fn respond(incoming: mpsc::Receiver<Bytes>) -> HttpResponse {
    let body = stream::unfold(incoming, |mut incoming| async move {
        let bytes: Bytes = incoming.recv().await?;
        Some((Ok::<_, Infallible>(bytes), incoming))
    });
    HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .streaming(body)
}

/// Sends what the log holds after a cursor, and then what is added, until the reader goes.
async fn follow(
    state: web::Data<AppState>,
    door: Rc<PartnerDoor>,
    mut after: i64,
    frames: mpsc::Sender<Bytes>,
) {
    let (tenant_id, channel_id) = (door.tenant_id, door.channel_id);
    let mut changed = state.core.bus.subscribe(&Topic::Partner(channel_id));
    let mut growing = Growing::default();
    let mut draining = state.draining.clone();
    let beat = state.settings.limits.heartbeat;
    let mut last = Instant::now();
    loop {
        let core = state.core.clone();
        let reading = async move {
            let mut tx = core.store.begin_reading(tenant_id).await?;
            let events = tx.partner_events_after(channel_id, after, None, PAGE).await?;
            tx.commit().await?;
            Ok::<_, StorageError>(events)
        };
        let Ok(events) = state.on_runtime(reading).await else { return };
        for event in readable(events, state.core.clock.now()) {
            after = event.cursor;
            last = Instant::now();
            if event.is_final {
                growing.end(&event.thread);
            }
            if frames.send(frame(&event)).await.is_err() {
                return;
            }
        }
        if beat <= last.elapsed() {
            last = Instant::now();
            if frames.send(Bytes::from_static(b": still here\n\n")).await.is_err() {
                return;
            }
        }
        let look_at = Instant::now() + LOOK;
        // Words come by the hundred, and the log has not grown for any of them.
        loop {
            tokio::select! {
                hint = changed.next() => {
                    growing.begin(&state, &hint);
                    break;
                }
                data = growing.next() => {
                    last = Instant::now();
                    if frames.send(delta(&data)).await.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(look_at) => break,
                () = frames.closed() => return,
                _ = draining.wait_for(|over| *over) => return,
            }
        }
    }
}

/// The answers of a channel that are being made.
#[derive(Default)]
struct Growing {
    answers: Vec<Answer>,
}

struct Answer {
    thread: String,
    preview: Subscription,
    index: i64,
    /// Whatever becomes of it: a turn does not take longer.
    until: Instant,
}

impl Growing {
    /// Follows the answer that a hint of the channel announces, if it announces one.
    fn begin(&mut self, state: &AppState, hint: &BusEvent) {
        let BusEvent::Message(bytes) = hint else { return };
        let Ok(asked) = serde_json::from_slice::<Asked>(bytes) else { return };
        let now = Instant::now();
        self.answers.retain(|answer| now < answer.until);
        let is_watched = self.answers.iter().any(|answer| answer.thread == asked.thread);
        if is_watched || MOST_GROWING <= self.answers.len() {
            return;
        }
        self.answers.push(Answer {
            thread: asked.thread,
            preview: state.core.bus.subscribe(&Topic::Preview(asked.conversation_id)),
            index: 0,
            until: now + state.core.settings.turns.hard_cap,
        });
    }

    fn end(&mut self, thread: &str) {
        self.answers.retain(|answer| answer.thread != thread);
    }

    /// What grows next; never, while nothing does.
    async fn next(&mut self) -> Value {
        loop {
            if self.answers.is_empty() {
                return std::future::pending().await;
            }
            let hints = self.answers.iter_mut().map(|answer| Box::pin(answer.preview.next()));
            let (hint, which, rest) = select_all(hints).await;
            drop(rest);
            let answer = &mut self.answers[which];
            if let Some(mut data) = growth(&hint, answer.index) {
                answer.index += 1;
                data["conversation"] = json!({ "external_id": answer.thread });
                return data;
            }
        }
    }
}

fn frame(event: &PartnerEvent) -> Bytes {
    let body = String::from_utf8_lossy(&event.body);
    format!("id: {}\nevent: {}\ndata: {body}\n\n", event.cursor, event.kind).into()
}

fn delta(data: &Value) -> Bytes {
    format!("event: {}\ndata: {data}\n\n", kind::MESSAGE_DELTA).into()
}

/// The answer to one message while it is made: its growth as hints, then its messages, which alone
/// are the truth.
pub(super) fn of_turn(
    state: &web::Data<AppState>,
    door: &Rc<PartnerDoor>,
    received: Received,
    answers: i64,
) -> HttpResponse {
    let (frames, incoming) = mpsc::channel(state.settings.limits.outgoing_frames);
    rt::spawn(watch(state.clone(), Rc::clone(door), received, answers, frames));
    respond(incoming)
}

async fn watch(
    state: web::Data<AppState>,
    door: Rc<PartnerDoor>,
    received: Received,
    answers: i64,
    frames: mpsc::Sender<Bytes>,
) {
    let accepted = serde_json::to_string(&received.accepted).unwrap_or_default();
    let first = format!("event: accepted\ndata: {accepted}\n\n");
    if frames.send(first.into()).await.is_err() {
        return;
    }
    let bus = &state.core.bus;
    let mut changed = bus.subscribe(&Topic::Partner(door.channel_id));
    let mut preview = received.conversation_id.map(|id| bus.subscribe(&Topic::Preview(id)));
    let mut draining = state.draining.clone();
    let (mut index, mut deltas) = (0, received.deltas);
    let until = Instant::now() + state.core.settings.turns.hard_cap;
    loop {
        let (core, thread) = (state.core.clone(), received.thread.clone());
        let place = (door.tenant_id, door.channel_id);
        let reading = async move { turn(&core, place, &thread, answers).await };
        let Ok(events) = state.on_runtime(reading).await else { return };
        if events.iter().any(|event| event.is_final) {
            let id = events.first().map(|event| event.event_id.replacen("evt_", "msg_", 1));
            for append in std::mem::take(&mut deltas) {
                let data = json!({ "message_id": id, "index": index, "append": append });
                index += 1;
                if frames.send(delta(&data)).await.is_err() {
                    return;
                }
            }
            for event in &events {
                if frames.send(frame(event)).await.is_err() {
                    return;
                }
            }
            return;
        }
        let look_at = Instant::now() + LOOK;
        loop {
            tokio::select! {
                _ = changed.next() => break,
                hint = hint(preview.as_mut()) => {
                    if let Some(data) = growth(&hint, index) {
                        index += 1;
                        if frames.send(delta(&data)).await.is_err() {
                            return;
                        }
                    }
                }
                () = tokio::time::sleep_until(look_at) => break,
                () = tokio::time::sleep_until(until) => return,
                () = frames.closed() => return,
                _ = draining.wait_for(|over| *over) => return,
            }
        }
    }
}

async fn hint(preview: Option<&mut Subscription>) -> BusEvent {
    match preview {
        Some(preview) => preview.next().await,
        None => std::future::pending().await,
    }
}

/// A hint as the protocol writes it. One of a higher `epoch` voids those before it.
fn growth(hint: &BusEvent, index: i64) -> Option<Value> {
    let BusEvent::Message(bytes) = hint else { return None };
    match serde_json::from_slice(bytes).ok()? {
        PreviewEvent::Delta { turn, epoch, offset, text } => Some(json!({
            "turn_id": turn, "epoch": epoch, "offset": offset, "index": index, "append": text,
        })),
        _ => None,
    }
}
