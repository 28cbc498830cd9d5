//! The boundary to messaging surfaces. Adapters depend on the core, the core on no adapter.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use moka::future::Cache;
use qudao_domain::state::ChannelKind;
use qudao_storage::{ChannelDoor, OutboxClaim, StorageError};

use crate::Core;

pub mod adapter;
pub mod config;
pub mod event;
pub mod plan;
pub mod reference;
pub mod secrets;
pub mod session;
pub mod setup;

/// How many doors are remembered at most; more only cost a look-up each.
const DOORS: u64 = 100_000;

/// A messaging surface that can take an outbound message.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Which messages it takes.
    fn kind(&self) -> ChannelKind;

    /// Hands one message to the other side. May be called twice for the same message after a
    /// crash: the outbox id is the key by which the other side recognises it.
    ///
    /// # Errors
    /// [`DeliverError`], which says whether another try can help.
    async fn deliver(&self, message: &OutboxClaim) -> Result<(), DeliverError>;
}

/// The other side did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DeliverError {
    /// Whether another try can help. A permanent refusal buries the message.
    pub retryable: bool,
    /// How long to wait at least, where the other side says. Such a try is not counted.
    pub after: Option<Duration>,
    /// What the other side said, for the operator.
    pub detail: String,
}

impl DeliverError {
    /// Another try may help.
    pub fn retry(detail: impl Into<String>) -> Self {
        Self { retryable: true, after: None, detail: detail.into() }
    }

    /// Another try will help after this time.
    pub fn wait(after: Duration, detail: impl Into<String>) -> Self {
        Self { after: Some(after), ..Self::retry(detail) }
    }

    /// No other try can help.
    pub fn refused(detail: impl Into<String>) -> Self {
        Self { retryable: false, ..Self::retry(detail) }
    }
}

/// What the database knew of a public key a moment ago. Also remembers that it knew nothing.
/// Whether a channel takes messages is decided by the database all the same, at each message.
pub(crate) struct DoorCache(Cache<String, Option<Arc<ChannelDoor>>>);

impl DoorCache {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self(Cache::builder().max_capacity(DOORS).time_to_live(max_age).build())
    }
}

impl Core {
    /// The same as [`Core::door`] if somebody asked a moment ago, `None` if nobody did: without the
    /// database, on any thread.
    pub async fn remembered_door(&self, key: &str) -> Option<Option<Arc<ChannelDoor>>> {
        self.doors.0.get(key).await
    }

    /// The channel behind a public key, as it was a second ago at the earliest.
    ///
    /// # Errors
    /// [`StorageError`], shared by all who asked at the same moment.
    pub async fn door(&self, key: &str) -> Result<Option<Arc<ChannelDoor>>, Arc<StorageError>> {
        if let Some(found) = self.remembered_door(key).await {
            return Ok(found);
        }
        let look_up = async { Ok(self.store.find_channel_by_public_key(key).await?.map(Arc::new)) };
        Box::pin(self.doors.0.try_get_with(key.to_owned(), look_up)).await
    }
}
