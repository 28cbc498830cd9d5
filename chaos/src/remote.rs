//! The other side of the channel: it writes down what it receives before it says that it did.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{
    plan::Delivery,
    record::{Record, Seen},
};

/// How long the rebuffing remote waits for a later message of the conversation, from the moment at
/// which it first refused the first one.
const REBUFF: Duration = Duration::from_secs(10);

/// The fake remote.
#[derive(Debug)]
pub struct Remote {
    /// Where it listens.
    pub socket: PathBuf,
    away: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Desk {
    record: Record,
    away: Arc<AtomicBool>,
    rebuffs: bool,
    rebuffed: Arc<OnceLock<Instant>>,
    /// A later message than the first has come.
    overtaken: Arc<AtomicBool>,
}

impl Remote {
    /// Listens in this folder.
    ///
    /// With `rebuffs` it refuses the first message of the conversation until it has had a later one,
    /// or for a while.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn open(folder: &Path, record: Record, rebuffs: bool) -> anyhow::Result<Self> {
        let socket = folder.join("remote.sock");
        let listener = UnixListener::bind(&socket).context("opening the remote")?;
        let away = Arc::new(AtomicBool::new(false));
        let desk = Desk {
            record,
            away: Arc::clone(&away),
            rebuffs,
            rebuffed: Arc::default(),
            overtaken: Arc::default(),
        };
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, desk.clone()));
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { socket, away, _serving: serving })
    }

    /// Hangs up on everybody from now on, or no longer.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

async fn serve(stream: UnixStream, desk: Desk) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| 0 < read) {
        let Ok(delivery) = serde_json::from_str::<Delivery>(&line) else { return };
        let rebuffed = desk.rebuffs
            && delivery.out_seq == 1
            && !desk.overtaken.load(Ordering::SeqCst)
            && desk.rebuffed.get_or_init(Instant::now).elapsed() < REBUFF;
        if desk.away.load(Ordering::SeqCst) || rebuffed {
            return;
        }
        let later = 1 < delivery.out_seq;
        if desk.record.add(Seen::Delivered(delivery)).is_err() {
            return;
        }
        desk.overtaken.fetch_or(later, Ordering::SeqCst);
        if stream.write_all(b"ok\n").await.is_err() {
            return;
        }
        line.clear();
    }
}
