//! Private Postgres and Redis children: how Qudao runs on a machine where neither is set up.
//!
//! A service that is configured by its URL is used as it is. Otherwise a child is started whose
//! data live under the home directory and which listens on a unix socket only. The children are
//! supervised, stop with the process, and stop as well when the process is killed: Linux sends
//! them their shutdown signal when the thread that started them ends.

mod archive;
mod backup;
mod child;
mod error;
mod find;
mod home;
mod keeper;
mod place;
mod postgres;
mod redis;
mod restore;
mod wal;

use std::path::PathBuf;

pub use archive::ArchiveSettings;
pub use backup::{Backup, BackupReport, BackupSettings, back_up, backup_times};
pub use child::ServiceUser;
pub use error::ServicesError;
pub use find::{Environment, PostgresBinaries, RedisBinary, find_postgres, find_redis};
pub use home::{HomeLock, Instance, MASTER_KEY, prepare_home, running_instance};
pub use keeper::ServiceReport;
pub use restore::{RestoreReport, RestoreSettings, restore};

use crate::{
    child::Identity,
    keeper::{Keeper, Service},
    place::Place,
};

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct ServicesSettings {
    /// The instance's directory. Must exist: see [`prepare_home`].
    pub home: PathBuf,
    /// A Postgres to use instead of a private one.
    pub database_url: Option<String>,
    /// A Redis to use instead of a private one.
    pub redis_url: Option<String>,
    /// Whether what was committed has to survive a power cut. Off for tests only.
    pub durable: bool,
    /// Where a private Postgres archives its log, if it does.
    pub archive: Option<ArchiveSettings>,
}

/// Where the private services' sockets would be, and the user that the services would run as when
/// this process is root. Changes nothing.
///
/// # Errors
/// As [`Services::start`] would fail for want of a user or of a short path.
pub fn preview_place(
    environment: &Environment,
) -> Result<(PathBuf, Option<String>), ServicesError> {
    let identity = child::identity()?;
    let parent = place::socket_parent(identity.as_ref(), environment)?;
    Ok((parent, identity.map(|identity| identity.name)))
}

/// The major version of Postgres that wrote a home's private database, if there is one.
pub fn database_major(home: &std::path::Path) -> Option<u32> {
    postgres::written_by(&home.join("data/postgres"))
}

/// Where Postgres and Redis are; owns those that are private children.
#[derive(Debug)]
pub struct Services {
    /// How to reach Postgres, as the owner of the schema.
    pub database_url: String,
    /// How to reach Redis.
    pub redis_url: String,
    keeper: Option<Keeper>,
}

impl Services {
    /// Starts what is not configured by a URL and waits until it answers.
    ///
    /// # Errors
    /// A [`ServicesError`] that names what is missing or why a child did not come up. Nothing is
    /// left running then.
    pub async fn start(
        settings: ServicesSettings,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let (database_url, redis_url) = (&settings.database_url, &settings.redis_url);
        if let (Some(database_url), Some(redis_url)) = (database_url, redis_url) {
            let (database_url, redis_url) = (database_url.clone(), redis_url.clone());
            return Ok(Self { database_url, redis_url, keeper: None });
        }
        find::require(environment, database_url.is_none(), redis_url.is_none())?;
        let identity = child::identity()?;
        let place = place::decide(&settings.home, identity.as_ref(), environment)?;
        let result = Self::start_in(&place, identity, settings, environment).await;
        if result.is_err() {
            let _ = std::fs::remove_dir_all(&place.run);
        }
        result
    }

    async fn start_in(
        place: &Place,
        identity: Option<Identity>,
        settings: ServicesSettings,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let ServicesSettings { database_url, redis_url, durable, archive, .. } = settings;
        let archive = archive.filter(|_| !place.data.join(restore::REHEARSAL).exists());
        let mut wanted: Vec<Box<dyn Service>> = Vec::new();
        let redis_url = match redis_url {
            Some(url) => url,
            None => {
                let redis = redis::Redis::new(place, identity.clone(), durable, environment)?;
                let url = redis.url();
                wanted.push(Box::new(redis));
                url
            }
        };
        let database_url = match database_url {
            Some(url) => url,
            None => {
                let postgres =
                    postgres::Postgres::new(place, identity, durable, archive, environment)?;
                let url = postgres.url();
                wanted.push(Box::new(postgres));
                url
            }
        };
        let keeper = Keeper::start(wanted, place.run.clone()).await?;
        Ok(Self { database_url, redis_url, keeper: Some(keeper) })
    }

    /// Starts a private Redis alone, for a test that wants one of its own.
    ///
    /// # Errors
    /// As [`Services::start`].
    pub async fn start_redis(
        home: &std::path::Path,
        environment: &Environment,
    ) -> Result<Self, ServicesError> {
        let settings = ServicesSettings {
            home: home.to_owned(),
            database_url: Some(String::new()),
            redis_url: None,
            durable: false,
            archive: None,
        };
        Self::start(settings, environment).await
    }

    /// The private children and what became of them; empty when both are configured by URL.
    pub fn reports(&self) -> Vec<ServiceReport> {
        self.keeper.as_ref().map(Keeper::reports).unwrap_or_default()
    }

    /// Stops the private children and waits until they are gone.
    pub async fn stop(mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.stop().await;
        }
    }
}
