//! The platform's own time per turn: a visitor's message over the web chat's socket, answered by
//! the `echo` plugin, whose own work is a few microseconds.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use awc::Client;
use awc::error::WsProtocolError as ProtocolError;
use awc::ws::{Frame, Message};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;

/// First start: a database is made and migrated.
const START: Duration = Duration::from_secs(120);
const WARM_UP: usize = 20;
const ANSWER: Duration = Duration::from_secs(30);

/// Measures and prints, or says how to make what is missing.
pub(crate) fn print(qudao: Option<PathBuf>, plugins: Option<PathBuf>, turns: usize) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let qudao = qudao.unwrap_or_else(|| root.join("target/release/qudao"));
    let plugins = plugins.unwrap_or_else(|| root.join("dist/plugins"));
    for (what, there) in [(&qudao, qudao.is_file()), (&plugins, plugins.join("echo").is_dir())] {
        if !there {
            println!(
                "\nplatform's own time per turn: skipped, {} is not there; `make build` makes it",
                what.display()
            );
            return Ok(());
        }
    }
    let platform = Platform::start(&qudao, &plugins)?;
    for (pace, how) in [(Pace::Person, "by a person who reads"), (Pace::Machine, "without a pause")]
    {
        let [accept, answer] = actix_web::rt::System::new()
            .block_on(measure(&platform.chat_url, turns, pace))
            .with_context(|| platform.log())?;
        println!("\nplatform's own time per turn, {turns} turns {how}, ms");
        println!("{:>28} {:>8} {:>8}", "", "p50", "p99");
        let rows = [("message to receipt", accept), ("receipt to answer delivered", answer)];
        for (what, times) in rows {
            println!("{what:>28} {:>8.2} {:>8.2}", share(&times, 0.50), share(&times, 0.99));
        }
    }
    Ok(())
}

/// When the next message comes.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Some time after the answer.
    Person,
    /// At once. A node paces its steps, so that many conversations share them: one conversation is slowed
    /// down by that if nobody reads its answers.
    Machine,
}

impl Pace {
    /// Never the same twice in a row, or it could keep step with something that happens at intervals.
    fn pause(self, turn: usize) -> Duration {
        match self {
            Self::Person => Duration::from_millis(200 + (turn as u64 * 37) % 100),
            Self::Machine => Duration::ZERO,
        }
    }
}

/// The value below which `part` of all lie, in milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small index")]
fn share(times: &[Duration], part: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    let index = ((times.len() as f64 * part).ceil() as usize).clamp(1, times.len());
    times[index - 1].as_secs_f64() * 1e3
}

/// A conversation of `turns` turns; per turn the time to the receipt, and from there to the
/// stored answer.
async fn measure(chat_url: &str, turns: usize, pace: Pace) -> Result<[Vec<Duration>; 2]> {
    let (base, key) = chat_url.rsplit_once("/chat/").context("demo.json has no chat_url")?;
    let client = Client::default();
    let mut opened = client
        .post(format!("{base}/v1/web/{key}/session"))
        .send()
        .await
        .map_err(|error| anyhow::anyhow!("opening a session: {error}"))?;
    let session: Value = serde_json::from_slice(&opened.body().await?)?;
    let (_, mut socket) = client
        .ws(format!("{base}/v1/web/{key}/socket"))
        .header("origin", base)
        .connect()
        .await
        .map_err(|error| anyhow::anyhow!("opening the socket: {error}"))?;
    say(&mut socket, &json!({"type": "hello", "token": session["token"], "after": ""})).await?;
    let mut times = [Vec::with_capacity(turns), Vec::with_capacity(turns)];
    for turn in 0..WARM_UP + turns {
        tokio::time::sleep(pace.pause(turn)).await;
        let text = format!("message {turn} with a handful of words");
        let sent = Instant::now();
        say(&mut socket, &json!({"type": "send", "id": format!("m{turn}"), "text": text})).await?;
        let mut accepted = None;
        let answered = loop {
            let frame = tokio::time::timeout(ANSWER, hear(&mut socket))
                .await
                .with_context(|| format!("turn {turn} has no answer"))??;
            match (frame["type"].as_str(), frame["role"].as_str()) {
                (Some("accepted"), _) => accepted = Some(sent.elapsed()),
                (Some("message"), Some("assistant")) => {
                    if frame["text"] != text.as_str() {
                        bail!("turn {turn} was answered with {frame}");
                    }
                    break sent.elapsed();
                }
                (Some("message"), Some("notice")) | (Some("error"), _) => bail!("{frame}"),
                _ => {}
            }
        };
        let accepted = accepted.context("an answer came before the receipt")?;
        if turn >= WARM_UP {
            times[0].push(accepted);
            times[1].push(answered - accepted);
        }
    }
    Ok(times)
}

/// What a client's socket is.
trait Socket:
    Sink<Message, Error = ProtocolError> + Stream<Item = Result<Frame, ProtocolError>> + Unpin
{
}

impl<S> Socket for S where
    S: Sink<Message, Error = ProtocolError> + Stream<Item = Result<Frame, ProtocolError>> + Unpin
{
}

async fn say(socket: &mut impl Socket, frame: &Value) -> Result<()> {
    let sent = socket.send(Message::Text(frame.to_string().into())).await;
    sent.map_err(|error| anyhow::anyhow!("the socket: {error}"))
}

async fn hear(socket: &mut impl Socket) -> Result<Value> {
    while let Some(frame) = socket.next().await {
        match frame.map_err(|error| anyhow::anyhow!("the socket: {error}"))? {
            Frame::Text(text) => return Ok(serde_json::from_slice(&text)?),
            Frame::Ping(bytes) => {
                let sent = socket.send(Message::Pong(bytes)).await;
                sent.map_err(|error| anyhow::anyhow!("the socket: {error}"))?;
            }
            Frame::Close(reason) => bail!("the platform closed the socket: {reason:?}"),
            _ => {}
        }
    }
    bail!("the socket ended")
}

/// A platform of its own with private services; dropping it ends it and removes its home.
struct Platform {
    child: Child,
    chat_url: String,
    home: TempDir,
}

impl Platform {
    fn start(qudao: &Path, plugins: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::Builder::new().prefix("qudao-bench-").tempdir()?;
        // The private Postgres may run as another user, who must be able to pass through.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        let config = home.path().join("qudao.toml");
        fs::write(&config, settings(plugins))?;
        let log = fs::File::create(home.path().join("log"))?;
        let bind = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(qudao)
            .args(["serve", "--demo", "--bind", &bind.to_string(), "--config"])
            .arg(&config)
            .arg("--home")
            .arg(home.path().join("home"))
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", qudao.display()))?;
        let mut platform = Self { child, chat_url: String::new(), home };
        platform.wait(&bind.to_string())?;
        Ok(platform)
    }

    fn wait(&mut self, bind: &str) -> Result<()> {
        let file = self.home.path().join("home/demo.json");
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(status) = self.child.try_wait()? {
                bail!("qudao ended with {status}:\n{}", self.log());
            }
            let demo = fs::read_to_string(&file).ok();
            let demo = demo.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            if let Some(url) = demo.as_ref().and_then(|demo| demo["chat_url"].as_str())
                && is_ready(bind)
            {
                self.chat_url = url.to_owned();
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("qudao was not ready after {START:?}:\n{}", self.log())
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

fn is_ready(bind: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut socket = std::net::TcpStream::connect(bind)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(socket, "GET /readyz HTTP/1.1\r\nhost: {bind}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

impl Drop for Platform {
    fn drop(&mut self) {
        // The private services must end before their home is removed: ask, then insist.
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        while asked.is_ok() && begun.elapsed() < Duration::from_secs(30) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn settings(plugins: &Path) -> String {
    format!(
        "[plugins]\ndirs = [{:?}]\nallow_unsigned = true\n\n[limits]\n\
         visitor_messages_per_minute = 0\naddress_messages_per_minute = 0\n\n[demo]\nmodel = \"bench-echo\"\n\
         credits = \"100000\"\n\n[[instances]]\nname = \"bench-echo\"\nplugin = \"echo\"\n\n\
         [[instances.models]]\nname = \"bench-echo\"\nkind = \"chat\"\ncontext_tokens = 8192\n\
         max_output_tokens = 1024\ndata_class = \"local\"\nprices = [{{ currency = \"CNY\", \
         input_per_mtok = \"1.20\", output_per_mtok = \"4.80\", per_call = \"0\" }}]\n",
        plugins.display().to_string()
    )
}
