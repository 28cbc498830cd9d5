//! The node's one listening connection, shared by all its subscriptions.
//!
//! A task of its own keeps the connection and the list of who watches what. It subscribes to a
//! topic with the first watcher and leaves it with the last; after a lost connection it
//! subscribes to all of them again and tells every watcher that it may have missed something.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use metrics::{Gauge, counter, gauge};
use redis::{
    Client, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{Instant, sleep_until, timeout},
};

use super::{BusEvent, PATIENCE, RETRY, mailbox::Mailbox};

/// Changes that are taken at one time, and so share one command to Redis.
const BATCH: usize = 512;
/// How often a silent connection is asked whether it lives: the other side of a lost network
/// says nothing.
const PROBE: Duration = Duration::from_secs(10);

/// The way to the task.
#[derive(Clone)]
pub(super) struct Hub {
    changes: UnboundedSender<Change>,
    ids: Arc<AtomicU64>,
    watchers: Gauge,
}

enum Change {
    Watch { name: Arc<str>, id: u64, mailbox: Arc<Mailbox> },
    Leave { name: Arc<str>, id: u64 },
}

/// One watcher of one topic. Dropping it ends it.
pub(super) struct Watch {
    hub: Hub,
    name: Arc<str>,
    id: u64,
    mailbox: Arc<Mailbox>,
}

impl Hub {
    /// Starts the task, which no drain needs to wait for. It connects when the first watcher
    /// comes, and ends with the last handle.
    pub(super) fn start(servers: Vec<Client>, runtime: &Handle) -> Self {
        let (changes, incoming) = mpsc::unbounded_channel();
        runtime.spawn(run(servers, incoming));
        Self { changes, ids: Arc::default(), watchers: gauge!("qudao_bus_watchers") }
    }

    pub(super) fn watch(&self, name: String) -> Watch {
        let (name, mailbox) = (Arc::<str>::from(name), Arc::<Mailbox>::default());
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (topic, inbox) = (Arc::clone(&name), Arc::clone(&mailbox));
        self.watchers.increment(1);
        // Fails only while the runtime ends, and nobody reads then.
        let _ = self.changes.send(Change::Watch { name: topic, id, mailbox: inbox });
        Watch { hub: self.clone(), name, id, mailbox }
    }
}

impl Watch {
    pub(super) async fn next(&self) -> BusEvent {
        self.mailbox.next().await
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.watchers.decrement(1);
        let _ = self.hub.changes.send(Change::Leave { name: Arc::clone(&self.name), id: self.id });
    }
}

/// Who watches what.
#[derive(Default)]
struct Watchers {
    topics: HashMap<Arc<str>, HashMap<u64, Arc<Mailbox>>>,
}

impl Watchers {
    /// Takes note of changes; the topics that they touch, and whom to tell when the topics are
    /// listened to.
    fn apply(&mut self, changes: &mut Vec<Change>) -> (HashSet<Arc<str>>, Vec<Arc<Mailbox>>) {
        let (mut touched, mut new) = (HashSet::new(), Vec::new());
        for change in changes.drain(..) {
            match change {
                Change::Watch { name, id, mailbox } => {
                    new.push(Arc::clone(&mailbox));
                    self.topics.entry(Arc::clone(&name)).or_default().insert(id, mailbox);
                    touched.insert(name);
                }
                Change::Leave { name, id } => {
                    if let Some(watchers) = self.topics.get_mut(&name) {
                        watchers.remove(&id);
                        if watchers.is_empty() {
                            self.topics.remove(&name);
                        }
                    }
                    touched.insert(name);
                }
            }
        }
        (touched, new)
    }

    fn deliver(&self, name: &str, payload: &[u8]) {
        let Some(watchers) = self.topics.get(name) else { return };
        let payload: Arc<[u8]> = payload.into();
        for mailbox in watchers.values() {
            mailbox.put(Arc::clone(&payload));
        }
    }

    fn all_ready(&self) {
        for mailbox in self.topics.values().flat_map(HashMap::values) {
            mailbox.ready();
        }
    }
}

async fn run(servers: Vec<Client>, mut changes: UnboundedReceiver<Change>) {
    let mut watchers = Watchers::default();
    let mut batch = Vec::new();
    // In a cluster any server that answers will do.
    for server in servers.iter().cycle() {
        while watchers.topics.is_empty() {
            if changes.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            watchers.apply(&mut batch);
        }
        if let Ok(Ok(mut line)) = timeout(PATIENCE, Line::open(server)).await
            && line.serve(&mut watchers, &mut changes).await.is_break()
        {
            return;
        }
        // Redis is away. Watchers come and go meanwhile.
        let retry_at = Instant::now() + RETRY;
        loop {
            tokio::select! {
                () = sleep_until(retry_at) => break,
                taken = changes.recv_many(&mut batch, BATCH) => match taken {
                    0 => return,
                    _ => { watchers.apply(&mut batch); }
                },
            }
        }
    }
}

/// A connection and what it listens to.
struct Line {
    sink: PubSubSink,
    stream: PubSubStream,
    heard: HashSet<Arc<str>>,
}

impl Line {
    async fn open(client: &Client) -> RedisResult<Self> {
        let (sink, stream) = client.get_async_pubsub().await?.split();
        counter!("qudao_bus_listens_total").increment(1);
        Ok(Self { sink, stream, heard: HashSet::new() })
    }

    /// Listens until the connection is lost; breaks when nobody can watch any more.
    async fn serve(
        &mut self,
        watchers: &mut Watchers,
        changes: &mut UnboundedReceiver<Change>,
    ) -> ControlFlow<()> {
        let all: HashSet<Arc<str>> = watchers.topics.keys().cloned().collect();
        if self.follow(watchers, all).await.is_err() {
            return ControlFlow::Continue(());
        }
        watchers.all_ready();
        let mut batch = Vec::new();
        loop {
            let probe_at = Instant::now() + PROBE;
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(message) => {
                        watchers.deliver(message.get_channel_name(), message.get_payload_bytes());
                    }
                    None => return ControlFlow::Continue(()),
                },
                taken = changes.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return ControlFlow::Break(());
                    }
                    let (touched, new) = watchers.apply(&mut batch);
                    if self.follow(watchers, touched).await.is_err() {
                        return ControlFlow::Continue(());
                    }
                    for mailbox in new {
                        mailbox.ready();
                    }
                },
                () = sleep_until(probe_at) => {
                    let pong = timeout(PATIENCE, self.sink.ping::<redis::Value>()).await;
                    if !matches!(pong, Ok(Ok(_))) {
                        return ControlFlow::Continue(());
                    }
                },
            }
        }
    }

    /// Begins to listen to what of these topics is watched, and ceases where nobody watches.
    async fn follow(&mut self, watchers: &Watchers, topics: HashSet<Arc<str>>) -> Result<(), Lost> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for name in topics {
            match (watchers.topics.contains_key(&name), self.heard.contains(&name)) {
                (true, false) => wanted.push(name),
                (false, true) => unwanted.push(name),
                _ => {}
            }
        }
        for names in wanted.chunks(BATCH) {
            let texts: Vec<&str> = names.iter().map(|name| &**name).collect();
            in_time(self.sink.subscribe(&texts)).await?;
        }
        for names in unwanted.chunks(BATCH) {
            let texts: Vec<&str> = names.iter().map(|name| &**name).collect();
            in_time(self.sink.unsubscribe(&texts)).await?;
        }
        for name in &unwanted {
            self.heard.remove(name);
        }
        self.heard.extend(wanted);
        Ok(())
    }
}

/// The connection does not answer.
struct Lost;

async fn in_time<F: Future<Output = RedisResult<()>>>(command: F) -> Result<(), Lost> {
    match timeout(PATIENCE, command).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Lost),
    }
}
