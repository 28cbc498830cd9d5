//! Runs a [`Session`] over a transport: feeds it what happens and does what it says.

use std::{future::pending, sync::Arc, time::Duration};

use actix_web::web;
use futures_util::{
    FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream::FuturesUnordered,
};
use qudao_core::PreviewEvent;
use qudao_storage::{BusEvent, Standing, Subscription, TimelineCursor, Topic};
use qudao_telemetry::Trace;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    door::{self, Visit},
    frame::ServerFrame,
    session::{Effect, Farewell, Input, Patience, Session},
};
use crate::{code::Code, error::ApiError, state::AppState};

/// Messages of one read.
const PAGE: u32 = 100;

/// The client is gone, or reads too slowly to be served.
#[derive(Debug)]
pub(crate) struct Gone;

/// A way to one client.
pub(crate) trait Wire {
    /// Sends one frame. Waits while the client's queue is full.
    async fn send(&mut self, frame: &ServerFrame, cursor: TimelineCursor) -> Result<(), Gone>;
    /// Asks for a sign of life. Waits like [`Self::send`].
    async fn ping(&mut self) -> Result<(), Gone>;
    /// The next thing that the client says; `None` when it is gone. Safe to cancel.
    async fn receive(&mut self) -> Option<Input>;
    /// Says why the connection ends. Waits like [`Self::send`].
    async fn close(self, farewell: Option<Farewell>);
}

/// Serves one client until it goes or is sent away.
pub(crate) async fn drive<W: Wire>(
    state: web::Data<AppState>,
    visit: Visit,
    after: TimelineCursor,
    silence: Option<Duration>,
    mut wire: W,
) {
    metrics::gauge!("qudao_chat_connections").increment(1.0);
    let patience = state.settings.limits.slow_client_timeout;
    let farewell = Driver::new(state, visit).run(after, silence, &mut wire).await;
    part(wire, farewell.ok(), patience).await;
    metrics::gauge!("qudao_chat_connections").decrement(1.0);
}

/// Waits for the client's queue as long as the client is waited for at all.
async fn within(
    patience: Duration,
    sending: impl Future<Output = Result<(), Gone>>,
) -> Result<(), Gone> {
    timeout(patience, sending).await.map_err(|_| Gone)?
}

/// Says farewell. A client that does not read does not hear it, and is not waited for.
pub(super) async fn part<W: Wire>(wire: W, farewell: Option<Farewell>, patience: Duration) {
    let _ = timeout(patience, wire.close(farewell)).await;
}

struct Driver {
    state: web::Data<AppState>,
    visit: Visit,
    subscription: Option<Subscription>,
    /// Reads and writes that are under way.
    work: FuturesUnordered<LocalBoxFuture<'static, Input>>,
}

impl Driver {
    fn new(state: web::Data<AppState>, visit: Visit) -> Self {
        // A visitor may have many tabs open before the first message makes a conversation.
        let subscription = visit.arrival().map(|topic| state.core.bus.subscribe(&topic));
        Self { state, visit, subscription, work: FuturesUnordered::new() }
    }

    async fn run<W: Wire>(
        mut self,
        after: TimelineCursor,
        silence: Option<Duration>,
        wire: &mut W,
    ) -> Result<Farewell, Gone> {
        let limits = &self.state.settings.limits;
        let patience = Patience {
            heartbeat: limits.heartbeat,
            silence,
            open_turn_poll: limits.open_turn_poll,
            idle_poll: limits.idle_poll,
            waiting: limits.waiting_messages,
        };
        let mut draining = self.state.draining.clone();
        let (mut session, mut effects) = Session::open(after, patience, Instant::now());
        loop {
            for effect in effects {
                if let Some(farewell) = self.apply(effect, session.cursor(), wire).await? {
                    return Ok(farewell);
                }
            }
            let input = tokio::select! {
                said = wire.receive() => said.ok_or(Gone)?,
                Some(done) = self.work.next() => done,
                hint = hear(self.subscription.as_mut()) => match hint {
                    Some(input) => input,
                    None => { effects = Vec::new(); continue; }
                },
                () = sleep_until(session.due()) => Input::Tick,
                _ = draining.wait_for(|draining| *draining) => Input::Draining,
                () = end(self.visit.until) => Input::Draining,
            };
            effects = session.on(input, Instant::now());
        }
    }

    async fn apply<W: Wire>(
        &mut self,
        effect: Effect,
        cursor: TimelineCursor,
        wire: &mut W,
    ) -> Result<Option<Farewell>, Gone> {
        let patience = self.state.settings.limits.slow_client_timeout;
        match effect {
            Effect::Send(frame) => within(patience, wire.send(&frame, cursor)).await?,
            Effect::Ping => within(patience, wire.ping()).await?,
            Effect::Subscribe(conversation) => {
                let topic = Topic::Preview(conversation);
                self.subscription = Some(self.state.core.bus.subscribe(&topic));
            }
            Effect::Read(after) => self.read(after),
            Effect::Accept { id, text } => {
                let (state, visit) = (self.state.clone(), self.visit.clone());
                self.work.push(
                    async move {
                        let accepted =
                            door::accept(&state, &visit, &id, text, Vec::new(), Trace::NONE).await;
                        receipt(id.into_string(), accepted)
                    }
                    .boxed_local(),
                );
            }
            Effect::Stop(conversation) => {
                let core = Arc::clone(&self.state.core);
                let stop = async move { core.cancel_turn(conversation).await };
                self.state.core.tasks.spawn_on(stop, &self.state.runtime);
            }
            Effect::Replay(conversation) => {
                let core = Arc::clone(&self.state.core);
                let replay = async move { core.replay_preview(conversation).await };
                self.state.core.tasks.spawn_on(replay, &self.state.runtime);
            }
            Effect::Close(farewell) => return Ok(Some(farewell)),
        }
        Ok(None)
    }

    fn read(&self, after: TimelineCursor) {
        let (state, visit) = (self.state.clone(), self.visit.clone());
        let core = Arc::clone(&state.core);
        let read = async move { door::read_page(&core, &visit, after, PAGE).await };
        let read = async move {
            match state.on_runtime(read).await {
                Ok(page) => Input::Page(page),
                Err(_) => Input::ReadFailed,
            }
        };
        self.work.push(read.boxed_local());
    }
}

fn receipt(id: String, accepted: Result<(qudao_core::Accepted, Vec<Standing>), ApiError>) -> Input {
    match accepted {
        Ok((accepted, _)) => {
            Input::Accepted { id, seq: accepted.seq, duplicate: accepted.duplicate }
        }
        Err(refusal) => {
            if refusal.code() == Code::Internal {
                tracing::error!(%refusal, "a message was not stored");
            }
            Input::Refused {
                id,
                code: refusal.code(),
                detail: refusal.detail().to_owned(),
                retry_after: refusal.retry_after_secs(),
            }
        }
    }
}

/// Waits until the visitor's token ends. Whoever comes back brings a new one and the cursor.
async fn end(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// The next hint; waits for ever without a subscription. `None` for bytes that are no hint.
async fn hear(subscription: Option<&mut Subscription>) -> Option<Input> {
    let Some(subscription) = subscription else { return pending().await };
    match subscription.next().await {
        BusEvent::Ready => Some(Input::Listening),
        BusEvent::Message(bytes) => {
            serde_json::from_slice::<PreviewEvent>(&bytes).ok().map(Input::Hint)
        }
    }
}

#[cfg(test)]
mod tests;
