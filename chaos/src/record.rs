//! What outsiders saw, in the order in which they saw it. Every entry goes to a file before it
//! counts, so the record does not depend on the database that it is compared with.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::plan::Delivery;

/// One thing that an outsider saw.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// A message was acknowledged to the platform.
    Acknowledged {
        /// The platform's own id of the message.
        id: String,
    },
    /// The remote received a message.
    Delivered(Delivery),
    /// A messaging platform or a partner received one.
    Taken {
        /// Its own id of the conversation.
        peer: String,
        /// The outbox's message that it is made of, where the wire says so.
        outbox: Option<String>,
    },
    /// A caller sent an API call.
    Called {
        /// The caller's tenant.
        tenant: String,
    },
    /// A caller read the end of an API call.
    Confirmed {
        /// The caller's tenant.
        tenant: String,
    },
}

/// An entry with its time since the record began.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// When.
    pub at: Duration,
    /// What.
    pub seen: Seen,
}

/// The append-only record of a run.
#[derive(Debug, Clone)]
pub struct Record {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    entries: Vec<Entry>,
    /// When the database was down.
    outages: Vec<(Duration, Duration)>,
}

impl Record {
    /// Begins one in this folder.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(folder: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(folder.join("record.jsonl"))
            .context("making the record")?;
        let inner = Inner { file, entries: Vec::new(), outages: Vec::new() };
        Ok(Self { began: Instant::now(), inner: Arc::new(Mutex::new(inner)) })
    }

    /// Writes an entry down.
    ///
    /// # Errors
    /// If the file does not take it; whoever asked must not be told that it was seen.
    pub fn add(&self, seen: Seen) -> anyhow::Result<()> {
        let mut inner = self.inner();
        let entry = Entry { at: self.began.elapsed(), seen };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        inner.file.write_all(&line).context("writing the record")?;
        inner.entries.push(entry);
        Ok(())
    }

    /// How long the record has been kept.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The database was down since then.
    pub fn outage_since(&self, since: Instant) {
        let outage = (since.saturating_duration_since(self.began), self.began.elapsed());
        self.inner().outages.push(outage);
    }

    /// Everything so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// How much of a span of time the database was down.
    pub fn outage_within(&self, from: Duration, to: Duration) -> Duration {
        let overlap = |(a, b): &(Duration, Duration)| (*b).min(to).saturating_sub((*a).max(from));
        self.inner().outages.iter().map(overlap).sum()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
