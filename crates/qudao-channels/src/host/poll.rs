//! Platforms that are asked for what arrived. One node of all asks for a channel, by a lease in the
//! database; where to go on is kept once everything before it is durable.

use std::{sync::Arc, time::Duration};

use qudao_core::channel::{
    adapter::{ChannelAdapter, FailureReason, Outcome, Polled},
    setup::OpenChannel,
};
use qudao_domain::{ChannelId, TenantId};
use qudao_storage::{Poll, StorageError};
use qudao_telemetry::Trace;
use rand::RngExt as _;
use serde_json::Value;
use tokio::time::sleep;

use super::{Host, mail};

/// How often a node looks for channels that nobody asks for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Channels that one look takes at most.
const AT_A_TIME: u32 = 64;
/// How much longer than a question a lease is.
const MARGIN: Duration = Duration::from_secs(30);
/// The first lease: as long as a question may take.
const FIRST: Duration = Duration::from_secs(60);
/// Between two questions that are answered at once.
const BETWEEN: Duration = Duration::from_millis(50);
/// After a failure, at first and at most.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a channel is not asked for any more by this node.
pub(super) enum Ended {
    /// Another node has it, or it is closed.
    Lost,
    /// The node shuts down.
    Closing,
}

impl Host {
    /// Asks platforms, and holds the sockets of those that keep one open, until the host is closed.
    pub async fn poll(self: Arc<Self>) {
        loop {
            let wait = LOOK_EVERY.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = sleep(wait) => {}
            }
            match self.core.store.claim_polls(self.core.node, AT_A_TIME, FIRST).await {
                Ok(polls) => {
                    for poll in polls {
                        let (host, tasks) = (Arc::clone(&self), &self.core.tasks);
                        if self.sessions.contains_key(&poll.kind) {
                            tasks.spawn_on(host.hold(poll), &self.runtime);
                        } else {
                            tasks.spawn_on(host.ask(poll), &self.runtime);
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot look for channels to be asked for"),
            }
        }
    }

    async fn ask(self: Arc<Self>, poll: Poll) {
        let Poll { tenant_id, channel_id, mut cursor, .. } = poll;
        let mut failures = 0;
        loop {
            let asked = tokio::select! {
                () = self.closing.cancelled() => Err(Ended::Closing),
                asked = self.ask_once(tenant_id, channel_id, cursor.as_ref()) => asked,
            };
            let pause = match asked {
                Err(Ended::Closing) => {
                    self.let_go(tenant_id, channel_id).await;
                    return;
                }
                Err(Ended::Lost) => return,
                Ok(Ok(next)) => {
                    failures = 0;
                    cursor = next.or(cursor);
                    BETWEEN
                }
                Ok(Err(after)) => {
                    failures += 1;
                    let (first, most) = AFTER_FAILURE;
                    after.unwrap_or_else(|| (first * 2_u32.pow(failures.min(6) - 1)).min(most))
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Asks once. The new cursor, or how long to wait after a failure if somebody says.
    async fn ask_once(
        self: &Arc<Self>,
        tenant_id: TenantId,
        channel_id: ChannelId,
        cursor: Option<&Value>,
    ) -> Result<Result<Option<Value>, Option<Duration>>, Ended> {
        let Ok((channel, adapter)) = self.open(tenant_id, channel_id).await else {
            return self.keep(tenant_id, channel_id, None, MARGIN).await.map(|_| Err(None));
        };
        if !channel.open {
            return Err(Ended::Lost);
        }
        if mail::is_fetched(&channel) {
            self.keep(tenant_id, channel_id, None, mail::LOOK + MARGIN).await?;
            return Ok(match self.look_into_mailbox(&channel, cursor).await {
                Ok(polled) => self.take_polled(&channel, adapter, polled).await,
                Err(detail) => {
                    let reason = FailureReason::ProviderError;
                    Err(self.refused(&channel, Outcome::failed(reason, detail)).await)
                }
            });
        }
        let Some(plan) = adapter.poll(&channel.config, cursor) else {
            self.keep(tenant_id, channel_id, None, FIRST).await?;
            return Ok(Err(Some(FIRST / 2)));
        };
        self.keep(tenant_id, channel_id, None, plan.timeout + MARGIN).await?;
        let Ok(response) = self.request(&channel, &**adapter, &plan).await else {
            return Ok(Err(None));
        };
        let now = self.core.clock.now();
        let polled = match adapter.polled(&channel.config, &response, now) {
            Ok(polled) => polled,
            Err(outcome) => return Ok(Err(self.refused(&channel, outcome).await)),
        };
        Ok(self.take_polled(&channel, adapter, polled).await)
    }

    async fn take_polled(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        adapter: &Arc<dyn ChannelAdapter>,
        polled: Polled,
    ) -> Result<Option<Value>, Option<Duration>> {
        if let Err(error) = self.take_in(channel, adapter, &polled.events, Trace::NONE).await {
            // The same events come again, for the cursor stays.
            tracing::warn!(%error, channel = %channel.config.channel_id, "events cannot be taken");
            return Err(None);
        }
        let Some(cursor) = polled.cursor else { return Ok(None) };
        let (tenant_id, channel_id) = (channel.config.tenant_id, channel.config.channel_id);
        match self.keep(tenant_id, channel_id, Some(&cursor), MARGIN).await {
            Ok(()) => Ok(Some(cursor)),
            // The next question finds out.
            Err(_) => Ok(Some(cursor)),
        }
    }

    /// What an answer without events means for the channel, and how long to wait.
    async fn refused(&self, channel: &OpenChannel, outcome: Outcome) -> Option<Duration> {
        match outcome {
            Outcome::Retry { after, .. } => after,
            Outcome::TokenExpired => {
                self.drop_token(channel).await;
                None
            }
            Outcome::Failed(failure) => {
                let told = self.record_fault(channel, &failure.detail).await;
                if let Err(error) = told {
                    tracing::warn!(%error, "a channel's fault is not written down");
                }
                Some(AFTER_FAILURE.1)
            }
            Outcome::Sent { .. } | Outcome::Then(_) => None,
        }
    }

    pub(super) async fn record_fault(
        &self,
        channel: &OpenChannel,
        fault: &str,
    ) -> Result<(), StorageError> {
        let mut tx = self.core.store.begin(channel.config.tenant_id).await?;
        tx.record_channel_connection(channel.config.channel_id, Err(fault)).await?;
        tx.commit().await
    }

    pub(super) async fn keep(
        &self,
        tenant_id: TenantId,
        channel_id: ChannelId,
        cursor: Option<&Value>,
        lease: Duration,
    ) -> Result<(), Ended> {
        let kept = async {
            let mut tx = self.core.store.begin(tenant_id).await?;
            let kept = tx.keep_poll(channel_id, self.core.node, cursor, lease).await?;
            tx.commit().await?;
            Ok::<_, StorageError>(kept)
        };
        match kept.await {
            Ok(true) => Ok(()),
            // A lease that cannot be kept may be another's by now.
            Ok(false) | Err(_) => Err(Ended::Lost),
        }
    }

    /// Lets another node ask at once.
    async fn let_go(&self, tenant_id: TenantId, channel_id: ChannelId) {
        let _ = self.keep(tenant_id, channel_id, None, Duration::ZERO).await;
    }
}
