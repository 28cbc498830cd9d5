//! What most commands begin with: the settings, and where things are.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use qudao_config::{Loaded, Settings};
use qudao_services::{
    ArchiveSettings, Environment, HomeLock, Instance, Services, ServicesSettings, prepare_home,
    running_instance,
};
use qudao_storage::{Store, StoreSettings};

/// The file beside the shipped plugins that holds the public key of their signature.
const SIGNER: &str = "signer.pub";

/// Settings and directories.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    /// The file that the settings came from, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// The instance's directory; may not exist yet.
    pub(crate) home: PathBuf,
}

impl Context {
    /// Reads the settings; options of the command line go over them.
    pub(crate) fn load(config: Option<&Path>, home: Option<PathBuf>) -> anyhow::Result<Self> {
        let Loaded { settings, file } = qudao_config::load(config, variables())?;
        let home = home.unwrap_or_else(|| settings.home.clone());
        let home = std::path::absolute(&home).context("resolving the home directory")?;
        Ok(Self { settings, file, home })
    }

    /// Creates the home directory if need be.
    pub(crate) fn prepare_home(&mut self) -> anyhow::Result<()> {
        self.home = prepare_home(&self.home)?;
        Ok(())
    }

    /// Where the programs, plugins and pages of an installation are.
    pub(crate) fn program_dir() -> Option<PathBuf> {
        let program = std::env::current_exe().ok()?.canonicalize().ok()?;
        program.parent().map(Path::to_owned)
    }

    /// Where plugins are looked for, in this order.
    pub(crate) fn plugin_dirs(&self) -> Vec<PathBuf> {
        if !self.settings.plugins.dirs.is_empty() {
            return self.settings.plugins.dirs.clone();
        }
        let mut dirs = vec![self.home.join("plugins")];
        dirs.extend(Self::shipped_plugin_dirs());
        dirs.retain(|dir| dir.is_dir());
        dirs
    }

    /// The directories with the plugins that came with this program.
    pub(crate) fn shipped_plugin_dirs() -> Vec<PathBuf> {
        let mut dirs = vec![PathBuf::from("dist/plugins")];
        if let Some(dir) = Self::program_dir() {
            // target/release/qudao in the source tree, /usr/bin/qudao in an installation.
            dirs.push(dir.join("../../dist/plugins"));
            dirs.push(dir.join("../share/qudao/plugins"));
        }
        let mut found: Vec<PathBuf> =
            dirs.into_iter().filter_map(|dir| dir.canonicalize().ok()).collect();
        found.dedup();
        found
    }

    /// The operator's keys, and those that the build signed the shipped plugins with: whoever can
    /// write there can replace this program as well, or the key does not count.
    pub(crate) fn trusted_keys(&self) -> anyhow::Result<Vec<[u8; 32]>> {
        let mut texts = self.settings.plugins.trusted_keys.clone();
        for dir in Self::shipped_plugin_dirs() {
            let path = dir.join(SIGNER);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            match qudao_plugin_host::guarded(&path) {
                Ok(()) => texts.push(text.trim().to_owned()),
                Err(reason) => tracing::warn!(
                    path = %path.display(),
                    reason,
                    "the key beside the plugins is not trusted"
                ),
            }
        }
        let decode = |text: &String| {
            let mut key = [0; 32];
            hex::decode_to_slice(text, &mut key).with_context(|| {
                format!("{text:?} is not a public key of 64 hexadecimal digits")
            })?;
            Ok(key)
        };
        texts.iter().map(decode).collect()
    }

    /// Where pulled models are.
    pub(crate) fn models_dir(&self) -> PathBuf {
        self.settings.models.dir.clone().unwrap_or_else(|| self.home.join("models"))
    }

    /// The services' settings for a command that needs them.
    pub(crate) fn services_settings(&self) -> ServicesSettings {
        let reveal = |url: &Option<qudao_config::Secret>| {
            url.as_ref().map(|secret| secret.reveal().to_owned())
        };
        ServicesSettings {
            home: self.home.clone(),
            database_url: reveal(&self.settings.database.url),
            redis_url: reveal(&self.settings.redis.url),
            durable: true,
            archive: self.archive(),
        }
    }

    /// Where the private Postgres archives its log, if it does.
    pub(crate) fn archive(&self) -> Option<ArchiveSettings> {
        let backup = &self.settings.backup;
        // Postgres has another working directory.
        let dir = backup.dir.as_ref().and_then(|dir| std::path::absolute(dir).ok())?;
        Some(ArchiveSettings { dir, timeout: Duration::from_secs(backup.archive_timeout_s) })
    }

    /// The database as a command finds it: configured, or the running instance's, or the private
    /// one, which is started for the command.
    pub(crate) async fn database(&self) -> anyhow::Result<Database> {
        if let Some(url) = &self.settings.database.url {
            return Ok(Database { url: url.reveal().to_owned(), private: None });
        }
        if let Some(Instance { database_url, .. }) = running_instance(&self.home)
            && !database_url.is_empty()
        {
            return Ok(Database { url: database_url, private: None });
        }
        let home = prepare_home(&self.home)?;
        let lock = HomeLock::acquire(&home)?;
        // Postgres alone: a command has no use for Redis.
        let redis_url = Some("unix:///dev/null".to_owned());
        let settings = ServicesSettings { home, redis_url, ..self.services_settings() };
        let services = Services::start(settings, &Environment::read()).await?;
        Ok(Database { url: services.database_url.clone(), private: Some((services, lock)) })
    }
}

impl Context {
    /// Runs a command's work on the database as [`Self::database`] finds it, and takes all of it apart
    /// afterwards, however the work ended.
    pub(crate) async fn with_store<T>(
        &self,
        work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let database = self.database().await?;
        let settings = StoreSettings { max_connections: 4, ..StoreSettings::new(&*database.url) };
        let outcome = async {
            let store = Store::connect(settings).await.context("connecting to the database")?;
            let outcome = work(&store).await;
            store.close().await;
            outcome
        }
        .await;
        database.close().await;
        outcome
    }
}

/// A database to work on for the length of a command.
pub(crate) struct Database {
    pub(crate) url: String,
    private: Option<(Services, HomeLock)>,
}

impl Database {
    /// Stops what was started for the command.
    pub(crate) async fn close(self) {
        if let Some((services, _lock)) = self.private {
            services.stop().await;
        }
    }
}

/// The process's environment. What is not UTF-8 cannot be one of ours.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Whether a variable is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty())
}
