//! The key of the admin API: configured, or made once and kept in the home.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use qudao_config::is_operator_key;
use qudao_domain::key::random_secret;

use crate::{context::Context, terminal};

const FILE: &str = "operator_key";

/// The key, made if there is none yet.
pub(crate) fn find_or_make(context: &Context) -> anyhow::Result<String> {
    if let Some(key) = &context.settings.operator.key {
        return Ok(key.reveal().to_owned());
    }
    let path = context.home.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let key = text.trim();
            if !is_operator_key(key) {
                bail!(
                    "{} does not hold an operator key; remove it to have one made",
                    path.display()
                );
            }
            Ok(key.to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = format!("qo_{}", random_secret());
            write_secret(&path, &format!("{key}\n"))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let unfinished = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// `qudao operator-key show`
pub(crate) fn show(context: &Context) -> anyhow::Result<ExitCode> {
    qudao_services::prepare_home(&context.home)?;
    terminal::print(&find_or_make(context)?);
    Ok(ExitCode::SUCCESS)
}
