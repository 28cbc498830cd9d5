//! A database per test.

use std::{
    fs::{self, File, OpenOptions},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    thread::{self, JoinHandle},
};

use qudao_storage::{Store, StoreSettings};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::cluster::{admin_url, psql};

/// A fresh database with the schema and no rows; dropped with the value.
#[derive(Debug)]
pub struct TestDb {
    admin_url: String,
    name: String,
    url: String,
    store: Store,
}

impl TestDb {
    /// Clones the template.
    ///
    /// # Panics
    /// If there is no Postgres to be had or the migrations fail.
    pub async fn new() -> Self {
        let db = Self::create(Some(&template().await)).await;
        // Opened once here, so that a test does not measure the first connection.
        db.store.ping().await.expect("the new database answers");
        db
    }

    /// A database without a schema, for tests of the migrations themselves.
    ///
    /// # Panics
    /// If there is no Postgres to be had.
    pub async fn empty() -> Self {
        // A store takes on a role that the first migration of a server makes.
        template().await;
        Self::create(None).await
    }

    async fn create(template: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        let admin_url = admin_url().await;
        let template = template.map(|name| format!("TEMPLATE {name}")).unwrap_or_default();
        // A process id may come back on a server that is kept for long.
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let create = format!("CREATE DATABASE {name} {template}");
        // Not on this thread: others of a test that makes several are connecting meanwhile.
        let server = admin_url.clone();
        let made = tokio::task::spawn_blocking(move || psql(&server, &[&drop, &create])).await;
        made.expect("psql runs").expect("a database can be created");
        let url = with_database(&admin_url, &name);
        let store = connect(test_settings(&url)).await;
        Self { admin_url, name, url, store }
    }

    /// How to reach it, as the owner of the schema.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A store that is connected to it.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Runs SQL as the owner of the schema and returns what it prints, a row per line.
    ///
    /// # Panics
    /// If a statement fails.
    pub fn psql(&self, sql: &str) -> String {
        psql(&self.url, &[sql]).expect("the statement succeeds")
    }

    /// The same on a thread of its own, which panics if a statement fails.
    pub fn psql_beside(&self, sql: &str) -> JoinHandle<String> {
        let (url, sql) = (self.url.clone(), sql.to_owned());
        thread::spawn(move || psql(&url, &[&sql]).expect("the statement succeeds"))
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // Its server may be gone already, and the database with it.
        let _ = psql(&self.admin_url, &[&drop]);
    }
}

/// The waits of the product, and no more connections than a test needs.
pub(crate) fn test_settings(url: &str) -> StoreSettings {
    StoreSettings { max_connections: 8, ..StoreSettings::new(url) }
}

/// A store. Many tests begin at once, so the first connection may take longer on a busy machine than
/// a request would wait for one.
///
/// # Panics
/// If there is no connection to be had.
pub async fn connect(settings: StoreSettings) -> Store {
    const TRIES: u32 = 10;
    for _ in 1..TRIES {
        if let Ok(store) = Store::connect(settings.clone()).await {
            return store;
        }
    }
    Store::connect(settings).await.expect("the database answers")
}

/// The name of the migrated template on the tests' server, made if it is not there yet.
async fn template() -> String {
    // Once in a process: the lock blocks its thread, and whoever holds it may need that thread.
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE.get_or_init(make_template).await.clone()
}

async fn make_template() -> String {
    let admin_url = admin_url().await;
    let name = format!("template_{}", short_hash(&migrations()));
    // Off the runtime: whoever holds the lock may need this thread to go on.
    let _turn = tokio::task::spawn_blocking(lock).await.expect("the lock can be waited for");
    let complete = format!("SELECT 1 FROM pg_database WHERE datname = '{name}' AND datistemplate");
    if psql(&admin_url, &[&complete]).is_ok_and(|found| found == "1") {
        return name;
    }
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    psql(&admin_url, &[&drop, &format!("CREATE DATABASE {name}")])
        .expect("the template can be created");
    let url = with_database(&admin_url, &name);
    Store::migrate(&url).await.expect("the migrations succeed on an empty database");
    let finish = format!("ALTER DATABASE {name} IS_TEMPLATE true");
    psql(&admin_url, &[&finish]).expect("the template can be marked");
    name
}

/// All migrations, so that a change of one makes another template.
fn migrations() -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let entries = fs::read_dir(&dir).expect("the migrations are in the repository");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().flat_map(|file| fs::read(file).unwrap_or_default()).collect()
}

/// One process at a time makes the template.
fn lock() -> File {
    let name = format!("qudao-template-{}.lock", nix::unistd::geteuid());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.expect("a lock file can be made");
    file.lock().expect("the lock file can be locked");
    file
}

fn short_hash(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..8])
}

/// The URL with another database in its path.
fn with_database(url: &str, name: &str) -> String {
    let (before, query) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
    let authority = before.find("://").map_or(0, |at| at + 3);
    let end = before[authority..].find('/').map_or(before.len(), |at| authority + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &before[..end])
}

#[cfg(test)]
mod tests;
