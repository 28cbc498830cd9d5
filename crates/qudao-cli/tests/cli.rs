//! The binary as its users meet it: commands, exit codes, what a running instance does.
#![expect(clippy::unwrap_used, reason = "a failed expectation fails the test")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use qudao_domain::Micros;
use qudao_testkit::{TestDb, TestTenant};
use serde_json::Value;
use tempfile::TempDir;

/// A home that the services' user can reach.
fn home() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// The binary, apart from the settings of whoever runs the tests.
fn qudao(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qudao"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let settings = ["DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY"].contains(&&*text);
        if settings || (text.starts_with("QUDAO_") && text != "QUDAO_PG_BIN") {
            command.env_remove(name);
        }
    }
    command.current_dir(home).env("QUDAO_HOME", home.join("home"));
    command.env("QUDAO_BIND", "127.0.0.1:0");
    command
}

fn run(home: &Path, arguments: &[&str]) -> Output {
    qudao(home).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// A running `qudao serve`.
struct Serve {
    process: Child,
    instance: Value,
}

impl Serve {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let mut command = qudao(home);
        command.arg("serve").args(arguments);
        Self::spawn(home, command)
    }

    /// Starts a command, `serve` and its options.
    fn spawn(home: &Path, mut command: Command) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let begun = Instant::now();
        let instance = loop {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("serve ended: {status}; its output: {}", stderr(&run(home, &["serve"])));
            }
            let text = fs::read_to_string(home.join("home/instance.lock")).unwrap_or_default();
            let instance: Value = serde_json::from_str(&text).unwrap_or_default();
            let ours = instance["pid"] == process.id();
            if ours && instance["base_url"].as_str().is_some_and(|url| !url.is_empty()) {
                break instance;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "serve does not come up");
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { process, instance }
    }

    fn base_url(&self) -> &str {
        self.instance["base_url"].as_str().unwrap()
    }

    /// Sends SIGTERM and waits for the end.
    fn terminate(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.process.wait().unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status line and the body of a GET.
fn get(base_url: &str, path: &str) -> (String, String) {
    let addr = base_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn migrate_makes_the_schema_once() {
    let home = home();
    let first = run(home.path(), &["migrate", "--json"]);
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(!json(&first)["applied"].as_array().unwrap().is_empty());
    let second = run(home.path(), &["migrate", "--json"]);
    assert_eq!(json(&second)["applied"], serde_json::json!([]));
    let check = run(home.path(), &["check", "--json"]);
    assert!(check.status.success(), "{}", stderr(&check));
    assert_eq!(json(&check)["ok"], true);
}

#[test]
fn check_without_an_instance_says_what_to_set() {
    let home = home();
    let output = run(home.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("DATABASE_URL"), "{}", stderr(&output));
}

#[tokio::test]
async fn check_names_the_violation_and_fails() {
    let home = home();
    let db = TestDb::new().await;
    TestTenant::builder().credits(Micros::UNIT).create(&db.store()).await;
    let check =
        || qudao(home.path()).env("DATABASE_URL", db.url()).args(["check", "--json"]).output();
    let sound = check().unwrap();
    assert!(sound.status.success(), "{}", stdout(&sound));
    db.psql("UPDATE wallets SET posted = posted + 1");
    let broken = check().unwrap();
    assert_eq!(broken.status.code(), Some(1));
    let findings = json(&broken)["findings"].as_array().unwrap().clone();
    let violated: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["state"] == "violated")
        .map(|finding| finding["id"].as_str().unwrap())
        .collect();
    assert_eq!(violated, ["I8"]);
}

#[test]
fn a_bad_setting_is_named_and_is_wrong_usage() {
    let home = home();
    let file = home.path().join("settings.toml");
    fs::write(&file, "[server]\nbnd = \"127.0.0.1:1\"\n").unwrap();
    for command in ["serve", "migrate", "check"] {
        let output = qudao(home.path()).arg("--config").arg(&file).arg(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert!(stderr(&output).contains("server.bnd"), "{}", stderr(&output));
    }
    let output = qudao(home.path()).env("QUDAO_BIND", "nowhere").arg("serve").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("server.bind"), "{}", stderr(&output));
}

#[test]
fn an_instance_serves_and_refuses_a_second_one_and_drains() {
    let home = home();
    let serve = Serve::start(home.path(), &[]);
    let (status, _) = get(serve.base_url(), "/livez");
    assert!(status.contains("200"), "{status}");
    let quick = run(home.path(), &["doctor", "--quick"]);
    assert!(quick.status.success(), "{}", stdout(&quick));

    let second = run(home.path(), &["serve"]);
    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    assert!(said.contains(&serve.process.id().to_string()), "{said}");
    assert!(said.contains(serve.base_url()), "{said}");

    let check = run(home.path(), &["check"]);
    assert!(check.status.success(), "beside a running instance: {}", stderr(&check));

    assert!(serve.terminate().success());
    let quick = run(home.path(), &["doctor", "--quick"]);
    assert_eq!(quick.status.code(), Some(1), "nothing runs any more");
    for name in ["postgres", "redis"] {
        assert!(!home.path().join(format!("home/data/{name}.pid")).exists(), "{name} was stopped");
    }
}

#[test]
fn the_demo_keeps_its_keys_and_links_over_restarts() {
    let home = home();
    let file = home.path().join("home/demo.json");
    let read = || -> Value {
        let begun = Instant::now();
        while !file.exists() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no demo.json");
            std::thread::sleep(Duration::from_millis(20));
        }
        serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap()
    };
    let serve = Serve::start(home.path(), &["--demo"]);
    let first = read();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for key in [
        "base_url",
        "operator_key",
        "tenant_id",
        "api_key",
        "assistant_id",
        "chat_url",
        "database_url",
    ] {
        assert!(first[key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    let path = first["chat_url"].as_str().unwrap().strip_prefix(serve.base_url()).unwrap();
    assert!(get(serve.base_url(), path).0.contains("200"), "the chat page opens");
    assert!(serve.terminate().success());

    fs::remove_file(home.path().join("home/instance.lock")).unwrap();
    let serve = Serve::start(home.path(), &["--demo"]);
    let begun = Instant::now();
    let second = loop {
        let second = read();
        if second["base_url"] == serve.base_url() {
            break second;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "demo.json is not renewed");
        std::thread::sleep(Duration::from_millis(20));
    };
    for key in ["operator_key", "tenant_id", "api_key", "assistant_id"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    let key =
        |demo: &Value| demo["chat_url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(key(&first), key(&second));
    assert!(serve.terminate().success());
}

#[test]
fn doctor_finds_a_taken_port() {
    let home = home();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut command = qudao(home.path());
    command.env("QUDAO_BIND", addr.to_string()).args(["doctor", "--json"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let checks = json(&output)["checks"].as_array().unwrap().clone();
    let port = checks.iter().find(|check| check["name"] == "port").unwrap();
    assert_eq!(port["state"], "failed");
    assert!(port["evidence"].as_str().unwrap().contains(&addr.to_string()));
    assert!(port["fix"].is_string());
}

#[test]
fn doctor_tells_a_server_that_is_not_there() {
    let home = home();
    let mut command = qudao(home.path());
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none").args(["doctor", "--json"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let checks = json(&output)["checks"].as_array().unwrap().clone();
    let database = checks.iter().find(|check| check["name"] == "database").unwrap();
    assert_eq!(database["state"], "failed");
}

/// Of nobody: its key was thrown away.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUUVMQeIryt75U2V91b9S1wgJAC78wCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMjAxMTUwNzExWhgPMjEy
NjExMDcxNTA3MTFaMBkxFzAVBgNVBAMMDnRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAES58K0GS/ufOUggw1V+yhUyqJIl5fQlD941DbOo2f
z8dgzWEuWXymm9uYo0hydgCvuAtSaREDqKNBHOu5Ky9zEqNTMFEwHQYDVR0OBBYE
FPYnyW4HIc3TvW/BbDlxJnKOO0t0MB8GA1UdIwQYMBaAFPYnyW4HIc3TvW/BbDlx
JnKOO0t0MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgVGuXGKIC
QqQio+GYFMNE4YyvPdukDrj6k82SgrjgKrgCIQDKeLlU12UbpzsA87L9LEDqupN6
9UoUcdZ92oR6vMYc2A==
-----END CERTIFICATE-----
";

#[test]
fn doctor_tells_whose_certificates_are_missing() {
    let home = home();
    let examine = |file: &Path, folder: &Path| {
        let mut command = qudao(home.path());
        command.env("SSL_CERT_FILE", file).env("SSL_CERT_DIR", folder).args(["doctor", "--json"]);
        let checks = json(&command.output().unwrap())["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "certificates").unwrap()
    };
    // Named as OpenSSL names files of a folder.
    let (file, missing) = (home.path().join("00000000.0"), home.path().join("missing.pem"));
    fs::write(&file, AUTHORITY).unwrap();
    let found = examine(&file, Path::new(""));
    assert_eq!(found["state"], "ok", "{found}");
    assert_eq!(found["evidence"], "1 known, from SSL_CERT_FILE");
    for folder in [Path::new(""), home.path()] {
        let lost = examine(&missing, folder);
        assert_eq!(lost["state"], "warning", "{lost}");
        assert!(lost["evidence"].as_str().unwrap().contains("missing.pem"), "{lost}");
        assert!(lost["fix"].as_str().unwrap().contains("ca-certificates"), "{lost}");
    }
}

#[test]
fn doctor_names_a_bad_setting() {
    let home = home();
    let output =
        qudao(home.path()).env("QUDAO__LIMITS__BURST", "0").arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("limits.burst"), "{}", stdout(&output));
}

#[test]
fn doctor_names_an_instance_that_no_plugin_serves() {
    let home = home();
    let file = home.path().join("qudao.toml");
    let text = "[[instances]]\nname = \"tea\"\nplugin = \"teapot\"\n[[instances.models]]\nname = \"tea\"\n";
    fs::write(&file, text).unwrap();
    let output = qudao(home.path()).env("QUDAO_CONFIG", &file).args(["doctor", "--json"]).output();
    let checks = json(&output.unwrap())["checks"].as_array().unwrap().clone();
    let check = checks.iter().find(|check| check["name"] == "instances").unwrap();
    assert_eq!(check["state"], "warning");
    assert_eq!(check["evidence"], "tea: there is no plugin teapot");
}

#[test]
fn the_operator_key_is_made_once_and_is_its_owners_alone() {
    let home = home();
    let first = stdout(&run(home.path(), &["operator-key", "show"]));
    assert!(first.starts_with("qo_"), "{first}");
    assert_eq!(stdout(&run(home.path(), &["operator-key", "show"])), first);
    let file = home.path().join("home/operator_key");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn completions_and_generated_files_are_printed() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(home.path(), &["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("qudao"), "{shell}");
    }
    let schema = json(&run(home.path(), &["print", "config-schema"]));
    assert!(schema["properties"]["server"].is_object());
    let api = json(&run(home.path(), &["print", "openapi"]));
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[test]
fn the_catalogue_is_listed_for_people_and_for_programs() {
    let home = home();
    let listed = json(&run(home.path(), &["model", "list", "--json"]));
    let models = listed["models"].as_array().unwrap();
    assert!(models.iter().any(|model| model["name"] == "smollm2-135m-instruct"));
    let output = run(home.path(), &["model", "pull", "no-such-model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("smollm2-135m-instruct"), "{}", stderr(&output));
}

#[test]
fn an_unknown_command_is_wrong_usage() {
    let home = home();
    assert_eq!(run(home.path(), &["fly"]).status.code(), Some(2));
}

#[test]
fn a_new_plugin_is_started_once() {
    let home = home();
    let output = run(home.path(), &["plugin", "new", "my-plugin"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(home.path().join("my-plugin/src/lib.rs").is_file());
    assert_eq!(run(home.path(), &["plugin", "new", "my-plugin"]).status.code(), Some(1));
    assert_eq!(run(home.path(), &["plugin", "new", "My Plugin"]).status.code(), Some(1));
}

const WEIGHTS: &[u8] = b"GGUF, as far as a command needs to know";

/// As [`qudao`], with a catalogue of one model; its file is there if wanted.
fn with_model(home: &Path, here: bool) -> impl Fn(&[&str]) -> Output {
    let sum = qudao_plugin_api::manifest::sha256_hex(WEIGHTS);
    let catalogue = home.join("models.toml");
    let text = format!(
        "[[model]]\nname = \"tiny\"\ntitle = \"Tiny\"\nlanguages = [\"en\", \"zh\"]\nlicence = \"MIT\"\n\
         family = \"llama\"\ncontext_tokens = 64\nparameters = 1048576\nweaknesses = [\"It knows nothing.\"]\n\
         [[model.measured]]\nmachine = \"a toy, 1 core\"\ndate = \"2026-11-29\"\nthreads = 1\ntokens_per_s = 7.5\n\
         [[model.source]]\nkind = \"huggingface\"\nrepository = \"a/b\"\nfile = \"f\"\nsha256 = \"{sum}\"\n"
    );
    fs::write(&catalogue, text).unwrap();
    let dir = home.join("home/models");
    fs::create_dir_all(&dir).unwrap();
    if here {
        fs::write(dir.join("tiny.gguf"), WEIGHTS).unwrap();
    }
    let home = home.to_owned();
    move |arguments: &[&str]| {
        let mut command = qudao(&home);
        command.env("QUDAO__MODELS__CATALOGUE", &catalogue);
        command.args(arguments).output().unwrap()
    }
}

#[test]
fn a_card_tells_what_is_known_of_a_model_for_people_and_for_programs() {
    let home = home();
    let run = with_model(home.path(), false);
    let text = stdout(&run(&["model", "card", "tiny"]));
    for said in ["MIT", "许可", "en, zh", "201 MiB", "7.5 tokens/s", "It knows nothing.", "a toy"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    let card = json(&run(&["model", "card", "tiny", "--json"]));
    assert_eq!(card["measured"][0]["tokens_per_s"], 7.5);
    assert_eq!((&card["path"], &card["memory_mib"]), (&Value::Null, &201.into()));
    assert_eq!(run(&["model", "card", "nope"]).status.code(), Some(1));
}

#[test]
fn models_are_carried_to_a_machine_without_a_way_out() {
    let (here, there) = (home(), home());
    let (from, to) = (with_model(here.path(), true), with_model(there.path(), false));
    let tar = here.path().join("models.tar");
    let tar = tar.to_str().unwrap();
    let exported = from(&["model", "export", tar, "tiny", "--json"]);
    assert_eq!(json(&exported)["models"][0]["bytes"], WEIGHTS.len());
    assert_eq!(from(&["model", "export", tar, "absent"]).status.code(), Some(1));
    let imported = to(&["model", "import", tar, "--json"]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    assert_eq!(json(&imported)["models"][0]["verified"], true);
    let card = json(&to(&["model", "card", "tiny", "--json"]));
    assert_eq!((&card["verified"], &card["bytes"]), (&true.into(), &WEIGHTS.len().into()));
    fs::write(tar, &fs::read(tar).unwrap()[..1600]).unwrap();
    let cut = to(&["model", "import", tar]);
    assert_eq!(cut.status.code(), Some(1));
    assert!(stderr(&cut).contains("is not taken"), "{}", stderr(&cut));
}

#[tokio::test]
async fn a_model_that_a_running_instance_serves_is_removed_only_by_force() {
    let home = home();
    let run = with_model(home.path(), true);
    let db = TestDb::new().await;
    let file = home.path().join("home/models/tiny.gguf");
    let mut command = qudao(home.path());
    command.env("QUDAO__MODELS__CATALOGUE", home.path().join("models.toml"));
    command.env("DATABASE_URL", db.url()).arg("serve");
    let serve = Serve::spawn(home.path(), command);
    let refused = run(&["model", "rm", "tiny"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert!(file.exists());
    let forced = run(&["model", "rm", "tiny", "--force", "--json"]);
    assert_eq!(json(&forced)["removed"][0]["bytes"], WEIGHTS.len());
    assert!(!file.exists());
    serve.terminate();
    fs::write(&file, WEIGHTS).unwrap();
    assert!(run(&["model", "rm", "tiny"]).status.success());
    assert_eq!(run(&["model", "rm", "tiny"]).status.code(), Some(1));
}

#[test]
fn without_its_program_nothing_is_quantized_and_a_file_is_not_written_over() {
    let home = home();
    let output = run(home.path(), &["model", "quantize", "weights", "made.gguf", "--kind", "q4_k"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("qudao-quantize") || said.contains("was not made"), "{said}");
    fs::write(home.path().join("made.gguf"), "kept").unwrap();
    let output = run(home.path(), &["model", "quantize", "weights", "made.gguf"]);
    assert!(stderr(&output).contains("--force"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(home.path().join("made.gguf")).unwrap(), "kept");
}

#[test]
fn the_check_of_a_gpu_machine_says_what_it_would_do_and_what_is_missing() {
    let tools = tempfile::tempdir().unwrap();
    let check = |driver: Option<&str>| {
        let smi = tools.path().join("nvidia-smi");
        let _ = fs::remove_file(&smi);
        if let Some(driver) = driver {
            fs::write(&smi, format!("#!/bin/sh\necho 'NVIDIA L4, {driver}, 8.9, 23034'\n"))
                .unwrap();
            fs::set_permissions(&smi, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/gpu-check.sh");
        let mut command = Command::new("bash");
        // Nothing of this machine's own graphics is asked.
        let path = format!("{}:/usr/bin:/bin", tools.path().display());
        command.arg(script).args(["--dry-run", "smollm2-135m-instruct"]).env("PATH", path);
        command.output().unwrap()
    };
    if !Path::new("/usr/bin/nvidia-smi").exists() {
        let output = check(None);
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains("nvidia-smi is missing"));
    }
    let output = check(Some("570.11.02"));
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("580"), "{}", stderr(&output));
    let output = check(Some("580.65.06"));
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    for step in [
        "scripts/cuda.sh",
        "target/release/xtask plugins",
        "cargo test --release --target-dir target/cuda -p qudao-plugin-candle-llm",
        "model bench smollm2-135m-instruct --device cuda:0 --json",
        "model bench smollm2-135m-instruct --device cpu --json",
    ] {
        assert!(said.contains(step), "{step}: {said}");
    }
}
