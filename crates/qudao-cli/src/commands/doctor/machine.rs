//! What the machine has to offer: a directory, programs, a port, memory.

use std::{
    env, fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
};

use nix::unistd::{AccessFlags, access};
use qudao_config::Sandbox;
use qudao_core::MasterKeySource;
use qudao_plugin_host::TRUST;
use qudao_services::{
    Environment, database_major, find_postgres, find_redis, preview_place, running_instance,
};

use super::Check;
use crate::{context::Context, master_key};

/// Below this, the default models leave no room for the platform.
const LITTLE_MEMORY: u64 = 1 << 30;

pub(super) fn home(context: &Context) -> Check {
    let name = "home";
    let home = &context.home;
    let existing = home.ancestors().find(|dir| dir.exists());
    let writable = existing.is_some_and(|dir| {
        dir.is_dir() && access(dir, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
    });
    if writable {
        return Check::ok(name, home.display().to_string());
    }
    let evidence = format!("{} cannot be written", existing.unwrap_or(home).display());
    Check::failed(name, evidence, "set QUDAO_HOME to a directory of yours")
}

/// Whom providers, channels and downloads are trusted by. Without them the platform starts, and reaches
/// nothing that is secured.
pub(super) fn certificates() -> Check {
    let name = "certificates";
    let found = rustls_native_certs::load_native_certs();
    let told: Vec<_> = TRUST
        .into_iter()
        .filter(|name| env::var_os(name).is_some_and(|place| !place.is_empty()))
        .collect();
    let of = if told.is_empty() { "the system".to_owned() } else { told.join(" and ") };
    let mut evidence = format!("{} known, from {of}", found.certs.len());
    // Of the system's some may be unreadable on any machine.
    if !found.certs.is_empty() && (told.is_empty() || found.errors.is_empty()) {
        return Check::ok(name, evidence);
    }
    if let Some(error) = found.errors.first() {
        evidence = format!("{evidence}: {error}");
    }
    Check::warning(
        name,
        evidence,
        "install ca-certificates, or correct SSL_CERT_FILE and SSL_CERT_DIR: \
         nothing with https is reached whose authority is missing",
    )
}

/// What protects the secrets in the database. Whether it is the right one shows at the start.
pub(super) fn master_key(context: &Context) -> Check {
    let name = "master key";
    let source = match master_key::find(context) {
        Ok(source) => source,
        Err(error) => return Check::failed(name, format!("{error:#}"), "correct QUDAO_MASTER_KEY"),
    };
    if let MasterKeySource::File(path) = &source {
        let used = context.home.join("data").exists() || context.settings.database.url.is_some();
        match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !used => {
                return Check::ok(name, "will be made at the first start");
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Check::warning(
                    name,
                    format!("{} does not exist", path.display()),
                    "nothing to do if the database is new; else put it back, or set QUDAO_MASTER_KEY",
                );
            }
            Ok(file) if file.permissions().mode() & 0o077 != 0 => {
                let evidence = format!("others can read {}", path.display());
                return Check::warning(name, evidence, format!("chmod 600 {}", path.display()));
            }
            _ => {}
        }
    }
    match source.load() {
        Ok(keys) => Check::ok(
            name,
            format!("{} is the first of {}", keys.first().id(), keys.iter().count()),
        ),
        Err(error) => {
            Check::failed(name, error.to_string(), "put the key back, or set QUDAO_MASTER_KEY")
        }
    }
}

pub(super) fn sockets() -> Check {
    match preview_place(&Environment::read()) {
        Ok((parent, None)) => Check::ok("sockets", format!("below {}", parent.display())),
        Ok((parent, Some(user))) => {
            Check::ok("sockets", format!("below {}; services run as {user}", parent.display()))
        }
        Err(error) => Check::failed("sockets", error.to_string(), "set TMPDIR to a short path"),
    }
}

/// What keeps plugins in.
pub(super) fn sandbox(context: &Context) -> Check {
    let name = "sandbox";
    let (held, missing) = qudao_plugin_host::protections();
    let held = held.join(", ");
    match (context.settings.plugins.sandbox, missing.is_empty()) {
        (Sandbox::Off, _) => Check::warning(
            name,
            format!("plugins.sandbox is `off`; this kernel offers {held}"),
            "leave plugins.sandbox at `best_effort`",
        ),
        (_, true) => Check::ok(name, format!("plugins are kept in by {held}")),
        (Sandbox::BestEffort, false) => Check::warning(
            name,
            format!("plugins are kept in by {held}; this kernel lacks {}", missing.join(", ")),
            "boot with lsm=landlock,… on Linux 5.13 or later, or trust your plugins",
        ),
        (Sandbox::Required, false) => Check::failed(
            name,
            format!("plugins.sandbox is `required`; this kernel lacks {}", missing.join(", ")),
            "boot with lsm=landlock,… on Linux 5.13 or later, or set it to `best_effort`",
        ),
    }
}

pub(super) fn postgres(context: &Context) -> Check {
    let name = "postgres";
    if context.settings.database.url.is_some() {
        return Check::ok(name, "DATABASE_URL is set: none of our own is started");
    }
    let install = "sudo apt-get install -y postgresql, or set DATABASE_URL";
    match find_postgres(&Environment::read(), None) {
        Err(error) => Check::failed(name, error.to_string(), "correct QUDAO_PG_BIN"),
        Ok(None) => Check::failed(name, "not installed", install),
        Ok(Some(found)) => {
            let written = database_major(&context.home).unwrap_or(found.major);
            let suits = find_postgres(&Environment::read(), Some(written));
            match suits {
                Ok(Some(suits)) if suits.major == written => Check::ok(
                    name,
                    format!("PostgreSQL {} in {}", suits.major, suits.dir.display()),
                ),
                _ => Check::failed(
                    name,
                    format!("the data are PostgreSQL {written}'s, installed is {}", found.major),
                    format!("sudo apt-get install -y postgresql-{written}"),
                ),
            }
        }
    }
}

pub(super) fn redis(context: &Context) -> Check {
    let name = "redis";
    if context.settings.redis.url.is_some() {
        return Check::ok(name, "REDIS_URL is set: none of our own is started");
    }
    match find_redis(&Environment::read()) {
        Some(found) => Check::ok(name, found.path.display().to_string()),
        None => Check::failed(
            name,
            "not installed",
            "sudo apt-get install -y redis-tools, or set REDIS_URL",
        ),
    }
}

pub(super) fn port(context: &Context) -> Check {
    let bind = context.settings.server.bind;
    match TcpListener::bind(bind) {
        Ok(_) => Check::ok("port", format!("{bind} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => taken(context, bind),
        Err(error) => Check::failed(
            "port",
            format!("{bind}: {error}"),
            "set QUDAO_BIND to an address of this machine",
        ),
    }
}

fn taken(context: &Context, bind: SocketAddr) -> Check {
    let ours = running_instance(&context.home)
        .is_some_and(|instance| instance.base_url.ends_with(&format!(":{}", bind.port())));
    if ours {
        return Check::ok("port", format!("{bind} is this home's running instance"));
    }
    let fix =
        format!("stop who listens there (ss -ltnp 'sport = :{}'), or set QUDAO_BIND", bind.port());
    Check::failed("port", format!("{bind} is taken"), fix)
}

/// `needed`: what the models that are here take once loaded, about the size of their files.
pub(super) fn memory(needed: u64) -> Check {
    let name = "memory";
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let Some(bytes) = kib.map(|kib| kib * 1024) else {
        return Check::ok(name, "unknown on this system");
    };
    let mib = |bytes: u64| bytes >> 20;
    let evidence = format!("{} MiB free, models take about {}", mib(bytes), mib(needed));
    if bytes < needed + LITTLE_MEMORY {
        return Check::warning(name, evidence, "configure smaller models, or free memory");
    }
    Check::ok(name, evidence)
}
