//! A Qudao of its own for a measurement: private home, private services, one remote provider.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;

/// The model whose plugin runs inside the platform's process.
pub const INPROC: &str = "bench-inproc";
/// The model whose plugin runs in a process of its own.
pub const PROCESS: &str = "bench-process";
/// [`INPROC`] and [`PROCESS`] with one event every 5 ms.
pub const PACED: [&str; 2] = ["bench-inproc-paced", "bench-process-paced"];

/// First start: a database is made and migrated.
const START: Duration = Duration::from_secs(120);

/// What `qudao serve --demo` writes about itself.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Demo {
    /// `http://host:port`.
    pub base_url: String,
    /// A key of the demo tenant.
    pub api_key: String,
    /// The page of the demo's assistant.
    #[serde(default)]
    pub chat_url: String,
    /// The private server.
    pub database_url: String,
    /// The demo's tenant.
    #[serde(default)]
    pub tenant_id: String,
    /// Who answers on its page.
    #[serde(default)]
    pub assistant_id: String,
    /// Its partner's channel.
    #[serde(default)]
    pub partner: Option<DemoPartner>,
}

/// A partner's channel of the demo's tenant.
#[derive(Debug, Clone, Deserialize)]
pub struct DemoPartner {
    /// Which.
    pub channel_id: String,
    /// Opens it.
    pub bearer_key: String,
}

/// A running platform; dropping it ends it and removes its home.
pub struct Platform {
    child: Child,
    /// How to reach it.
    pub demo: Demo,
    home: TempDir,
    binary: PathBuf,
    words: Vec<String>,
}

impl Platform {
    /// Starts `binary` in front of the provider at `upstream` (`http://host:port`).
    ///
    /// # Errors
    /// With the end of its log, when it does not become ready.
    pub fn start(binary: &Path, plugins: &Path, upstream: &str) -> Result<Self> {
        let platform = Self::start_with(binary, &settings(plugins, upstream), &[])?;
        let begun = Instant::now();
        while !platform.answers() {
            if START < begun.elapsed() {
                bail!("its models did not answer in {START:?}:\n{}", platform.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(platform)
    }

    /// Starts `binary` with these settings, and words after `serve`. Where the settings say `$BIND`,
    /// it is where the platform will listen.
    ///
    /// # Errors
    /// With the end of its log, when it does not become ready.
    pub fn start_with(binary: &Path, settings: &str, words: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("qudao-bench-").tempdir()?;
        readable_by_all(home.path())?;
        let bind = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = settings.replace("$BIND", &bind.to_string());
        fs::write(home.path().join("qudao.toml"), settings)?;
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let child = spawn(binary, home.path(), &bind.to_string(), &words)?;
        let demo = Demo { base_url: format!("http://{bind}"), ..Demo::default() };
        let mut platform = Self { child, demo, home, binary: binary.to_owned(), words };
        platform.wait()?;
        Ok(platform)
    }

    /// `kill -9`, and the time from the start of the next process until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn kill_and_restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let begun = Instant::now();
        let bind = self.demo.base_url.trim_start_matches("http://").to_owned();
        self.child = spawn(&self.binary, self.home.path(), &bind, &self.words)?;
        while !self.is_ready() {
            if START < begun.elapsed() {
                bail!("not ready after {START:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(begun.elapsed())
    }

    /// Whether it says that it can take messages and every model serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let ask = || {
            let address = self.demo.base_url.strip_prefix("http://")?;
            let mut stream = TcpStream::connect(address).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
            let request =
                format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer.starts_with("HTTP/1.1 200") && !answer.contains("\"loading\""))
        };
        ask().unwrap_or(false)
    }

    /// Where its private Postgres keeps its data.
    #[must_use]
    pub fn postgres_data(&self) -> PathBuf {
        self.home.path().join("home/data/postgres")
    }

    /// `qudao <words>` on its home, to the end.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let output = command(&self.binary, self.home.path()).args(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{said}{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) -> Result<()> {
        let file = self.home.path().join("home/demo.json");
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(status) = self.child.try_wait()? {
                bail!("qudao ended with {status}:\n{}", self.log());
            }
            if let Some(demo) = read(&file) {
                self.demo = demo;
                if self.is_ready() {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("qudao was not ready after {START:?}:\n{}", self.log())
    }

    /// One call of each model, so that nothing is measured that happens once only.
    fn answers(&self) -> bool {
        [INPROC, PROCESS].iter().chain(&PACED).all(|model| {
            crate::load::Target::chat(&self.demo.base_url, &self.demo.api_key, model, true)
                .and_then(|target| crate::load::run(&target, 1, 1))
                .is_ok()
        })
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // The private services must end before their home is removed: ask, then insist.
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
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

fn command(binary: &Path, home: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("QUDAO_HOME", home.join("home")).env("QUDAO_CONFIG", home.join("qudao.toml"));
    command.env_remove("DATABASE_URL").env_remove("REDIS_URL").stdin(Stdio::null());
    command
}

fn spawn(binary: &Path, home: &Path, bind: &str, words: &[String]) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(home.join("log"))?;
    command(binary, home)
        .args(["serve", "--demo", "--bind", bind])
        .args(words)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

fn read(file: &Path) -> Option<Demo> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}

/// The private Postgres may run as another user, who must be able to pass through.
fn readable_by_all(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// Everything on that a customer would have on; the rate limit is there and never reached.
fn settings(plugins: &Path, upstream: &str) -> String {
    let mut text = format!(
        "[plugins]\ndirs = [{:?}]\nallow_unsigned = true\n\n[limits]\nrequests_per_second = 1000000\n\
         burst = 1000000\n\n[demo]\nmodel = \"{INPROC}\"\ncredits = \"100000\"\n",
        plugins.display().to_string(),
    );
    for (placement, model, paced) in [("inproc", INPROC, PACED[0]), ("process", PROCESS, PACED[1])]
    {
        text.push_str(&format!(
            "\n[[instances]]\nname = \"{model}\"\nplugin = \"openai\"\nplacement = \"{placement}\"\n\
             max_concurrency = 256\nconfig = {{ base_url = \"{upstream}/v1\", api_key = \"sk-bench\" }}\n",
        ));
        for (name, upstream) in [(model, "mock-json"), (paced, "mock-paced")] {
            text.push_str(&format!(
                "\n[[instances.models]]\nname = \"{name}\"\nupstream = \"{upstream}\"\nkind = \"chat\"\n\
                 context_tokens = 8192\nmax_output_tokens = 1024\ndata_class = \"remote\"\nprices = \
                 [{{ currency = \"CNY\", input_per_mtok = \"1.20\", output_per_mtok = \"4.80\", \
                 per_call = \"0\" }}]\n",
            ));
        }
    }
    text
}

/// Finds the program and the plugins where a release build leaves them.
///
/// # Errors
/// Says which command makes what is missing.
pub fn find(binary: Option<PathBuf>, plugins: Option<PathBuf>) -> Result<(PathBuf, PathBuf)> {
    let beside = std::env::current_exe()?.with_file_name("qudao");
    let binary = binary.unwrap_or(beside);
    if !binary.is_file() {
        bail!("{} is missing: make build", binary.display());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let plugins = plugins.unwrap_or_else(|| root.join("dist/plugins"));
    if !plugins.join("openai").is_dir() {
        bail!("{} has no openai plugin: cargo xtask plugins", plugins.display());
    }
    Ok((binary, plugins))
}
