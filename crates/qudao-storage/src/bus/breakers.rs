//! Models that a node found to fail, kept in Redis for nodes that start later. A hint like all that is
//! there: without Redis nothing is kept, and each node finds out for itself.

use std::collections::HashMap;

use super::Bus;

/// The hash of what is kept: models, and until when in milliseconds since 1970.
const KEPT: &str = "qd:breakers";
/// Seconds after which a hash that nobody changed goes.
const FORGOTTEN: u32 = 3600;

/// A model that is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBreaker {
    /// Its name.
    pub model: String,
    /// Until when, in milliseconds since 1970 by the clock of the node that found out.
    pub until_ms: u64,
}

impl Bus {
    /// Keeps that a model is left alone.
    pub async fn keep_breaker(&self, open: &OpenBreaker) {
        let mut set = redis::cmd("HSET");
        set.arg(KEPT).arg(&open.model).arg(open.until_ms);
        let mut expire = redis::cmd("EXPIRE");
        expire.arg(KEPT).arg(FORGOTTEN);
        if self.ask::<i64>(&set).await.is_some() {
            let _ = self.ask::<i64>(&expire).await;
        }
    }

    /// Forgets that a model was left alone.
    pub async fn drop_breaker(&self, model: &str) {
        let mut command = redis::cmd("HDEL");
        command.arg(KEPT).arg(model);
        let _ = self.ask::<i64>(&command).await;
    }

    /// The models that are kept, those too whose time is over. None while Redis is away.
    pub async fn kept_breakers(&self) -> Vec<OpenBreaker> {
        let mut command = redis::cmd("HGETALL");
        command.arg(KEPT);
        let kept = self.ask::<HashMap<String, u64>>(&command).await.unwrap_or_default();
        kept.into_iter().map(|(model, until_ms)| OpenBreaker { model, until_ms }).collect()
    }
}
