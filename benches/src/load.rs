//! A load generator for HTTP/1.1 on loopback: fixed counts, kept connections, no more work per
//! reply than it takes to find its end and the arrival of its events.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

mod reply;

use reply::Reader;

/// One request, ready to be written.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`.
    address: String,
    request: Vec<u8>,
}

impl Target {
    /// A chat completion for `model`; `base` is `http://host:port`, without `/v1`.
    ///
    /// # Errors
    /// When `base` is not of that form.
    pub fn chat(base: &str, key: &str, model: &str, stream: bool) -> Result<Self> {
        let address = base.strip_prefix("http://").context("the bench speaks plain http")?;
        let address = address.trim_end_matches('/').to_owned();
        let mut body = serde_json::json!({
            "model": model,
            "max_tokens": 64,
            "messages": [
                { "role": "system", "content": "You answer for a shop." },
                { "role": "user", "content": "When do you open and close?" },
            ],
        });
        if stream {
            body["stream"] = true.into();
        }
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\naccept: */*\r\ncontent-length: {}\r\n\r\n",
            body.len(),
        );
        Ok(Self { address, request: [head.into_bytes(), body.into_bytes()].concat() })
    }
}

/// What one reply took.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// From the request's write to the reply's last byte.
    pub whole: Duration,
    /// From the request's write to the first event that carries text; for a whole reply, to its
    /// first byte.
    pub first: Duration,
    /// Between reads that brought events.
    pub gaps: Vec<Duration>,
    /// Server-sent events in the reply.
    pub events: usize,
    /// It was refused for a while, 429 or 503; only [`exchange`] takes that for an answer.
    pub refused: bool,
}

/// What a run of replies took.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// One for each request.
    pub samples: Vec<Sample>,
    /// From the first request to the last reply.
    pub elapsed: Duration,
}

impl Run {
    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// How many were refused for a while.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.samples.iter().filter(|sample| sample.refused).count()
    }

    /// A quantile of `pick` over all samples.
    #[must_use]
    pub fn quantile(&self, q: f64, pick: impl Fn(&Sample) -> Duration) -> Duration {
        quantile(self.samples.iter().map(pick).collect(), q)
    }

    /// A quantile over the gaps of all replies together.
    #[must_use]
    pub fn gap(&self, q: f64) -> Duration {
        quantile(self.samples.iter().flat_map(|s| s.gaps.iter().copied()).collect(), q)
    }

    /// Puts another run's samples behind these.
    pub fn merge(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.elapsed += other.elapsed;
    }
}

/// The nearest-rank quantile; zero for nothing.
#[must_use]
pub fn quantile(mut times: Vec<Duration>, q: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ q ≤ 1")]
    let at = (last as f64 * q.clamp(0.0, 1.0)).round() as usize;
    times.get(at).copied().unwrap_or_default()
}

/// Sends `each` requests on each of `clients` connections and waits for all replies.
///
/// # Errors
/// At the first reply that is not a 200 or that ends early: a measurement with errors is none.
pub fn run(target: &Target, clients: usize, each: usize) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut sockets = Vec::with_capacity(clients);
        for _ in 0..clients {
            let socket = TcpStream::connect(&target.address).await?;
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        let begun = Instant::now();
        let all = sockets.into_iter().map(|socket| client(socket, &target.request, each));
        let samples = futures_util::future::try_join_all(all).await?.concat();
        Ok(Run { samples, elapsed: begun.elapsed() })
    })
}

async fn client(mut socket: TcpStream, request: &[u8], each: usize) -> Result<Vec<Sample>> {
    let mut samples = Vec::with_capacity(each);
    let mut buffer = vec![0_u8; 64 << 10];
    for _ in 0..each {
        let begun = Instant::now();
        socket.write_all(request).await?;
        samples.push(receive(&mut socket, &mut buffer, Reader::default(), begun).await?);
    }
    Ok(samples)
}

/// Writes one request and reads its reply; the times count from `begun`.
///
/// # Errors
/// As [`run`], but a refusal for a while is an answer.
pub async fn exchange(socket: &mut TcpStream, request: &[u8], begun: Instant) -> Result<Sample> {
    socket.write_all(request).await?;
    receive(socket, &mut [0_u8; 4096], Reader::tolerant(), begun).await
}

/// Sends so many requests a second for a while, each made by `request` from its number. A request
/// that is late because the one before it on its connection was not answered counts from the moment
/// at which it was due.
///
/// # Errors
/// At the first answer that is neither a success nor a refusal for a while.
pub fn steady(
    address: &str,
    connections: usize,
    per_second: u32,
    length: Duration,
    request: impl Fn(u32) -> Vec<u8>,
) -> Result<Run> {
    let (next, total) = (Cell::new(0), per_second * u32::try_from(length.as_secs())?);
    let begun = Instant::now();
    let (next, request) = (&next, &request);
    with_sockets(address, connections, |mut socket| async move {
        let mut samples = Vec::new();
        loop {
            let number = next.replace(next.get() + 1);
            if total <= number {
                return Ok(samples);
            }
            let due = begun + Duration::from_secs(1) * number / per_second;
            time::sleep_until(due.into()).await;
            samples.push(exchange(&mut socket, &request(number), due).await?);
        }
    })
}

/// Runs `client` on so many connections at the same time.
///
/// # Errors
/// The first of theirs.
pub fn with_sockets<F>(
    address: &str,
    connections: usize,
    client: impl Fn(TcpStream) -> F,
) -> Result<Run>
where
    F: Future<Output = Result<Vec<Sample>>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut clients = Vec::with_capacity(connections);
        for _ in 0..connections {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            clients.push(client(socket));
        }
        let begun = Instant::now();
        let samples = try_join_all(clients).await?.concat();
        Ok(Run { samples, elapsed: begun.elapsed() })
    })
}

async fn receive(
    socket: &mut TcpStream,
    buffer: &mut [u8],
    mut reader: Reader,
    begun: Instant,
) -> Result<Sample> {
    let mut sample = Sample::default();
    let (mut first, mut previous) = (None, None::<Instant>);
    loop {
        let read = socket.read(buffer).await?;
        if read == 0 {
            bail!("the connection closed in the middle of a reply");
        }
        let now = Instant::now();
        let got = reader.push(buffer.get(..read).unwrap_or_default())?;
        if first.is_none() && got.content {
            first = Some(now);
        }
        if got.events > 0 {
            sample.events += got.events;
            sample.gaps.extend(previous.replace(now).map(|before| now - before));
        }
        if got.done {
            sample.refused = got.refused;
            sample.whole = now - begun;
            sample.first = first.map_or(sample.whole, |at| at - begun);
            return Ok(sample);
        }
    }
}
