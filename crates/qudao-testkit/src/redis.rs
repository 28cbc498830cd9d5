//! A Redis per test. Topics are not scoped by database number, so isolation means a server of
//! one's own; it starts in some ten milliseconds.

use qudao_services::{Environment, Services};
use tempfile::TempDir;

/// A private Redis, stopped with the value.
#[derive(Debug)]
pub struct TestRedis {
    // Before the directory: the server is stopped, then its files go.
    services: Services,
    _home: TempDir,
}

impl TestRedis {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no Redis to be had.
    pub async fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = qudao_services::prepare_home(home.path()).expect("a home for Redis");
        // Root's temporary directories may be closed to the user that Redis runs as.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(&path, open).expect("a directory that Redis can enter");
        match Services::start_redis(&path, &Environment::read()).await {
            Ok(services) => Self { services, _home: home },
            Err(error) => panic!("the test needs Redis: {error}"),
        }
    }

    /// How to reach it.
    pub fn url(&self) -> &str {
        &self.services.redis_url
    }

    /// Stops it, as if Redis had gone away in the middle of the test.
    pub async fn stop(self) {
        self.services.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_redis_answers_until_it_is_stopped() {
        let redis = TestRedis::new().await;
        let socket = redis.url().strip_prefix("unix://").expect("a unix socket").to_owned();
        std::os::unix::net::UnixStream::connect(&socket).expect("somebody listens");
        redis.stop().await;
        std::os::unix::net::UnixStream::connect(&socket).expect_err("nobody listens any more");
    }
}
