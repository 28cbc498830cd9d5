//! `qudao migrate`

use std::process::ExitCode;

use qudao_storage::Store;
use serde_json::json;

use crate::{context::Context, terminal};

pub(crate) async fn run(context: &Context, json: bool) -> anyhow::Result<ExitCode> {
    let database = context.database().await?;
    let outcome = Store::migrate(&database.url).await;
    database.close().await;
    let applied = outcome?;
    if json {
        terminal::print_json(&json!({ "applied": applied }));
    } else if applied.is_empty() {
        terminal::print("The schema is up to date.");
    } else {
        for name in &applied {
            terminal::print(&format!("applied {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
