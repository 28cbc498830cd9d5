//! The Postgres server that holds the databases of the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use qudao_services::{
    Environment, HomeLock, Instance, Services, ServicesSettings, find_postgres, prepare_home,
    running_instance,
};
use tokio::sync::OnceCell;

/// Names the Postgres server for the tests: a URL of a role that may create databases and roles.
pub const DATABASE_VARIABLE: &str = "QUDAO_TEST_DATABASE_URL";
/// Names a Redis server for tests that do not need one of their own.
pub const REDIS_VARIABLE: &str = "QUDAO_TEST_REDIS_URL";

const HOME_PREFIX: &str = "qudao-test-";

/// A private server of this process. It ends with the process; its files are removed by the next
/// one that needs a server, since nothing runs at the end of a test process.
struct PrivateServer {
    services: Services,
    _lock: HomeLock,
}

static PRIVATE: OnceCell<PrivateServer> = OnceCell::const_new();

/// The URL of the server, started if need be.
pub(crate) async fn admin_url() -> String {
    if let Some(url) = variable(DATABASE_VARIABLE) {
        return url;
    }
    PRIVATE.get_or_init(start_private).await.services.database_url.clone()
}

pub(crate) fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.into_string().ok()?;
    Some(value).filter(|value| !value.is_empty())
}

async fn start_private() -> PrivateServer {
    let parent = std::env::temp_dir();
    sweep(&parent);
    let home = parent.join(format!("{HOME_PREFIX}{}", std::process::id()));
    let home = prepare_home(&home).expect("a home for the tests' services");
    let mut lock = HomeLock::acquire(&home).expect("a home of this process alone");
    let services = start_services(&home).await;
    let instance = Instance {
        pid: std::process::id(),
        database_url: services.database_url.clone(),
        ..Instance::default()
    };
    lock.publish(&instance).expect("the lock can be written");
    PrivateServer { services, _lock: lock }
}

/// Postgres and Redis without durability.
pub(crate) async fn start_services(home: &Path) -> Services {
    let settings = ServicesSettings {
        home: home.to_owned(),
        database_url: None,
        redis_url: None,
        durable: false,
        archive: None,
    };
    match Services::start(settings, &Environment::read()).await {
        Ok(services) => services,
        Err(error) => panic!("the tests need Postgres and Redis: {error}"),
    }
}

/// Removes what test processes that have ended left behind.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(HOME_PREFIX);
        let home = entry.path();
        let lock = home.join("instance.lock");
        if !ours || !lock.exists() || running_instance(&home).is_some() {
            continue;
        }
        // The children may still be shutting down: their files are for the next sweep then.
        let children = ["redis.pid", "postgres.pid"].map(|name| home.join("data").join(name));
        if children.iter().any(|file| is_running(file)) {
            continue;
        }
        let text = fs::read_to_string(&lock).unwrap_or_default();
        if let Some(sockets) = text.split("host=").nth(1).and_then(|rest| rest.split('"').next()) {
            let _ = fs::remove_dir_all(sockets);
        }
        let _ = fs::remove_dir_all(&home);
    }
}

fn is_running(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap_or_default();
    !pid.is_empty() && PathBuf::from("/proc").join(pid).exists()
}

/// Runs statements, each in a transaction of its own, and returns what they print.
pub(crate) fn psql(url: &str, statements: &[&str]) -> Result<String, String> {
    let binaries = find_postgres(&Environment::read(), None).ok().flatten();
    let program = binaries.map_or_else(|| "psql".into(), |found| found.program("psql"));
    let mut command = Command::new(program);
    command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    let output = command.output().map_err(|error| format!("running psql: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
