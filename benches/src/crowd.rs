//! People with an open chat: most of them keep silent, some write.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _, future::try_join_all, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, Message, http::StatusCode, protocol::WebSocketConfig},
};

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long somebody who has their answer listens for another one of the same question.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// Between two knocks at a door that is too busy.
const AGAIN: Duration = Duration::from_millis(200);
/// Connections that are being opened at the same time.
const OPENING: usize = 32;

/// With whom people talk.
#[derive(Debug, Clone)]
pub enum With {
    /// The chat page at `path`, such as `/v1/web/wk_x/socket`.
    Chat {
        /// `host:port`.
        address: String,
        /// The socket's path.
        path: String,
    },
    /// A server that says everything back.
    Echo {
        /// `host:port`.
        address: String,
    },
}

/// What somebody who wrote saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// From the message to its acknowledgement.
    pub accepted: Vec<Duration>,
    /// From the message to the first word of its answer.
    pub first_word: Vec<Duration>,
    /// From the message to the whole answer.
    pub answered: Vec<Duration>,
    /// Messages that were written.
    pub written: usize,
    /// Messages without an answer.
    pub lost: usize,
    /// Answers beyond the first, or to something that was not asked.
    pub surplus: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.accepted.extend(other.accepted);
        self.first_word.extend(other.first_word);
        self.answered.extend(other.answered);
        self.written += other.written;
        self.lost += other.lost;
        self.surplus += other.surplus;
    }
}

/// People who have a chat open and keep silent. They go when it is dropped.
#[derive(Debug, Default)]
pub struct Silent(JoinSet<Result<()>>);

impl Silent {
    /// Whether all of them are still there.
    ///
    /// # Errors
    /// How many are not, and why one of them is not.
    pub fn check(&mut self) -> Result<()> {
        let all = self.0.len();
        match self.0.try_join_next() {
            Some(gone) => {
                let why = gone.context("a silent person")?.err();
                bail!("some of {all} silent people were sent away: {why:?}")
            }
            None => Ok(()),
        }
    }
}

impl With {
    /// Lets so many people come in, named from `first` on, write `words` messages each, and then keep
    /// silent. Nobody may come twice: the messages of a person are numbered.
    ///
    /// # Errors
    /// When one of them does not get in, or no answer.
    pub async fn come_in(
        &self,
        first: usize,
        people: usize,
        words: usize,
    ) -> Result<(Silent, Seen)> {
        let arrivals = (first..first + people).map(|number| async move {
            let mut person = Person::open(self, number).await?;
            for _ in 0..words {
                person.ask().await?;
            }
            let seen = std::mem::take(&mut person.seen);
            Ok::<_, anyhow::Error>((person, seen))
        });
        let mut arrivals = stream::iter(arrivals).buffer_unordered(OPENING);
        let (mut silent, mut all) = (Silent::default(), Seen::default());
        while let Some(arrived) = arrivals.next().await {
            let (person, seen) = arrived?;
            silent.0.spawn(person.keep_silent());
            all.add(seen);
        }
        Ok((silent, all))
    }

    /// Lets so many people write, each again when the answer is there and a pause of about this
    /// length is over.
    ///
    /// # Errors
    /// When one of them does not get in or is sent away.
    pub async fn talk(
        &self,
        first: usize,
        people: usize,
        pause: Duration,
        length: Duration,
    ) -> Result<Seen> {
        let opening = (first..first + people).map(|number| Person::open(self, number));
        let opened: Vec<_> = stream::iter(opening).buffer_unordered(OPENING).collect().await;
        let until = Instant::now() + length;
        let talking = opened.into_iter().map(|person| async move {
            let mut person = person?;
            sleep(pause.mul_f64(person.chance())).await;
            while Instant::now() < until {
                person.ask().await?;
                sleep(pause.mul_f64(0.5 + person.chance())).await;
            }
            person.listen_on().await?;
            Ok::<_, anyhow::Error>(person.seen)
        });
        let mut all = Seen::default();
        for seen in try_join_all(talking).await? {
            all.add(seen);
        }
        Ok(all)
    }

    /// Whoever is asked at the door to come again in a moment does, as the page would.
    async fn connect(&self) -> Result<WebSocketStream<TcpStream>> {
        let begun = Instant::now();
        loop {
            match self.try_connect().await {
                Err(Error::Http(answer))
                    if answer.status() == StatusCode::SERVICE_UNAVAILABLE
                        && begun.elapsed() < PATIENCE =>
                {
                    sleep(AGAIN).await;
                }
                tried => return Ok(tried?),
            }
        }
    }

    async fn try_connect(&self) -> Result<WebSocketStream<TcpStream>, Error> {
        let (address, path) = match self {
            Self::Chat { address, path } => (address, path.as_str()),
            Self::Echo { address } => (address, "/"),
        };
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        // Thousands of these are in one process, so each reads little at a time.
        let config = WebSocketConfig::default().read_buffer_size(2 << 10);
        let url = format!("ws://{address}{path}");
        Ok(client_async_with_config(url, socket, Some(config)).await?.0)
    }
}

/// One of them.
struct Person {
    socket: WebSocketStream<TcpStream>,
    number: usize,
    is_chat: bool,
    /// Draws of chance so far, the same in each run.
    draws: usize,
    seen: Seen,
}

/// What matters of a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default, borrow)]
    role: Option<&'a str>,
    #[serde(default, borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    detail: Option<Cow<'a, str>>,
}

impl Person {
    async fn open(with: &With, number: usize) -> Result<Self> {
        let socket = with.connect().await?;
        let is_chat = matches!(with, With::Chat { .. });
        let mut person = Self { socket, number, is_chat, draws: 0, seen: Seen::default() };
        if is_chat {
            let token = format!("vt_{number:0>43}");
            person.say(&json!({ "type": "hello", "token": token }).to_string()).await?;
            loop {
                let text = timeout(PATIENCE, person.hear()).await.context("a ready chat")??;
                let frame: Frame<'_> = serde_json::from_str(&text)?;
                match frame.kind {
                    "ready" => break,
                    "error" => bail!("the chat refuses: {:?}", frame.detail),
                    _ => {}
                }
            }
        }
        Ok(person)
    }

    /// A number from 0 to 1.
    fn chance(&mut self) -> f64 {
        self.draws += 1;
        let mixed = (self.number * 2_654_435_761 + self.draws * 40_503) % 1000;
        mixed as f64 / 1000.0
    }

    async fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// The next text. Pings are answered by the library, once something is read or written.
    async fn hear(&mut self) -> Result<String> {
        loop {
            match self.socket.next().await.context("the connection ended")?? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Ping(_) => self.socket.flush().await?,
                Message::Close(why) => bail!("sent away: {why:?}"),
                _ => {}
            }
        }
    }

    async fn ask(&mut self) -> Result<()> {
        self.seen.written += 1;
        let question = format!("question {} of {}", self.seen.written, self.number);
        let begun = Instant::now();
        if !self.is_chat {
            self.say(&question).await?;
            ensure!(self.hear().await? == question, "an echo that is none");
            self.seen.first_word.push(begun.elapsed());
            self.seen.answered.push(begun.elapsed());
            return Ok(());
        }
        let id = format!("m{}", self.seen.written);
        let frame = json!({ "type": "send", "id": id, "text": question });
        self.say(&frame.to_string()).await?;
        match timeout(PATIENCE, self.answer(&question, begun)).await {
            Ok(answered) => answered,
            Err(_) => {
                self.seen.lost += 1;
                Ok(())
            }
        }
    }

    async fn answer(&mut self, question: &str, begun: Instant) -> Result<()> {
        let mut first = None;
        loop {
            let text = self.hear().await?;
            let frame: Frame<'_> = serde_json::from_str(&text)?;
            match (frame.kind, frame.role) {
                ("accepted", _) => self.seen.accepted.push(begun.elapsed()),
                ("delta", _) => first = first.or_else(|| Some(begun.elapsed())),
                ("message", Some("assistant")) if frame.text.as_deref() == Some(question) => {
                    let whole = begun.elapsed();
                    self.seen.first_word.push(first.unwrap_or(whole));
                    self.seen.answered.push(whole);
                    return Ok(());
                }
                ("message", Some("assistant" | "notice")) => self.seen.surplus += 1,
                ("error", _) => bail!("the chat refuses: {:?}", frame.detail),
                _ => {}
            }
        }
    }

    async fn listen_on(&mut self) -> Result<()> {
        let until = Instant::now() + AFTERWARDS;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(text) = timeout(left, self.hear()).await else { break };
            let text = text?;
            let frame = serde_json::from_str::<Frame<'_>>(&text);
            let more = frame.is_ok_and(|frame| frame.role == Some("assistant"));
            self.seen.surplus += usize::from(more);
        }
        Ok(())
    }

    async fn keep_silent(mut self) -> Result<()> {
        loop {
            self.hear().await?;
        }
    }
}
