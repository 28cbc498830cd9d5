//! A Qudao whose model thinks for a while, for measurements of its pipeline, and the people who
//! write to it.

use std::{
    cell::Cell,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{load, platform::Demo, postgres::Session};

/// Settings of the platform under test: a model that answers after a log-normal time around 300 ms
/// in a process of its own. Nobody is held back before so many messages wait for an answer.
#[must_use]
pub fn settings(plugins: &Path, turns_in_flight: usize, backlog: usize) -> String {
    format!(
        "[plugins]\ndirs = [{:?}]\nallow_unsigned = true\n\n\
         [worker]\nturns_in_flight = {turns_in_flight}\n\
         tenant_turns_in_flight = {turns_in_flight}\n\n\
         [server]\nconnections_per_address = 0\n\n\
         [limits]\nvisitor_messages_per_minute = 0\naddress_messages_per_minute = 0\n\
         tenant_backlog = {backlog}\nplatform_backlog = {backlog}\n\n\
         [demo]\nmodel = \"stub\"\ncredits = \"1000000\"\n\n\
         [[instances]]\nname = \"stub\"\nplugin = \"echo\"\nmax_concurrency = {turns_in_flight}\n\
         config = {{ think_ms = 300, think_spread = 0.4 }}\n\
         [[instances.models]]\nname = \"stub\"\n\
         prices = [{{ currency = \"CNY\", input_per_mtok = \"1.20\", output_per_mtok = \"4.80\" }}]\n",
        plugins.display().to_string(),
    )
}

/// People who write on the demo's chat page, and where that is.
#[derive(Debug)]
pub struct People {
    address: String,
    path: String,
    run: u32,
    people: usize,
    written: Cell<usize>,
}

impl People {
    /// So many people; `run` keeps their names apart from those of other runs.
    ///
    /// # Errors
    /// If the demo's addresses are not of the form that is expected.
    pub fn new(demo: &Demo, run: u32, people: usize) -> Result<Self> {
        let address = demo.base_url.strip_prefix("http://").context("plain http")?.to_owned();
        let key = demo.chat_url.rsplit('/').next().context("a chat page")?;
        let path = format!("/v1/web/{key}/messages");
        Ok(Self { address, path, run, people, written: Cell::new(0) })
    }

    /// The next message: of the next person, round and round.
    fn request(&self) -> Vec<u8> {
        let number = self.written.replace(self.written.get() + 1);
        let token = format!("vt_{:0>43}", format!("{}x{}", self.run, number % self.people));
        let body = format!("{{\"id\":\"m{number}\",\"text\":\"when do you open tomorrow\"}}");
        format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.path,
            self.address,
            body.len(),
        )
        .into_bytes()
    }

    /// How many messages were written so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written.get()
    }

    /// Writes on so many connections, each its next message when the last one was acknowledged.
    ///
    /// # Errors
    /// At the first answer that is neither an acknowledgement nor a refusal for a while.
    pub fn hurry(&self, connections: usize, length: Duration) -> Result<load::Run> {
        load::with_sockets(&self.address, connections, |mut socket| async move {
            let (begun, mut samples) = (Instant::now(), Vec::new());
            while begun.elapsed() < length {
                let sent = Instant::now();
                samples.push(load::exchange(&mut socket, &self.request(), sent).await?);
            }
            Ok(samples)
        })
    }

    /// Writes so many messages a second for a while. A message that is late because the one
    /// before it was not acknowledged counts from the moment at which it was due.
    ///
    /// # Errors
    /// As [`Self::hurry`].
    pub fn steady(
        &self,
        connections: usize,
        per_second: u32,
        length: Duration,
    ) -> Result<load::Run> {
        load::steady(&self.address, connections, per_second, length, |_| self.request())
    }
}

/// What the database says of the pipeline.
pub struct Ledger(Session);

impl Ledger {
    /// Looks at the platform's database.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn open(demo: &Demo) -> Result<Self> {
        Ok(Self(Session::connect(&demo.database_url)?))
    }

    /// Messages that were accepted and have no delivered answer yet.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn backlog(&mut self) -> Result<usize> {
        self.number(
            "SELECT (SELECT count(*) FROM inbox WHERE state = 'accepted') \
             + (SELECT count(*) FROM outbox WHERE state IN ('queued', 'sending'))",
        )
    }

    /// Answers that were delivered.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn delivered(&mut self) -> Result<usize> {
        self.number("SELECT count(*) FROM outbox WHERE state = 'delivered'")
    }

    /// Waits until nothing is left to do.
    ///
    /// # Errors
    /// If something is left after this time.
    pub fn drain(&mut self, patience: Duration) -> Result<Duration> {
        let begun = Instant::now();
        while self.backlog()? != 0 {
            ensure!(begun.elapsed() < patience, "{} are left", self.backlog()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(begun.elapsed())
    }

    /// A quantile, in milliseconds, of the time from acceptance to delivery of the last so many
    /// answers.
    ///
    /// # Errors
    /// If the database does not answer.
    pub fn end_to_end(&mut self, q: f64, last: usize) -> Result<usize> {
        self.number(&format!(
            "SELECT round(1000 * percentile_cont({q}) WITHIN GROUP (ORDER BY \
             extract(epoch FROM o.delivered_at - i.accepted_at))) \
             FROM (SELECT * FROM outbox WHERE state = 'delivered' \
                   ORDER BY delivered_at DESC LIMIT {last}) o \
             JOIN inbox i USING (tenant_id, conversation_id) WHERE i.seq = o.to_seq"
        ))
    }

    fn number(&mut self, sql: &str) -> Result<usize> {
        let text = self.0.query(sql)?.context("a number")?;
        text.parse().with_context(|| format!("{text:?} from {sql}"))
    }
}
