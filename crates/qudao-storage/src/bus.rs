//! Redis as a bus for hints and previews between nodes. Nothing that matters depends on it: when
//! Redis is gone, what is published is dropped and counted, and subscriptions come back when it
//! does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::counter;
use qudao_domain::{ChannelId, ConversationId};
use redis::{
    Client,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use crate::{Result, StorageError, error::BusUrlError};

mod hub;
mod mailbox;

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
        }
    }
}

/// The bus. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    /// Connects at the first use, so that a node starts without Redis, and again by itself.
    publisher: ConnectionManager,
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
    /// The bus at `redis://…` or `redis+unix:///path`. Succeeds while Redis is away. The runtime
    /// within which it is called does the listening for all subscriptions.
    ///
    /// # Errors
    /// [`StorageError::BadBusUrl`].
    pub fn connect(url: &str) -> Result<Self> {
        let bad = |error| StorageError::BadBusUrl(BusUrlError(error));
        let client = Client::open(url).map_err(bad)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let publisher = client.get_connection_manager_lazy(config).map_err(bad)?;
        let shared = Shared {
            client,
            publisher,
            hub: OnceLock::new(),
            runtime: Handle::try_current().ok(),
            dropped: AtomicU64::new(0),
            failed_at: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The way to Redis for commands; all share one connection.
    pub(crate) fn commands(&self) -> ConnectionManager {
        self.shared.publisher.clone()
    }

    /// Whom it reaches Redis as.
    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Publishes, or drops the message and counts it. Waits half a second at most, and not at
    /// all shortly after a failure.
    pub async fn publish(&self, topic: &Topic, payload: Vec<u8>) {
        if self.failed_lately() || !self.try_publish(topic, payload).await {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            counter!("qudao_bus_dropped_total").increment(1);
        }
    }

    async fn try_publish(&self, topic: &Topic, payload: Vec<u8>) -> bool {
        let mut connection = self.commands();
        let mut command = redis::cmd("PUBLISH");
        command.arg(topic.name()).arg(payload);
        let sent = command.query_async::<i64>(&mut connection);
        let published = matches!(timeout(PATIENCE, sent).await, Ok(Ok(_)));
        if !published {
            *self.failure() = Some(Instant::now());
        }
        published
    }

    /// How many messages were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> bool {
        let mut connection = self.commands();
        let command = redis::cmd("PING");
        matches!(timeout(PATIENCE, command.query_async::<String>(&mut connection)).await, Ok(Ok(_)))
    }

    /// Watches a topic. All subscriptions of a bus share one connection.
    ///
    /// # Panics
    /// Outside of a runtime, if the bus was made outside of one too.
    pub fn subscribe(&self, topic: &Topic) -> Subscription {
        let Shared { client, hub, runtime, .. } = &*self.shared;
        let hub = hub.get_or_init(|| {
            let runtime = runtime.clone().unwrap_or_else(Handle::current);
            Hub::start(client.clone(), &runtime)
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
