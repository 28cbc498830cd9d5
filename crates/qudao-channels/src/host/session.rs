//! Platforms that keep a socket open. One node of all holds a channel's, by the same lease as a
//! platform that is asked; what it takes to go on with the session is kept in the database, so that
//! the node that follows a dead one misses nothing.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use qudao_core::channel::{
    adapter::ChannelAdapter,
    event::Event,
    session::{ChannelSession, OpenError, SessionAdapter, SessionFrame, SessionStep},
    setup::OpenChannel,
};
use qudao_domain::{ChannelId, TenantId};
use qudao_storage::{Poll, StorageError};
use qudao_telemetry::Trace;
use rand::RngExt as _;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::{Host, HostError};
use crate::email::Wire;

/// How long a channel stays with a node of which nothing is heard.
const LEASE: Duration = Duration::from_secs(15);
/// How often the lease is renewed and the channel's settings are looked at.
const RENEW: Duration = Duration::from_secs(5);
/// How old what is kept of a session may be while events come.
const SAVE: Duration = Duration::from_secs(1);
/// From dialling to the first frame.
const OPEN: Duration = Duration::from_secs(20);
/// How long the other side may take to take a frame.
const SEND: Duration = Duration::from_secs(10);
/// The largest message that is taken, in bytes, and what a socket reads at a time.
const MESSAGE_MAX: usize = 8 << 20;
const READ: usize = 8 << 10;
/// After a failure, at first and at most; the real wait is drawn below it.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Before events are offered to the database again that it did not take.
const ONCE_MORE: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

type Socket = WebSocketStream<Wire>;

/// Why a socket is not read any more.
enum Ended {
    /// Another node has the channel, or nobody should.
    Lost,
    /// Open it again, after this time if somebody says.
    Again(Option<Duration>),
    /// The platform will not have these settings.
    Refused,
}

/// A channel whose socket this node holds.
struct Held {
    host: Arc<Host>,
    tenant_id: TenantId,
    channel_id: ChannelId,
    /// What to go on with: everything before it is durable.
    state: Option<Value>,
    saved_at: Instant,
    /// Times in a row that no session came to stand.
    failures: u32,
    /// The revision of the settings that the platform will not have.
    refused: Option<i64>,
}

impl Host {
    /// Holds a channel's socket until another node does or the host is closed.
    pub(super) async fn hold(self: Arc<Self>, poll: Poll) {
        let Poll { tenant_id, channel_id, cursor, .. } = poll;
        let closing = self.closing.clone();
        let mut held = Held {
            host: Arc::clone(&self),
            tenant_id,
            channel_id,
            state: cursor,
            saved_at: Instant::now(),
            failures: 0,
            refused: None,
        };
        // Without a word of farewell, which would end the session: another node goes on with it.
        tokio::select! {
            () = closing.cancelled() => held.let_go().await,
            () = held.run() => {}
        }
    }
}

impl Held {
    async fn run(&mut self) {
        loop {
            let pause = match self.once().await {
                Ended::Lost => return,
                Ended::Refused => RENEW,
                Ended::Again(after) if self.failures == 0 => after.unwrap_or_default(),
                Ended::Again(after) => {
                    let (first, most) = AFTER_FAILURE;
                    let doubled = first.saturating_mul(2_u32.pow(self.failures.min(7)));
                    let drawn = doubled.min(most).mul_f64(rand::rng().random_range(0.5..1.0));
                    after.unwrap_or_default().max(drawn)
                }
            };
            if self.rest(pause).await.is_none() {
                return;
            }
        }
    }

    /// Waits without losing the channel. `None` if it is lost all the same.
    async fn rest(&mut self, pause: Duration) -> Option<()> {
        let until = Instant::now() + pause;
        loop {
            self.keep(LEASE).await?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(());
            }
            sleep(left.min(RENEW)).await;
        }
    }

    /// Opens the socket and serves it to its end.
    async fn once(&mut self) -> Ended {
        let opened = self.host.open(self.tenant_id, self.channel_id).await;
        let Ok((channel, adapter)) =
            opened.map(|(channel, adapter)| (channel, Arc::clone(adapter)))
        else {
            self.failures += 1;
            return Ended::Again(None);
        };
        let sessions = self.host.sessions.get(&channel.kind).cloned();
        let Some(sessions) = sessions.filter(|it| channel.open && it.is_held(&channel.config))
        else {
            return Ended::Again(Some(RENEW));
        };
        if self.refused == Some(channel.revision) && self.is_at_fault().await {
            return Ended::Refused;
        }
        self.refused = None;
        // It counts as one until the platform has let us in.
        self.failures += 1;
        let session = match self.begin(&channel, &*adapter, &*sessions).await {
            Ok(session) => session,
            Err(OpenError::Refused(words)) => return self.refuse(&channel, &words).await,
            Err(error) => {
                tracing::info!(%error, channel = %self.channel_id, "no session for now");
                return Ended::Again(None);
            }
        };
        match timeout(OPEN, self.dial(&session.address())).await {
            Ok(Ok(socket)) => Serving { held: self, channel, adapter, session, socket }.run().await,
            Ok(Err(error)) => {
                tracing::info!(error, channel = %self.channel_id, "a socket cannot be opened");
                Ended::Again(None)
            }
            Err(_) => Ended::Again(None),
        }
    }

    /// A session that goes on with what is kept, or a new one. Where a socket was, there may be none
    /// any more: after a failure it is located anew.
    async fn begin(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        sessions: &dyn SessionAdapter,
    ) -> Result<Box<dyn ChannelSession>, OpenError> {
        let (config, kept) = (&channel.config, self.state.as_ref());
        if self.failures < 3 {
            match sessions.open(config, None, kept) {
                Err(OpenError::Unlocated) => {}
                opened => return opened,
            }
        }
        let located = match sessions.locate(config) {
            Some(plan) => {
                let asked = self.host.request(channel, adapter, &plan).await;
                Some(asked.map_err(|error| OpenError::Later(error.to_string()))?)
            }
            None => None,
        };
        sessions.open(config, located.as_ref(), kept)
    }

    async fn dial(&self, address: &str) -> Result<Socket, String> {
        let missing = || "this machine requests no addresses of tenants".to_owned();
        let egress = self.host.egress.as_ref().ok_or_else(missing)?;
        let dialer = self.host.dialer.as_ref().ok_or_else(missing)?;
        // The rules know the schemes of the web alone, and a WebSocket begins as a request.
        let rest = address.strip_prefix("ws").ok_or("the address is not that of a WebSocket")?;
        let url = egress.url(&format!("http{rest}")).map_err(|refusal| refusal.to_string())?;
        let stream = egress.dial(&url).await.map_err(|error| error.to_string())?;
        let mut wire = Wire::Plain(stream);
        if url.as_url().scheme() == "https" {
            let secured = dialer.secure(wire, url.host()).await;
            wire = secured.map_err(|_| "no TLS that can be trusted".to_owned())?;
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let upgraded = client_async_with_config(address, wire, Some(config)).await;
        Ok(upgraded.map_err(|error| error.to_string())?.0)
    }

    /// Says to whoever administers the channel what they have to mend. Nothing is tried until they
    /// have changed its settings or connected it again.
    async fn refuse(&mut self, channel: &OpenChannel, words: &str) -> Ended {
        self.refused = Some(channel.revision);
        self.failures = 0;
        if let Err(error) = self.host.record_fault(channel, words).await {
            tracing::warn!(%error, "a channel's fault is not written down");
            self.refused = None;
        }
        Ended::Refused
    }

    async fn is_at_fault(&self) -> bool {
        let found = async {
            let mut tx = self.host.core.store.begin(self.tenant_id).await?;
            let channel = tx.find_channel(self.channel_id).await?;
            tx.commit().await?;
            Ok::<_, StorageError>(channel)
        };
        // What cannot be read is left alone.
        found.await.map_or(true, |channel| channel.is_some_and(|it| it.fault.is_some()))
    }

    /// The platform has let us in.
    async fn established(&mut self, channel: &OpenChannel) {
        self.failures = 0;
        if !self.is_at_fault().await {
            return;
        }
        let account = channel.config.account.as_deref();
        let recorded = async {
            let mut tx = self.host.core.store.begin(self.tenant_id).await?;
            tx.record_channel_connection(self.channel_id, Ok(account)).await?;
            tx.commit().await
        };
        if let Err(error) = recorded.await {
            tracing::warn!(%error, "it is not written down that a channel is well again");
        }
    }

    /// Keeps the state and the channel. `None` if another node has it, or may have it.
    async fn keep(&mut self, lease: Duration) -> Option<()> {
        let state = self.state.as_ref();
        let kept = self.host.keep(self.tenant_id, self.channel_id, state, lease).await;
        self.saved_at = Instant::now();
        kept.ok()
    }

    async fn let_go(&mut self) {
        let _ = self.keep(Duration::ZERO).await;
    }
}

/// An open socket.
struct Serving<'a> {
    held: &'a mut Held,
    channel: Arc<OpenChannel>,
    adapter: Arc<dyn ChannelAdapter>,
    session: Box<dyn ChannelSession>,
    socket: Socket,
}

impl Serving<'_> {
    async fn run(mut self) -> Ended {
        let mut renew = interval(RENEW);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wake = None;
        loop {
            let now = self.held.host.core.clock.now();
            let (steps, is_last) = tokio::select! {
                read = self.socket.next() => match frame(read) {
                    Some(frame) => {
                        let is_last = matches!(frame, SessionFrame::Closed { .. });
                        (self.session.on_frame(&frame, now), is_last)
                    }
                    None => {
                        // A ping's answer is written when something is.
                        let _ = timeout(SEND, self.socket.flush()).await;
                        continue;
                    }
                },
                () = due(wake) => {
                    wake = None;
                    (self.session.on_timer(now), false)
                }
                _ = renew.tick() => {
                    if let Some(ended) = self.renew().await {
                        return ended;
                    }
                    continue;
                }
            };
            if let Some(ended) = self.carry_out(steps, &mut wake).await {
                return ended;
            }
            if is_last {
                return Ended::Again(None);
            }
        }
    }

    /// Keeps the channel for another while, and looks whether it is still what it was.
    async fn renew(&mut self) -> Option<Ended> {
        if self.held.keep(LEASE).await.is_none() {
            return Some(Ended::Lost);
        }
        let (tenant_id, channel_id) = (self.held.tenant_id, self.held.channel_id);
        match self.held.host.open(tenant_id, channel_id).await {
            Ok((now, _)) if now.open && now.revision == self.channel.revision => None,
            Ok(_) | Err(HostError::NoAdapter) => Some(Ended::Again(Some(Duration::ZERO))),
            // It is as it was, as far as anybody knows.
            Err(_) => None,
        }
    }

    async fn carry_out(
        &mut self,
        steps: Vec<SessionStep>,
        wake: &mut Option<Instant>,
    ) -> Option<Ended> {
        let mut after = None;
        for step in steps {
            match step {
                SessionStep::Send(frame) => {
                    let sent = timeout(SEND, self.socket.send(message(frame))).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return Some(Ended::Again(None));
                    }
                }
                SessionStep::Accept(events) => {
                    // What is kept of the session stays behind them, so that they come again.
                    if !self.accept(&events).await {
                        return Some(Ended::Again(None));
                    }
                }
                SessionStep::Wake(after) => *wake = Some(Instant::now() + after),
                SessionStep::Established => self.held.established(&self.channel).await,
                SessionStep::Reconnect(pause) => {
                    after = Some(pause);
                    break;
                }
                SessionStep::Stop(words) => {
                    self.held.state = self.session.state();
                    return Some(self.held.refuse(&self.channel, &words).await);
                }
            }
        }
        let state = self.session.state();
        let is_news = state.is_some() && state != self.held.state;
        if is_news {
            self.held.state = state;
        }
        if let Some(pause) = after {
            return Some(Ended::Again(Some(pause)));
        }
        if is_news && SAVE <= self.held.saved_at.elapsed() && self.held.keep(LEASE).await.is_none()
        {
            return Some(Ended::Lost);
        }
        None
    }

    /// Makes events durable. `false` if the database will not have them for now.
    async fn accept(&mut self, events: &[Event]) -> bool {
        let host = &self.held.host;
        for pause in ONCE_MORE.into_iter().map(Some).chain([None]) {
            match host.take_in(&self.channel, &self.adapter, events, Trace::NONE).await {
                Ok(_) => return true,
                Err(error) => {
                    tracing::warn!(%error, channel = %self.held.channel_id, "events cannot be taken");
                }
            }
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        false
    }
}

async fn due(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// What arrived, if it is for the session: not the protocol's own signs of life.
fn frame(read: Option<Result<Message, tungstenite::Error>>) -> Option<SessionFrame> {
    let gone = || SessionFrame::Closed { code: None, reason: String::new() };
    Some(match read {
        Some(Ok(Message::Text(text))) => SessionFrame::Text(text.as_str().to_owned()),
        Some(Ok(Message::Binary(bytes))) => SessionFrame::Binary(bytes.to_vec()),
        Some(Ok(Message::Close(Some(said)))) => SessionFrame::Closed {
            code: Some(said.code.into()),
            reason: said.reason.as_str().to_owned(),
        },
        Some(Ok(Message::Close(None)) | Err(_)) | None => gone(),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => return None,
    })
}

fn message(frame: SessionFrame) -> Message {
    match frame {
        SessionFrame::Text(text) => Message::text(text),
        SessionFrame::Binary(bytes) => Message::binary(bytes),
        SessionFrame::Closed { .. } => Message::Close(None),
    }
}
