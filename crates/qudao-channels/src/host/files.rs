//! Copies of files that came in, so that they outlive the platform's links. A copy that cannot be
//! made leaves the message as it is: the words that stand for the file.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_core::{
    Accepted,
    channel::{
        adapter::{ChannelAdapter, Fetched},
        plan::RawResponse,
        setup::OpenChannel,
    },
};
use qudao_domain::message::{Media, Message};
use qudao_storage::{NewMedia, StorageError};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Host;

/// The largest file that is copied; the media table keeps no larger one.
const MOST_BYTES: usize = 25 << 20;
/// Requests that one file may take.
const STEPS: usize = 4;
/// The waits before each further try.
const AGAIN: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

impl Host {
    /// Begins to copy the files of a message that was accepted.
    pub(super) fn copy_files(
        self: &Arc<Self>,
        channel: &Arc<OpenChannel>,
        accepted: Accepted,
        message: &Message,
    ) {
        let Some(adapter) = self.adapters.get(&channel.kind) else { return };
        for (place, part) in message.parts.iter().enumerate() {
            let Some(media) = part.media().filter(|media| media.external_id.is_some()) else {
                continue;
            };
            let (host, channel, adapter) =
                (Arc::clone(self), Arc::clone(channel), Arc::clone(adapter));
            let media = media.clone();
            let work = async move {
                let copied = host.copy_file(&channel, &*adapter, accepted, place, &media).await;
                let outcome = if copied { "copied" } else { "failed" };
                counter!(
                    "qudao_channel_files_total",
                    "channel" => channel.kind.as_str(), "outcome" => outcome
                )
                .increment(1);
            };
            self.core.tasks.spawn_on(work, &self.runtime);
        }
    }

    async fn copy_file(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        accepted: Accepted,
        place: usize,
        media: &Media,
    ) -> bool {
        if media.size.is_some_and(|size| MOST_BYTES as u64 <= size) {
            return false;
        }
        for wait in AGAIN.into_iter().map(Some).chain([None]) {
            match self.fetch(channel, adapter, media).await {
                Ok(file) => {
                    let kept = self.keep_file(channel, accepted, place, media, &file).await;
                    if kept.is_ok() {
                        return true;
                    }
                }
                // The platform says that it is gone or forbidden.
                Err(false) => return false,
                Err(true) => {}
            }
            let Some(wait) = wait else { return false };
            tokio::select! {
                () = self.closing.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
        false
    }

    /// The file, or whether another try can help.
    async fn fetch(
        &self,
        channel: &OpenChannel,
        adapter: &dyn ChannelAdapter,
        media: &Media,
    ) -> Result<RawResponse, bool> {
        let mut plan = adapter.fetch(&channel.config, media).ok_or(false)?;
        for _ in 0..STEPS {
            let response = self.request(channel, adapter, &plan).await.map_err(|_| true)?;
            if !response.is_success() {
                return Err(response.status == 429 || 500 <= response.status);
            }
            match adapter.fetched(&channel.config, &response) {
                Fetched::Bytes => return Ok(response),
                Fetched::Then(next) => plan = next,
                Fetched::Failed(_) => return Err(false),
            }
        }
        Err(false)
    }

    async fn keep_file(
        &self,
        channel: &OpenChannel,
        accepted: Accepted,
        place: usize,
        media: &Media,
        file: &RawResponse,
    ) -> Result<(), StorageError> {
        let told = media.mime.as_deref().or_else(|| file.header("content-type"));
        let mime = told.filter(|mime| (3..=127).contains(&mime.chars().count()));
        let mime = mime.unwrap_or("application/octet-stream").to_owned();
        let sha256 = Sha256::digest(&file.body);
        let mut tx = self.core.store.begin(channel.config.tenant_id).await?;
        let id = tx
            .keep_media(NewMedia {
                channel_id: channel.config.channel_id,
                conversation_id: Some(accepted.conversation_id),
                mime: &mime,
                name: media.name.as_deref(),
                sha256: &sha256,
                bytes: &file.body,
            })
            .await?;
        let known = json!({
            "upload_id": id.to_string(), "mime": mime,
            "size": file.body.len(), "sha256": hex::encode(sha256),
        });
        tx.attach_media(accepted.conversation_id, accepted.seq, place, &known).await?;
        tx.commit().await
    }
}
