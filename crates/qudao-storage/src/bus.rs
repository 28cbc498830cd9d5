//! Redis as a bus for hints and previews between nodes. Nothing that matters depends on it: when
//! Redis is gone, what is published is dropped and counted, and subscriptions come back when it
//! does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::counter;
use qudao_domain::{ChannelId, ConversationId};
use redis::{
    Client, FromRedisValue,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use crate::{Result, StorageError, error::BusUrlError};

mod breakers;
mod hub;
mod mailbox;

pub use breakers::OpenBreaker;
use hub::{Hub, Watch};

/// How long a publication or a connection may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a lost connection is let rest before the next try.
const RETRY: Duration = Duration::from_millis(250);

/// What a message on the bus is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// What watching clients of a conversation see of its running turn.
    Preview(ConversationId),
    /// Orders to whoever runs a conversation's turn.
    Control(ConversationId),
    /// A person without a conversation in this channel, by the hash of who it is, begins one.
    Arrival(ChannelId, [u8; 32]),
    /// A conversation is ready to be claimed.
    WakeTurns,
    /// An outbound message is ready to be sent.
    WakeOutbox,
    /// A partner's log of events has grown.
    Partner(ChannelId),
    /// A key is not what it was.
    KeyChanged,
    /// A model began to fail, or serves again.
    Breakers,
}

impl Topic {
    /// The channel's name in Redis. What belongs to one conversation shares a hash tag, so that a
    /// cluster keeps it together.
    pub fn name(&self) -> String {
        match self {
            Self::Preview(id) => format!("qd:{{{}}}:preview", id.as_uuid()),
            Self::Control(id) => format!("qd:{{{}}}:control", id.as_uuid()),
            Self::Arrival(id, peer) => {
                let peer: String = peer.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("qd:{{{}:{peer}}}:arrival", id.as_uuid())
            }
            Self::WakeTurns => "qd:wake:turns".to_owned(),
            Self::WakeOutbox => "qd:wake:outbox".to_owned(),
            Self::Partner(id) => format!("qd:{{{}}}:partner", id.as_uuid()),
            Self::KeyChanged => "qd:keys:changed".to_owned(),
            Self::Breakers => "qd:breakers:changed".to_owned(),
        }
    }
}

/// The bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    clients: Vec<Client>,
    /// One for each server. They connect at the first use, so that a node starts without Redis,
    /// and again by themselves.
    publishers: Vec<ConnectionManager>,
    /// The server that answered last.
    current: AtomicUsize,
    /// All subscriptions listen through it; it starts with the first.
    hub: OnceLock<Hub>,
    /// The runtime of whoever connected, which outlives those of the subscribers.
    runtime: Option<Handle>,
    dropped: AtomicU64,
    /// When a publication last failed: for a moment after that, others do not wait.
    failed_at: Mutex<Option<Instant>>,
}

/// What a subscription sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// From now on nothing is missed. What was published before, while Redis was gone, or faster
    /// than this subscription was read, is lost: read the truth from the database now.
    Ready,
    /// A message.
    Message(Vec<u8>),
}

/// A view of one topic. Dropping it ends it.
pub struct Subscription {
    watch: Watch,
}

impl Bus {
    /// The bus at `redis://…` or `redis+unix:///path`, or at the servers of a cluster,
    /// `redis-cluster://one:6379,two:6379`. A cluster hands on what is published at any of its
    /// servers to all of them, so the bus needs one that answers. Succeeds while Redis is away.
    /// The runtime within which it is called does the listening for all subscriptions.
    ///
    /// # Errors
    /// [`StorageError::BadBusUrl`].
    pub fn connect(url: &str) -> Result<Self> {
        let bad = |error| StorageError::BadBusUrl(BusUrlError(error));
        let clients: Result<Vec<_>, _> = servers(url).into_iter().map(Client::open).collect();
        let clients = clients.map_err(bad)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let publisher =
            |client: &Client| client.get_connection_manager_lazy(config.clone()).map_err(bad);
        let publishers: Result<Vec<_>> = clients.iter().map(publisher).collect();
        let shared = Shared {
            publishers: publishers?,
            clients,
            current: AtomicUsize::new(0),
            hub: OnceLock::new(),
            runtime: Handle::try_current().ok(),
            dropped: AtomicU64::new(0),
            failed_at: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The way to Redis for commands; all share one connection.
    pub(crate) fn commands(&self) -> ConnectionManager {
        let Shared { publishers, current, .. } = &*self.shared;
        publishers[current.load(Ordering::Relaxed) % publishers.len()].clone()
    }

    /// Whom it reaches Redis as.
    pub(crate) fn client(&self) -> &Client {
        &self.shared.clients[0]
    }

    /// Publishes, or drops the message and counts it. Waits half a second at most for each server,
    /// and not at all shortly after a failure.
    pub async fn publish(&self, topic: &Topic, payload: Vec<u8>) {
        if self.failed_lately() || !self.try_publish(topic, payload).await {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            counter!("qudao_bus_dropped_total").increment(1);
        }
    }

    /// Tries each server once, the one that answered last first.
    async fn try_publish(&self, topic: &Topic, payload: Vec<u8>) -> bool {
        let mut command = redis::cmd("PUBLISH");
        command.arg(topic.name()).arg(payload);
        let published = self.ask::<i64>(&command).await.is_some();
        if !published {
            *self.failure() = Some(Instant::now());
        }
        published
    }

    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Option<T> {
        let Shared { publishers, current, .. } = &*self.shared;
        for _ in publishers {
            let index = current.load(Ordering::Relaxed);
            let mut connection = publishers[index % publishers.len()].clone();
            let answered = timeout(PATIENCE, command.query_async::<T>(&mut connection)).await;
            if let Ok(Ok(answer)) = answered {
                return Some(answer);
            }
            // Others may have gone on to the next one already.
            let next = index.wrapping_add(1);
            let _ = current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        None
    }

    /// How many messages were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> bool {
        self.ask::<String>(&redis::cmd("PING")).await.is_some()
    }

    /// Watches a topic. All subscriptions of a bus share one connection.
    ///
    /// # Panics
    /// Outside of a runtime, if the bus was made outside of one too.
    pub fn subscribe(&self, topic: &Topic) -> Subscription {
        let Shared { clients, hub, runtime, .. } = &*self.shared;
        let hub = hub.get_or_init(|| {
            let runtime = runtime.clone().unwrap_or_else(Handle::current);
            Hub::start(clients.clone(), &runtime)
        });
        Subscription { watch: hub.watch(topic.name()) }
    }

    fn failed_lately(&self) -> bool {
        self.failure().is_some_and(|at| at.elapsed() < RETRY)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shared.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A URL for each server that a URL names.
fn servers(url: &str) -> Vec<String> {
    let Some(rest) = url.strip_prefix("redis-cluster://") else { return vec![url.to_owned()] };
    let (user, hosts) = rest.rsplit_once('@').map_or(("", rest), |(user, hosts)| (user, hosts));
    let at = if user.is_empty() { "" } else { "@" };
    hosts.split(',').map(|host| format!("redis://{user}{at}{host}")).collect()
}

impl Subscription {
    /// The next event. Waits for ever while Redis is away. Safe to cancel: an event is either
    /// returned or seen by the next call.
    pub async fn next(&mut self) -> BusEvent {
        self.watch.next().await
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("name", &self.watch.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::servers;

    #[test]
    fn each_server_of_a_cluster_gets_the_name_and_the_password() {
        assert_eq!(servers("redis://one:6379/2"), ["redis://one:6379/2"]);
        assert_eq!(
            servers("redis-cluster://me:se@cret@one:1,two:2"),
            ["redis://me:se@cret@one:1", "redis://me:se@cret@two:2"]
        );
    }
}
