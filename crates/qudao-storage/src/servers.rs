//! Several database servers in one URL, of which one at a time accepts writes: a primary and its
//! standbys.
//!
//! The notation is libpq's ("Specifying Multiple Hosts" in the Postgres manual, §34.1.1.3), which
//! sqlx does not read: `postgres://user@one:5432,two:5433/name` for TCP, and
//! `postgres://user@localhost/name?host=/one,/two` for unix sockets. Nodes find the primary by
//! asking, and follow it when a standby is promoted.

use std::{
    str::FromStr as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};

use crate::{Result, StorageError, statements::Statements};

/// How often the primary is asked whether it still is one.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server may take to connect or to answer before the others are asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// The servers of one URL. Cheap to clone; clones share what was seen.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    options: Vec<PgConnectOptions>,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The highest timeline that a primary was on. Each promotion begins a new one, so a server
    /// that accepts writes on a lower one was the primary once and does not know better.
    timeline: AtomicU32,
    /// When the pools were last pointed at another server.
    moved: Mutex<Option<Instant>>,
}

impl Servers {
    /// Reads a URL. `tune` adds what every connection needs.
    ///
    /// # Errors
    /// [`StorageError::BadUrl`].
    pub(crate) fn parse(
        url: &str,
        tune: impl Fn(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<Self> {
        let read = |url: String| PgConnectOptions::from_str(&url).map(&tune);
        let options: Result<_, _> = each(url).into_iter().map(read).collect();
        Ok(Self { options: options.map_err(StorageError::BadUrl)?, seen: Arc::default() })
    }

    /// Whether there is more than one to choose from.
    pub(crate) fn several(&self) -> bool {
        1 < self.options.len()
    }

    /// How to reach the primary. A server that stands alone is not asked whether it is one.
    ///
    /// # Errors
    /// What the last server said, if none accepts writes.
    pub(crate) async fn primary(&self) -> Result<PgConnectOptions> {
        match self.options.as_slice() {
            [alone] => Ok(alone.clone()),
            _ => Ok(self.options[self.find().await?.0].clone()),
        }
    }

    /// Keeps the pools pointed at the primary until the one for transactions is closed.
    pub(crate) async fn follow(
        self,
        pool: PgPool,
        single: [Statements; 2],
        chosen: PgConnectOptions,
    ) {
        let address = |options: &PgConnectOptions| {
            (options.get_host().to_owned(), options.get_port(), options.get_socket().cloned())
        };
        let mut current = address(&chosen);
        let mut line = None;
        while !pool.is_closed() {
            sleep(LOOK).await;
            if let Some(connection) = &mut line
                && self.accepts_writes(connection).await.is_ok()
            {
                continue;
            }
            // Nobody accepts writes during a failover: the next look may find somebody.
            let Ok((index, connection)) = self.find().await else { continue };
            line = Some(connection);
            let found = &self.options[index];
            if address(found) != current {
                current = address(found);
                tracing::warn!(server = ?current, "another database server accepts writes now");
                *self.seen.moved.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Instant::now());
                pool.set_connect_options(found.clone());
                for statements in &single {
                    statements.set_options(found);
                }
            }
        }
    }

    /// Whether a connection of this age leads to the present primary, as far as is known, and
    /// somebody answers there. A server that vanished without a word would keep everybody who began
    /// something on its connections, so each is asked before it is used.
    ///
    /// # Errors
    /// If nobody answers.
    pub(crate) async fn leads_there(
        &self,
        connection: &mut PgConnection,
        age: Duration,
    ) -> sqlx::Result<bool> {
        let moved = *self.seen.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.is_some_and(|moved| moved.elapsed() <= age) {
            return Ok(false);
        }
        let answer = timeout(PATIENCE, connection.ping()).await;
        answer.map_err(|_| refused("it does not answer"))?.map(|()| true)
    }

    /// Asks a connection whether it leads to the primary.
    ///
    /// # Errors
    /// If it leads to a standby, to a server that was the primary once, or nowhere.
    pub(crate) async fn accepts_writes(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let asked = timeout(PATIENCE, timeline(connection)).await;
        let timeline = asked.map_err(|_| refused("it does not answer"))??;
        let Some(timeline) = timeline else { return Err(refused("it is a standby")) };
        let highest = self.seen.timeline.fetch_max(timeline, Ordering::Relaxed);
        if timeline < highest { Err(refused("another was promoted in its place")) } else { Ok(()) }
    }

    /// The server that accepts writes, the latest promoted if several believe that they do.
    async fn find(&self) -> Result<(usize, PgConnection)> {
        let mut best: Option<(u32, usize, PgConnection)> = None;
        let mut last = refused("no server is named");
        for (index, options) in self.options.iter().enumerate() {
            let connected = timeout(PATIENCE, PgConnection::connect_with(options)).await;
            let outcome = match connected.unwrap_or_else(|_| Err(refused("it does not answer"))) {
                Ok(mut connection) => {
                    self.accepts_writes(&mut connection).await.map(|()| connection)
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(connection) => {
                    // Each was at least as high as all before it, or it was refused.
                    let timeline = self.seen.timeline.load(Ordering::Relaxed);
                    if best.as_ref().is_none_or(|(highest, ..)| *highest < timeline) {
                        best = Some((timeline, index, connection));
                    }
                }
                Err(error) => last = error,
            }
        }
        best.map(|(_, index, connection)| (index, connection)).ok_or_else(|| last.into())
    }
}

/// The timeline that the server writes on, `None` on a standby. Its number is the first eight
/// digits in the name of a segment of the log, and needs no right that `qudao_app` lacks.
async fn timeline(connection: &mut PgConnection) -> sqlx::Result<Option<u32>> {
    let name: Option<String> = sqlx::query_scalar(
        "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END",
    )
    .fetch_one(connection)
    .await?;
    Ok(name.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok()))
}

/// As a server refuses that does not listen: a pool goes on trying for as long as it may.
fn refused(why: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, why))
}

/// One URL for each server that a URL names.
fn each(url: &str) -> Vec<String> {
    let (before, query) = url.split_once('?').unwrap_or((url, ""));
    let (head, rest) = before.split_once("://").unwrap_or(("postgres", before));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(a, b)| (a, b));
    let at = if user.is_empty() { "" } else { "@" };
    // `target_session_attrs` asks for what is done anyway.
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<&str> =
        pairs.filter(|pair| !pair.starts_with("target_session_attrs=")).collect();
    let named = |name: &str, pairs: &mut Vec<&str>| -> Vec<String> {
        let Some(index) = pairs.iter().position(|pair| pair.starts_with(name)) else {
            return Vec::new();
        };
        let list = pairs.remove(index)[name.len()..].replace("%2C", ",");
        list.split(',').map(str::to_owned).collect()
    };
    let sockets = named("host=", &mut pairs);
    let ports = named("port=", &mut pairs);
    let hosts: Vec<&str> = hosts.split(',').collect();
    // `port=` gives one for each server, or one for all.
    let port = |index: usize| ports.get(index).or(ports.first());
    (0..hosts.len().max(sockets.len()))
        .map(|index| {
            let host = hosts.get(index).or(hosts.first()).copied().unwrap_or_default();
            let mut pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            pairs.extend(sockets.get(index).map(|socket| format!("host={socket}")));
            pairs.extend(port(index).map(|port| format!("port={port}")));
            let mark = if pairs.is_empty() { "" } else { "?" };
            format!("{head}://{user}{at}{host}{path}{mark}{}", pairs.join("&"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn a_url_with_one_server_is_left_as_it_is() {
        for url in [
            "postgres://qudao:se@cret@db:5432/qudao",
            "postgres://db/qudao?sslmode=require",
            "postgres://qudao@localhost/qudao?host=/run/postgres",
            "postgresql://db",
        ] {
            assert_eq!(each(url), [url]);
        }
    }

    #[test]
    fn each_server_gets_the_user_the_database_and_the_parameters() {
        assert_eq!(
            each(
                "postgres://u:p@one:5432,two:5433/q?sslmode=require&target_session_attrs=read-write"
            ),
            [
                "postgres://u:p@one:5432/q?sslmode=require",
                "postgres://u:p@two:5433/q?sslmode=require"
            ]
        );
    }

    #[test]
    fn sockets_and_ports_may_be_lists_too() {
        assert_eq!(
            each("postgres://u@localhost/q?host=/one,/two&port=1,2"),
            [
                "postgres://u@localhost/q?host=/one&port=1",
                "postgres://u@localhost/q?host=/two&port=2"
            ]
        );
        assert_eq!(
            each("postgres://one,two/q?port=6432"),
            ["postgres://one/q?port=6432", "postgres://two/q?port=6432"]
        );
    }
}
