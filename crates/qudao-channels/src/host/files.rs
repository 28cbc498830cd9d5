//! Copies of files that came in, so that they outlive the platform's links. A copy that cannot be
//! made leaves the message as it is: the words that stand for the file.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics::counter;
use qudao_core::{
    Accepted,
    channel::{
        adapter::{ChannelAdapter, Fetched},
        plan::RawResponse,
        setup::OpenChannel,
    },
};
use qudao_domain::message::{Media, Message, Part};
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

/// A file that came within a message, at one of its parts.
pub(super) struct Inline {
    place: usize,
    bytes: Vec<u8>,
}

/// A message without the files in it, which stand there as `data:` addresses in base64, and those
/// files. What is no such file or too large is left out: an address of this kind is kept nowhere.
pub(super) fn without_inline(message: &Message) -> (Message, Vec<Inline>) {
    let (mut message, mut inline) = (message.clone(), Vec::new());
    for (place, part) in message.parts.iter_mut().enumerate() {
        let Some(media) = part.media_mut() else { continue };
        let Some(url) = media.url.take_if(|url| url.starts_with("data:")) else { continue };
        let Some((_, encoded)) = url.split_once(";base64,") else { continue };
        if let Some(bytes) = STANDARD.decode(encoded).ok().filter(|it| it.len() < MOST_BYTES) {
            inline.push(Inline { place, bytes });
        }
    }
    (message, inline)
}

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

    /// Keeps the files that came within a message. Nobody can ask for them again, so the platform's
    /// request waits until they are kept.
    pub(super) async fn keep_inline(
        &self,
        channel: &OpenChannel,
        accepted: Accepted,
        message: &Message,
        inline: Vec<Inline>,
    ) {
        for Inline { place, bytes } in inline {
            let Some(media) = message.parts.get(place).and_then(Part::media) else { continue };
            let file = RawResponse { status: 200, body: bytes, ..RawResponse::default() };
            let kept = self.keep_file(channel, accepted, place, media, &file).await;
            let outcome = if kept.is_ok() { "copied" } else { "failed" };
            counter!(
                "qudao_channel_files_total",
                "channel" => channel.kind.as_str(), "outcome" => outcome
            )
            .increment(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_within_a_message_are_taken_out_of_it() {
        let part = |url: &str| Part::File(Media { url: Some(url.to_owned()), ..Media::default() });
        let parts = vec![
            part("data:text/plain;base64,QUJD"),
            part("https://a.example/b"),
            part("data:text/plain,ABC"),
            part("data:text/plain;base64,%%%"),
        ];
        let (message, inline) = without_inline(&Message { parts, reply_to: None });
        let urls = message.parts.iter().map(|part| part.media().unwrap().url.as_deref());
        let urls: Vec<_> = urls.collect();
        assert_eq!(urls, [None, Some("https://a.example/b"), None, None]);
        let files: Vec<_> = inline.iter().map(|file| (file.place, &file.bytes[..])).collect();
        assert_eq!(files, [(0, &b"ABC"[..])]);
    }
}
