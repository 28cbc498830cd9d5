//! Whether the servers that are configured or running answer, and let us do what we must.

use std::time::Duration;

use qudao_services::{Environment, find_postgres, running_instance};
use qudao_storage::{Bus, Store, StoreSettings};

use super::Check;
use crate::context::Context;

const UNREACHABLE: &str = "start the server, or correct DATABASE_URL";

pub(super) async fn database(context: &Context) -> Check {
    let name = "database";
    let configured = context.settings.database.url.as_ref().map(|url| url.reveal().to_owned());
    let running = || running_instance(&context.home).map(|instance| instance.database_url);
    let Some(url) = configured.or_else(running).filter(|url| !url.is_empty()) else {
        return Check::ok(name, "private; started with the platform");
    };
    let settings = StoreSettings {
        max_connections: 1,
        acquire_timeout: Duration::from_secs(5),
        ..StoreSettings::new(url.as_str())
    };
    let store = match Store::connect(settings).await {
        Ok(store) => store,
        Err(error) => return unreachable_database(&url, &error.to_string()).await,
    };
    let answer = store.ping().await;
    store.close().await;
    match answer {
        Ok(()) => Check::ok(name, "answers, with its schema"),
        Err(error) => unreachable_database(&url, &error.to_string()).await,
    }
}

/// Tells a server that is not there from one without the schema. The role's rights can only be
/// seen with `psql`, which comes with Postgres.
async fn unreachable_database(url: &str, error: &str) -> Check {
    let name = "database";
    let question = "SELECT current_user, rolsuper OR rolbypassrls FROM pg_roles \
                    WHERE rolname = current_user";
    let binaries = find_postgres(&Environment::read(), None).ok().flatten();
    let program = binaries.map_or_else(|| "psql".into(), |found| found.program("psql"));
    let mut psql = tokio::process::Command::new(program);
    psql.args(["-qAtX", "-c", question]).env("PGCONNECT_TIMEOUT", "5").kill_on_drop(true);
    // Every user of the machine can read a command line, but not another user's environment.
    let (url, password) = part_password(url);
    psql.args(["-d", &url]).envs(password.map(|password| ("PGPASSWORD", password)));
    let answer = tokio::time::timeout(Duration::from_secs(8), psql.output()).await;
    let Ok(Ok(output)) = answer else {
        return Check::failed(name, error.to_owned(), UNREACHABLE);
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Check::failed(name, said, UNREACHABLE);
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match said.split_once('|') {
        Some((_, "t")) => Check::warning(
            name,
            "answers, without its schema",
            "nothing to do: the start makes it, or `qudao migrate`",
        ),
        Some((role, _)) => Check::failed(
            name,
            format!("answers, but the role {role} may not make the schema"),
            format!("ALTER ROLE \"{role}\" BYPASSRLS CREATEROLE, or a superuser's URL"),
        ),
        None => Check::failed(name, error.to_owned(), UNREACHABLE),
    }
}

/// The URL without its password. A password with escapes stays: `psql` reads those in URLs only.
fn part_password(url: &str) -> (String, Option<String>) {
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user, host) = rest.split_once('@')?;
        let (user, password) = user.split_once(':')?;
        let plain = !password.contains('%');
        plain.then(|| (format!("{scheme}://{user}@{host}"), Some(password.to_owned())))
    };
    parts().unwrap_or_else(|| (url.to_owned(), None))
}

pub(super) async fn redis(context: &Context) -> Check {
    let name = "bus";
    let configured = context.settings.redis.url.as_ref().map(|url| url.reveal().to_owned());
    let running = || running_instance(&context.home).map(|instance| instance.redis_url);
    let Some(url) = configured.or_else(running).filter(|url| !url.is_empty()) else {
        return Check::ok(name, "private; started with the platform");
    };
    let answers = match Bus::connect(&url) {
        Ok(bus) => tokio::time::timeout(Duration::from_secs(3), bus.ping()).await.unwrap_or(false),
        Err(error) => {
            return Check::failed(name, error.to_string(), "correct REDIS_URL");
        }
    };
    if answers {
        return Check::ok(name, "Redis answers");
    }
    Check::warning(
        name,
        "Redis does not answer: replies appear whole instead of word by word",
        "start the server, or correct REDIS_URL",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_leaves_the_url() {
        let parted = part_password("postgres://u:p@h:5432/db?host=/x");
        assert_eq!(parted, ("postgres://u@h:5432/db?host=/x".to_owned(), Some("p".to_owned())));
        let without = part_password("postgres://u@h/db");
        assert_eq!(without, ("postgres://u@h/db".to_owned(), None));
    }
}
