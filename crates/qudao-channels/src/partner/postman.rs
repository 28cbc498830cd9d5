//! The loop that sends what lies in partners' logs to their endpoints.

use std::{sync::Arc, time::Duration};

use qudao_core::{
    Core,
    channel::setup::OpenChannel,
    failpoint,
    letter::{Letter, Purpose, words::endpoint_paused_mail},
};
use qudao_domain::{ChannelId, TenantId, address::Email};
use qudao_pcp::{Event, EventId, kind};
use qudao_storage::{
    PartnerChannel, PartnerClaim, PartnerEnd, PartnerEvent, PartnerState, StorageError,
};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    courier::{Courier, Posted},
    keys::Keys,
    metrics,
    queue::{Place, announce, tell, tell_gap},
    rules::{BREAKER, COMPLAIN_AT, Verdict, judge, wait},
};

/// Requests at one time.
const IN_FLIGHT: usize = 64;
/// How long the log of ended events is kept, and how many go at a time.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const FORGOTTEN: u32 = 1000;
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Sends partners what lies in their logs.
#[derive(Debug, Clone, Copy)]
pub struct Postman {
    /// How long a claim is good: longer than a request may take.
    pub lease: Duration,
    /// How often the logs are looked at without a hint.
    pub poll: Duration,
}

impl Default for Postman {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), poll: Duration::from_millis(500) }
    }
}

/// The running loop. Dropping it lets it run on.
#[must_use = "the loop is ended through its handle"]
pub struct PostmanHandle {
    stop: CancellationToken,
    main: JoinHandle<()>,
    jobs: TaskTracker,
}

struct Shared {
    settings: Postman,
    core: Arc<Core>,
    courier: Courier,
    slots: Arc<Semaphore>,
    jobs: TaskTracker,
}

impl Postman {
    /// Starts the loop on the present runtime.
    pub fn start(self, core: Arc<Core>, courier: Courier) -> PostmanHandle {
        let (stop, jobs) = (CancellationToken::new(), TaskTracker::new());
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let shared = Arc::new(Shared { settings: self, core, courier, slots, jobs: jobs.clone() });
        let main = shared.core.tasks.spawn(run(Arc::clone(&shared), stop.clone()));
        PostmanHandle { stop, main, jobs }
    }
}

impl PostmanHandle {
    /// Claims nothing more and waits for what is on its way, until `deadline` has passed. What is
    /// not through by then is sent again, under the same id.
    pub async fn drain(self, deadline: Duration) {
        self.stop.cancel();
        let _ = self.main.await;
        self.jobs.close();
        let _ = time::timeout(deadline, self.jobs.wait()).await;
    }
}

async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut forgot = time::Instant::now();
    loop {
        let more = claim(&shared).await;
        if forgot.elapsed() >= FORGET_EVERY {
            forgot = time::Instant::now();
            if let Err(error) = shared.core.store.forget_partner_events(KEPT, FORGOTTEN).await {
                tracing::warn!(%error, "old events of partners are not forgotten");
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.core.wake.partner.notified() => {}
            () = time::sleep(shared.settings.poll) => {}
        }
    }
}

/// Claims as many events as there are free slots. Whether there may be more.
async fn claim(shared: &Arc<Shared>) -> bool {
    let free = shared.slots.available_permits();
    if free == 0 {
        return false;
    }
    let limit = u32::try_from(free).unwrap_or(u32::MAX);
    let claims =
        match shared.core.store.claim_partner_events(limit, shared.settings.lease, BREAKER.2).await
        {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "cannot claim events for partners");
                return false;
            }
        };
    let any = !claims.is_empty();
    for claim in claims {
        let shared = Arc::clone(shared);
        let Ok(slot) = Arc::clone(&shared.slots).acquire_owned().await else { return false };
        shared.jobs.clone().spawn(async move {
            let _slot = slot;
            if let Err(error) = serve(&shared, claim).await {
                // The lease runs out and it is sent again, under the same id.
                tracing::warn!(error, "an event for a partner is not written down");
            }
            // The next of its conversation may be waiting behind it.
            shared.core.wake.partner.notify_one();
        });
    }
    any
}

async fn serve(shared: &Shared, claim: PartnerClaim) -> Result<(), String> {
    failpoint!("post.claimed");
    let (tenant_id, channel_id) = match claim {
        PartnerClaim::Event { tenant_id, channel_id, .. }
        | PartnerClaim::Probe { tenant_id, channel_id } => (tenant_id, channel_id),
    };
    let setup = shared.core.channel_setup(tenant_id, channel_id).await;
    let Some(setup) = setup.map_err(|error| error.to_string())? else { return Ok(()) };
    let words = |error: StorageError| error.to_string();
    let mut tx = shared.core.store.begin(tenant_id).await.map_err(words)?;
    let partner = tx.partner_channel(channel_id).await.map_err(words)?;
    let event = match claim {
        PartnerClaim::Event { cursor, .. } => {
            tx.partner_event(channel_id, cursor).await.map_err(words)?
        }
        PartnerClaim::Probe { .. } => None,
    };
    tx.commit().await.map_err(words)?;
    let Some(partner) = partner else { return Ok(()) };
    let round = Round { shared, tenant_id, channel_id, setup: &setup, partner: &partner };
    match event {
        Some(event) => round.send(&event).await.map_err(words),
        None => round.probe().await.map_err(words),
    }
}

/// One request to one endpoint.
struct Round<'a> {
    shared: &'a Shared,
    tenant_id: TenantId,
    channel_id: ChannelId,
    setup: &'a OpenChannel,
    partner: &'a PartnerChannel,
}

impl Round<'_> {
    fn place<'b>(&self, thread: &'b str) -> Place<'b> {
        let (tenant_id, channel_id) = (self.tenant_id, self.channel_id);
        Place { tenant_id, channel_id, thread, conversation_id: None }
    }

    async fn post(&self, id: &EventId, body: &[u8], replayed: bool) -> Result<Posted, String> {
        let Shared { core, courier, .. } = self.shared;
        let url = self.setup.config.setting("endpoint_url").unwrap_or_default();
        let keys = Keys::of(&self.setup.config);
        let to = (url, self.partner.sandbox);
        courier.post(to, &keys, (id, body, replayed), core.clock.now()).await
    }

    /// Whether a paused endpoint answers again.
    async fn probe(&self) -> Result<(), StorageError> {
        let now = self.shared.core.clock.now();
        let mut ping = Event::new(kind::PING, now, json!({}));
        ping.tenant = Some(self.tenant_id.to_string());
        ping.channel = Some(self.channel_id.to_string());
        let posted = self.post(&ping.id, &ping.to_bytes(), false).await;
        let well = posted.is_ok_and(|posted| (200..300).contains(&posted.status));
        let mut tx = self.shared.core.store.begin(self.tenant_id).await?;
        tx.count_partner_attempt(self.channel_id, well, BREAKER).await?;
        if well {
            tx.record_channel_connection(self.channel_id, Ok(None)).await?;
        }
        tx.commit().await
    }

    async fn send(&self, event: &PartnerEvent) -> Result<(), StorageError> {
        if event.is_expired {
            metrics::delivered("expired");
            return self.give_up(event, PartnerState::Expired, "expired", None).await;
        }
        let Ok(id) = EventId::parse(&event.event_id) else {
            metrics::delivered("unsendable");
            return self.give_up(event, PartnerState::Dead, "unsendable", None).await;
        };
        let mut posted = self.post(&id, &event.body, event.replayed).await;
        if event.fault.as_deref() == Some("dup") {
            posted = self.post(&id, &event.body, event.replayed).await;
        }
        failpoint!("post.sent");
        let posted = match posted {
            Ok(posted) => posted,
            Err(detail) => {
                let verdict = Verdict::Again { after: None, turned_away: false };
                return self.again(event, &verdict, None, &detail).await;
            }
        };
        match judge(&posted) {
            Verdict::Done(delivered) => {
                metrics::delivered("delivered");
                let external_id = delivered.external_message_id.as_deref();
                let end = PartnerEnd {
                    state: PartnerState::Done,
                    delay: Duration::ZERO,
                    status: Some(posted.status),
                    error: None,
                    answer: &excerpt(&posted.body),
                    external_id,
                };
                let mut tx = self.shared.core.store.begin(self.tenant_id).await?;
                let at = (event.cursor, event.attempts);
                tx.end_partner_attempt(self.channel_id, at, &end).await?;
                tx.count_partner_attempt(self.channel_id, true, BREAKER).await?;
                tx.commit().await?;
                failpoint!("post.recorded");
                Ok(())
            }
            Verdict::Gone => {
                metrics::delivered("gone");
                let mut tx = self.shared.core.store.begin(self.tenant_id).await?;
                tx.disable_partner_endpoint(self.channel_id).await?;
                let words = "the endpoint answered 410: verify it again to go on";
                tx.record_channel_connection(self.channel_id, Err(words)).await?;
                // The event stays, for whoever verifies the endpoint or reads the log.
                let end = ready_after(Duration::ZERO, &posted, "gone");
                let at = (event.cursor, event.attempts);
                tx.end_partner_attempt(self.channel_id, at, &end).await?;
                tx.commit().await
            }
            Verdict::Poison => {
                metrics::delivered("dead");
                self.give_up(event, PartnerState::Dead, "refused", Some(&posted)).await
            }
            verdict @ Verdict::Again { .. } => {
                self.again(event, &verdict, Some(&posted), "the endpoint did not take it").await
            }
        }
    }

    async fn again(
        &self,
        event: &PartnerEvent,
        verdict: &Verdict,
        posted: Option<&Posted>,
        detail: &str,
    ) -> Result<(), StorageError> {
        let Verdict::Again { after, turned_away } = *verdict else { return Ok(()) };
        let Some(delay) = wait(event.tries, after, self.partner.sandbox) else {
            metrics::delivered("dead");
            return self.give_up(event, PartnerState::Dead, "attempts_exhausted", posted).await;
        };
        metrics::delivered("failed");
        let mut tx = self.shared.core.store.begin(self.tenant_id).await?;
        let end = PartnerEnd {
            state: PartnerState::Ready,
            delay,
            status: posted.map(|posted| posted.status),
            error: Some(detail),
            answer: &posted.map(|posted| excerpt(&posted.body)).unwrap_or_default(),
            external_id: None,
        };
        tx.end_partner_attempt(self.channel_id, (event.cursor, event.attempts), &end).await?;
        if turned_away && event.tries == COMPLAIN_AT {
            let words = "the endpoint turns events away: look at its keys and its address";
            tx.record_channel_connection(self.channel_id, Err(words)).await?;
            let data =
                json!({ "reason": "auth", "status": end.status, "event_id": event.event_id });
            let now = self.shared.core.clock.now();
            tell(&mut tx, self.place(""), kind::CHANNEL_ERROR, data, now).await?;
        }
        // Who asks us to wait is not failing.
        let polite = after.is_some();
        let opened = !polite && tx.count_partner_attempt(self.channel_id, false, BREAKER).await?;
        if opened {
            metrics::breaker_opened();
            let words = "the endpoint keeps failing: it is asked once a minute whether it is back";
            tx.record_channel_connection(self.channel_id, Err(words)).await?;
        }
        tx.commit().await?;
        if opened {
            self.write_to_contact().await?;
        }
        Ok(())
    }

    /// Lets the partner's people know that nothing is sent to them. A node that dies just before
    /// writes no mail; the channel says it all the same.
    async fn write_to_contact(&self) -> Result<(), StorageError> {
        let (core, config) = (&self.shared.core, &self.setup.config);
        let to = config.setting("contact_email").filter(|_| core.sends_mail());
        let Some(Ok(to)) = to.map(Email::parse) else { return Ok(()) };
        let url = config.setting("endpoint_url").and_then(|url| url::Url::parse(url).ok());
        let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
        let channel = self.channel_id.to_string();
        let mail = endpoint_paused_mail(&config.locale, &channel, to.as_str(), host);
        let letter = Letter::Mail(mail);
        let sealed = match core.seal_letter(self.tenant_id, Purpose::Notice, &letter).await {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::warn!(%error, "a letter to a partner could not be sealed");
                return Ok(());
            }
        };
        let mut tx = core.store.begin(self.tenant_id).await?;
        sealed.send(&mut tx, None).await?;
        tx.commit().await?;
        core.wake.letters.notify_one();
        Ok(())
    }

    /// Nothing more is tried; the conversation goes on, and the partner learns of the gap.
    async fn give_up(
        &self,
        event: &PartnerEvent,
        state: PartnerState,
        reason: &str,
        posted: Option<&Posted>,
    ) -> Result<(), StorageError> {
        let mut tx = self.shared.core.store.begin(self.tenant_id).await?;
        let end = PartnerEnd {
            state,
            delay: Duration::ZERO,
            status: posted.map(|posted| posted.status),
            error: Some(reason),
            answer: &posted.map(|posted| excerpt(&posted.body)).unwrap_or_default(),
            external_id: None,
        };
        let at = (event.cursor, event.attempts);
        let ours = tx.end_partner_attempt(self.channel_id, at, &end).await?;
        if let Some(seq) = event.seq.filter(|_| ours) {
            let now = self.shared.core.clock.now();
            tell_gap(&mut tx, self.place(&event.thread), seq, reason, now).await?;
        }
        tx.commit().await?;
        announce(&self.shared.core, self.channel_id).await;
        Ok(())
    }
}

fn ready_after<'a>(delay: Duration, posted: &Posted, error: &'a str) -> PartnerEnd<'a> {
    PartnerEnd {
        state: PartnerState::Ready,
        delay,
        status: Some(posted.status),
        error: Some(error),
        answer: "",
        external_id: None,
    }
}

/// What is kept of an answer. Postgres keeps no U+0000.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..2048).unwrap_or(body));
    text.chars().filter(|letter| *letter != '\0').collect()
}
