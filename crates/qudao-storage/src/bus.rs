//! Redis as a bus for hints and previews between nodes. Nothing that matters depends on it: when
//! Redis is gone, what is published is dropped and counted, and subscriptions come back when it
//! does.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use metrics::counter;
use qudao_domain::ConversationId;
use redis::{
    Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSubStream},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Result, StorageError, error::BusUrlError};

/// How long a publication or a connection may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a subscription waits before it tries to come back.
const RETRY: Duration = Duration::from_millis(250);

/// What a message on the bus is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// What watching clients of a conversation see of its running turn.
    Preview(ConversationId),
    /// Orders to whoever runs a conversation's turn.
    Control(ConversationId),
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
    dropped: AtomicU64,
    /// When a publication last failed: for a moment after that, others do not wait.
    failed_at: Mutex<Option<Instant>>,
}

/// What a subscription sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// From now on nothing is missed. What was published before, or while Redis was gone, is
    /// lost: read the truth from the database now.
    Ready,
    /// A message.
    Message(Vec<u8>),
}

/// A view of one topic. Dropping it ends it.
pub struct Subscription {
    client: Client,
    name: String,
    stream: Option<PubSubStream>,
}

impl Bus {
    /// The bus at `redis://…` or `redis+unix:///path`. Succeeds while Redis is away.
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
        let shared =
            Shared { client, publisher, dropped: AtomicU64::new(0), failed_at: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared) })
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
        let mut connection = self.shared.publisher.clone();
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
        let mut connection = self.shared.publisher.clone();
        let command = redis::cmd("PING");
        matches!(timeout(PATIENCE, command.query_async::<String>(&mut connection)).await, Ok(Ok(_)))
    }

    /// Watches a topic. [`Subscription::next`] does the connecting.
    pub fn subscribe(&self, topic: &Topic) -> Subscription {
        Subscription { client: self.shared.client.clone(), name: topic.name(), stream: None }
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
        loop {
            let Some(stream) = &mut self.stream else {
                match timeout(PATIENCE, open(&self.client, &self.name)).await {
                    Ok(Ok(stream)) => {
                        self.stream = Some(stream);
                        return BusEvent::Ready;
                    }
                    Ok(Err(_)) | Err(_) => sleep(RETRY).await,
                }
                continue;
            };
            match stream.next().await {
                Some(message) => return BusEvent::Message(message.get_payload_bytes().to_vec()),
                None => self.stream = None,
            }
        }
    }
}

async fn open(client: &Client, name: &str) -> RedisResult<PubSubStream> {
    let mut pubsub = client.get_async_pubsub().await?;
    pubsub.subscribe(name).await?;
    Ok(pubsub.into_on_message())
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("name", &self.name).finish_non_exhaustive()
    }
}
