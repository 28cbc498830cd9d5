//! Starts the private services for a directory, prints where they are as JSON, and holds them
//! until its standard input ends: `cargo run -p qudao-services --example hold -- /tmp/somewhere`.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
};

use qudao_services::{
    Environment, HomeLock, Instance, Services, ServicesError, ServicesSettings, prepare_home,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    match hold().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn hold() -> Result<(), ServicesError> {
    let home = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| ".qudao".into()));
    let home = prepare_home(&home)?;
    let mut lock = HomeLock::acquire(&home)?;
    let settings = ServicesSettings {
        home,
        database_url: None,
        redis_url: None,
        durable: false,
        archive: None,
    };
    let services = Services::start(settings, &Environment::read()).await?;
    let instance = Instance {
        pid: std::process::id(),
        base_url: "http://127.0.0.1:1".to_owned(),
        database_url: services.database_url.clone(),
        redis_url: services.redis_url.clone(),
    };
    lock.publish(&instance)?;
    let line = serde_json::json!({ "instance": instance, "services": services.reports() });
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdin().read(&mut [0]);
    services.stop().await;
    Ok(())
}
