//! A running platform: the real binary on a fresh home, seen through HTTP and through its processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the workspace's programs were built.
pub(crate) fn built(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let program = folder.join(name);
    assert!(program.exists(), "{} is missing: run `make test`", program.display());
    program
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Echo that takes its time.
pub(crate) const SLOW: &str = r#"
[[instances]]
name = "slow"
plugin = "echo"
config = { delay_ms = 100 }
[[instances.models]]
name = "slow"
prices = [{ currency = "CNY", input_per_mtok = "2.00", output_per_mtok = "8.00" }]
"#;

/// What every node of the tests is given; an empty one among a test's variables takes it away.
pub(crate) const MASTER_KEY: &str = "cXVkYW8gdGVzdHM6IHRoZSBtYXN0ZXIga2V5IDEyMzQ=";

/// What a test wants of its platform beyond the demo tenant.
#[derive(Default)]
pub(crate) struct Wanted {
    /// Looked in before the plugins that the tests built.
    pub(crate) plugin_dirs: Vec<PathBuf>,
    /// Written after the common part of the settings file.
    pub(crate) settings: String,
    /// Set for the process.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Words after `serve`.
    pub(crate) words: Vec<&'static str>,
    /// A home that is there already; a fresh one when absent.
    pub(crate) home: Option<PathBuf>,
}

/// One node. Ends when dropped; its home goes with it unless another node shares it.
pub(crate) struct Platform {
    child: Child,
    pub(crate) home: PathBuf,
    /// What `serve --demo` wrote.
    pub(crate) demo: Value,
    http: Client,
    settings: PathBuf,
    environment: Vec<(&'static str, String)>,
    words: Vec<&'static str>,
    _folder: Option<TempDir>,
}

impl Platform {
    /// Starts and waits until every model is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(Wanted::default()).await
    }

    /// Starts with more settings and waits until every model is ready.
    pub(crate) async fn start_with(wanted: Wanted) -> Self {
        let folder = tempfile::Builder::new().prefix("qudao-it-").tempdir().unwrap();
        // The private Postgres runs as another user when the tests run as root.
        open_for_all(folder.path());
        let settings = folder.path().join("qudao.toml");
        fs::write(&settings, common_settings(&wanted.plugin_dirs) + &wanted.settings).unwrap();
        let home = wanted.home.unwrap_or_else(|| folder.path().join("home"));
        let child = spawn(&home, &settings, &wanted.environment, &wanted.words);
        let mut platform = Self {
            child,
            home,
            demo: Value::Null,
            http: Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap(),
            settings,
            environment: wanted.environment,
            words: wanted.words,
            _folder: Some(folder),
        };
        platform.await_ready().await;
        platform
    }

    async fn await_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the platform ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready in time:\n{}", self.log());
            if let Ok(bytes) = fs::read(self.home.join("demo.json"))
                && let Ok(demo) = serde_json::from_slice(&bytes)
            {
                self.demo = demo;
                // A worker has no door to knock at.
                if self.text("base_url").is_empty() {
                    return;
                }
                if self.no_model_is_loading().await {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A model that is broken is not waited for.
    async fn no_model_is_loading(&self) -> bool {
        let Ok(response) = self.http.get(self.url("/readyz")).send().await else { return false };
        let up = response.status() == StatusCode::OK;
        let Ok(body) = response.json::<Value>().await else { return false };
        let models = body["models"].as_array().unwrap();
        up && models.iter().all(|model| model["state"] != "loading")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_path(&self.home)).unwrap_or_default()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.demo["base_url"].as_str().unwrap())
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.demo[field].as_str().unwrap()
    }

    /// Where this node's Redis listens.
    pub(crate) fn redis_url(&self) -> String {
        self.told("redis_url")
    }

    /// What the node tells others on the machine: how to reach it and its services.
    pub(crate) fn told(&self, field: &str) -> String {
        let text = fs::read_to_string(self.home.join("instance.lock")).unwrap();
        let lock: Value = serde_json::from_str(&text).unwrap();
        lock[field].as_str().unwrap().to_owned()
    }

    /// Runs SQL as the owner of the schema and returns what it prints.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let output = Command::new("psql")
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &self.told("database_url")])
            .args(["-c", statement])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs SQL as the owner of the schema and returns what the server notes about it.
    pub(crate) fn sql_with_notices(&self, statements: &str) -> String {
        let output = Command::new("psql")
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &self.told("database_url")])
            .args(["-c", statements])
            .output()
            .unwrap();
        let notices = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{notices}");
        notices
    }

    /// The process id of the platform itself.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends as the operator and returns status and body.
    pub(crate) async fn operator(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        self.send(method, path, self.text("operator_key"), &[], body).await
    }

    /// Sends as the demo tenant.
    pub(crate) async fn tenant(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        self.send(method, path, self.text("api_key"), &[], body).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.http.request(method, self.url(path)).bearer_auth(key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (status, body)
    }

    /// What `/metrics` shows.
    pub(crate) async fn metrics(&self) -> String {
        let response = self.http.get(self.url("/metrics")).send().await.unwrap();
        response.text().await.unwrap()
    }

    /// The demo tenant's usage rows, the newest first.
    pub(crate) async fn usage(&self) -> Vec<Value> {
        let path = format!("/v1/tenants/{}/usage", self.text("tenant_id"));
        let (status, usage) = self.tenant(Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{usage}");
        usage["data"].as_array().unwrap().clone()
    }

    /// Those of conversations; the greeting at the start is a call of the API.
    pub(crate) async fn charged_turns(&self) -> Vec<Value> {
        let rows = self.usage().await;
        rows.into_iter().filter(|row| !row["conversation_id"].is_null()).collect()
    }

    /// A stream of `/v1/chat/completions`, not read yet.
    pub(crate) async fn stream_completion(&self, model: &str, text: &str) -> reqwest::Response {
        self.http
            .post(self.url("/v1/chat/completions"))
            .bearer_auth(self.text("api_key"))
            .json(&json!({
                "model": model, "stream": true, "messages": [{ "role": "user", "content": text }]
            }))
            .send()
            .await
            .unwrap()
    }

    /// `qudao <words>` against this platform's home.
    pub(crate) fn qudao(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// `qudao <words>` against this platform's home, not started yet.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(built("qudao"));
        command.args(words).env("QUDAO_HOME", &self.home).env("QUDAO_CONFIG", &self.settings);
        command.env_remove("DATABASE_URL").env_remove("REDIS_URL");
        command.env("QUDAO_MASTER_KEY", MASTER_KEY);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }

    /// Every invariant that SQL can see holds, those of a drained platform included.
    pub(crate) fn assert_books_balance(&self) {
        let output = self.qudao(&["check"]);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// `kill -9`, and the wait until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -9` of the platform, and the wait until its children are gone as well.
    pub(crate) async fn kill_with_children(&mut self) {
        let names = ["postgres", "redis-server", "qudao-plugin-host"];
        let children = names.map(|name| descendants(self.pid(), name)).concat();
        assert!(!children.is_empty());
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(20);
        while children.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            assert!(Instant::now() < deadline, "a child outlived its parent");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts again on the same home.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.home, &self.settings, &self.environment, &self.words);
        self.await_ready().await;
    }

    /// SIGTERM, and how it ended; others go on meanwhile.
    pub(crate) async fn stop(&mut self) -> std::process::ExitStatus {
        signal("-TERM", self.child.id());
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        signal("-TERM", self.child.id());
        self.child.wait().unwrap()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            signal("-TERM", self.child.id());
            let deadline = Instant::now() + Duration::from_secs(15);
            while self.child.try_wait().is_ok_and(|status| status.is_none()) {
                if deadline < Instant::now() {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub(crate) fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").arg(name).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Process ids below `root` whose program is called `name`.
pub(crate) fn descendants(root: u32, name: &str) -> Vec<u32> {
    let mut parents = std::collections::HashMap::new();
    let mut names = std::collections::HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let comm = head.split_once('(').map_or("", |(_, comm)| comm).to_owned();
        let parent: u32 = tail.split_whitespace().nth(1).unwrap().parse().unwrap();
        parents.insert(pid, parent);
        names.insert(pid, comm);
    }
    let below = |mut pid: u32| loop {
        match parents.get(&pid) {
            Some(&parent) if parent == root => return true,
            Some(&parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    };
    // The kernel cuts a program's name at 15 bytes.
    let short: String = name.chars().take(15).collect();
    names
        .iter()
        .filter(|(pid, comm)| **comm == short && below(**pid))
        .map(|(pid, _)| *pid)
        .collect()
}

fn log_path(home: &Path) -> PathBuf {
    home.with_extension("log")
}

fn spawn(
    home: &Path,
    settings: &Path,
    environment: &[(&'static str, String)],
    words: &[&str],
) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log_path(home)).unwrap();
    Command::new(built("qudao"))
        .arg("serve")
        .arg("--demo")
        .args(words)
        .env("QUDAO_HOME", home)
        .env("QUDAO_CONFIG", settings)
        .env("QUDAO_BIND", "127.0.0.1:0")
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        // Nodes over one database share it.
        .env("QUDAO_MASTER_KEY", MASTER_KEY)
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn open_for_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Echo answers, rogue misbehaves; both cost money in the demo tenant's currency.
fn common_settings(first: &[PathBuf]) -> String {
    let plugins = workspace().join("target/test-plugins");
    assert!(plugins.exists(), "{} is missing: run `make test`", plugins.display());
    let signer = fs::read_to_string(plugins.join("signer.pub")).unwrap();
    let dirs: Vec<String> =
        first.iter().chain([&plugins]).map(|dir| dir.display().to_string()).collect();
    format!(
        r#"
[plugins]
dirs = {dirs:?}
trusted_keys = ["{}"]

[demo]
model = "echo"

[worker]
poll_ms = 50

[[instances]]
name = "echo"
plugin = "echo"
[[instances.models]]
name = "echo"
prices = [{{ currency = "CNY", input_per_mtok = "2.00", output_per_mtok = "8.00" }}]

"#,
        signer.trim()
    )
}

/// An `openai` instance in front of `base_url`, offering these models.
pub(crate) fn openai_instance(base_url: &str, models: &[&str]) -> String {
    let mut text = format!(
        "[[instances]]\nname = \"openai\"\nplugin = \"openai\"\n\
         config = {{ base_url = \"{base_url}\", api_key = \"sk-test\" }}\n"
    );
    for model in models {
        text += &format!(
            "[[instances.models]]\nname = \"{model}\"\ndata_class = \"remote\"\n\
             prices = [{{ currency = \"CNY\", input_per_mtok = \"2.00\", output_per_mtok = \"8.00\" }}]\n"
        );
    }
    text
}
