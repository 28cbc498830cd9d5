//! Just enough of the Postgres protocol to time a durable commit over the unix socket.
//!
//! The bench must not go through the platform's own storage crate: that is what it measures.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A session with simple queries.
pub struct Session(UnixStream);

impl Session {
    /// Connects to `postgres://USER@localhost/DATABASE?host=/folder`, the address that
    /// `demo.json` gives for a private server.
    ///
    /// # Errors
    /// An address without a socket folder, or a server that wants a password.
    pub fn connect(url: &str) -> Result<Self> {
        let rest = url.split_once("://").context("an address has a scheme")?.1;
        let (user, rest) = rest.split_once('@').context("an address names a user")?;
        let (place, query) = rest.split_once('?').context("an address names its socket folder")?;
        let database = place.rsplit('/').next().unwrap_or_default();
        let folder = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("host="))
            .context("an address names its socket folder")?
            .replace("%2F", "/");
        let mut session = Self(UnixStream::connect(format!("{folder}/.s.PGSQL.5432"))?);
        let user = user.split(':').next().unwrap_or(user);
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        session.send(None, &body)?;
        session.until_ready()?;
        Ok(session)
    }

    /// Runs statements and returns the first column of the last row, if there is one.
    ///
    /// # Errors
    /// The server's own message.
    pub fn query(&mut self, sql: &str) -> Result<Option<String>> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    /// The median time of a durable one-row `INSERT` at one client.
    ///
    /// # Errors
    /// When the table cannot be made, or when the server would lose a commit in a crash: then
    /// there is nothing durable to compare with.
    pub fn durable_commit(&mut self, count: usize) -> Result<Duration> {
        let durable =
            self.query("SELECT current_setting('fsync') || current_setting('synchronous_commit')")?;
        if durable.as_deref() != Some("onon") {
            bail!(
                "this server does not commit durably: fsync and synchronous_commit are {durable:?}"
            );
        }
        self.query("CREATE TABLE IF NOT EXISTS public.bench_commit (id bigint, note text)")?;
        let mut times = Vec::with_capacity(count);
        for id in 0..count {
            let begun = Instant::now();
            self.query(&format!("INSERT INTO public.bench_commit VALUES ({id}, 'one row')"))?;
            times.push(begun.elapsed());
        }
        self.query("DROP TABLE public.bench_commit")?;
        Ok(crate::load::quantile(times, 0.5))
    }

    /// Makes durable commits of the whole server take so many milliseconds longer: who flushes the log
    /// for those who wait sleeps before (`commit_delay`). Kinder than a disk that is so slow: who
    /// commits meanwhile need not wait for the next flush.
    ///
    /// # Errors
    /// For everybody but a superuser, and where nothing is flushed.
    pub fn slow_commits(&mut self, milliseconds: u32) -> Result<()> {
        self.durable_commit(1)?;
        self.query(&format!("ALTER SYSTEM SET commit_delay = {}", milliseconds * 1000))?;
        self.query("ALTER SYSTEM SET commit_siblings = 0")?;
        self.query("SELECT pg_reload_conf()")?;
        let begun = Instant::now();
        while self.query("SELECT current_setting('commit_siblings')")?.as_deref() != Some("0") {
            if Duration::from_secs(10) < begun.elapsed() {
                bail!("the server did not take its new settings");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4).context("a statement of bounded length")?;
        let mut message = Vec::with_capacity(body.len() + 5);
        message.extend(kind);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        Ok(self.0.write_all(&message)?)
    }

    fn until_ready(&mut self) -> Result<Option<String>> {
        let (mut value, mut failure) = (None, None);
        loop {
            let mut head = [0_u8; 5];
            self.0.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let length = u32::from_be_bytes(length).saturating_sub(4);
            let mut body = vec![0_u8; length as usize];
            self.0.read_exact(&mut body)?;
            match kind {
                b'Z' => match failure {
                    Some(text) => bail!("postgres: {text}"),
                    None => return Ok(value),
                },
                b'R' if body.get(..4) != Some(&[0; 4]) => bail!("postgres wants a password"),
                b'D' => value = first_column(&body),
                b'E' => failure = Some(message(&body)),
                _ => {}
            }
        }
    }
}

/// A row is a count of columns, then for each its length and bytes.
fn first_column(row: &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(row.get(2..6)?.try_into().ok()?);
    let bytes = row.get(6..6 + usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// An error is a list of fields, each a letter and a text; `M` is the message.
fn message(fields: &[u8]) -> String {
    let mut texts = fields.split(|&byte| byte == 0);
    let found = texts.find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(found.unwrap_or(fields)).into_owned()
}
