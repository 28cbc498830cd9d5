//! Files among the messages that a turn answers, which a model is asked about before the one that answers:
//! pictures and sounds. What it says is written down at the file, so that a turn that begins anew finds it
//! there, and later turns read it in what was said before.

use std::{sync::Arc, time::Duration};

use qudao_domain::{MediaId, TurnId, message::Part};
use qudao_plugin_api::wire::Ask;
use qudao_storage::{MediaFile, NewMedia, StorageError};
use serde_json::Value;
use tokio::time::{self, Instant};

use super::{Turn, look::Drawn};
use crate::{Core, PreviewEvent, api::Aside};

/// How long a turn waits for a file's bytes: they come after the message, from the visitor or from the
/// platform.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether they are there.
const POLL: Duration = Duration::from_millis(250);
/// Larger files do not fit a request, which has 16 MiB, in base64.
const BYTES_MAX: usize = 11 << 20;

/// A file among the messages to answer.
pub(super) struct Attached {
    message: usize,
    place: usize,
    seq: i64,
}

/// Why nothing is known of a file: a word of a closed set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missed(pub(super) &'static str);

/// The files of which nobody has said yet what they hold, if they are of the wanted kind.
pub(super) fn unknown(turn: &Turn, wanted: impl Fn(&Part) -> bool) -> Vec<Attached> {
    let untold = |part: &Part| part.media().is_some_and(|media| media.alt.is_none());
    all(turn, |part| untold(part) && wanted(part))
}

/// The files of the wanted kind, whatever is known of them.
pub(super) fn all(turn: &Turn, wanted: impl Fn(&Part) -> bool) -> Vec<Attached> {
    let mut found = Vec::new();
    for (message, pending) in turn.context.pending.iter().enumerate() {
        for (place, part) in pending.body.parts.iter().enumerate() {
            if part.media().is_some() && wanted(part) {
                found.push(Attached { message, place, seq: pending.seq });
            }
        }
    }
    found
}

impl Attached {
    /// The call that is made about the file: the same however often the turn begins anew.
    fn call(&self, turn: &Turn) -> TurnId {
        TurnId::beside(turn.claim.conversation_id, self.seq, self.place)
    }

    /// The copy that is drawn in that call.
    pub(super) fn drawn_id(&self, turn: &Turn) -> MediaId {
        MediaId::from_uuid(self.call(turn).as_uuid())
    }

    /// The part of the message.
    pub(super) fn part<'a>(&self, turn: &'a Turn) -> Option<&'a Part> {
        turn.context.pending.get(self.message)?.body.parts.get(self.place)
    }

    /// Tells whoever watches what is said in it.
    pub(super) fn heard(&self, words: String) -> PreviewEvent {
        PreviewEvent::Heard { seq: self.seq, place: self.place, words }
    }

    /// Puts the words in the place where the message's text mentions the file. Returns the whole text.
    pub(super) fn describe(&self, turn: &mut Turn, words: &str) -> Option<String> {
        let body = &mut turn.context.pending.get_mut(self.message)?.body;
        let part = body.parts.get_mut(self.place)?;
        let before = part.to_text();
        part.media_mut()?.alt = Some(words.to_owned());
        let after = part.to_text();
        body.text = match body.text.contains(&before) {
            true => body.text.replacen(&before, &after, 1),
            false => format!("{}\n{after}", body.text),
        };
        Some(body.text.clone())
    }
}

impl Core {
    /// The bytes of a file, as soon as they are here.
    pub(super) async fn attached_file(
        &self,
        turn: &Turn,
        file: &Attached,
        patience: Instant,
    ) -> Result<MediaFile, Missed> {
        let comes = file.part(turn).and_then(Part::media);
        if comes.is_none_or(|media| media.upload_id.is_none() && media.external_id.is_none()) {
            // Nothing but an address of somebody's, which is not asked.
            return Err(Missed("elsewhere"));
        }
        loop {
            match self.stored(turn, file).await {
                Ok(Some(file)) if BYTES_MAX < file.bytes.len() => return Err(Missed("too_large")),
                Ok(Some(file)) => return Ok(file),
                Ok(None) if patience <= Instant::now() => return Err(Missed("absent")),
                Ok(None) => time::sleep(POLL).await,
                Err(error) => {
                    tracing::warn!(%error, "a file of a message cannot be read");
                    return Err(Missed("failed"));
                }
            }
        }
    }

    /// What a model says of a file: a call of its own, booked once however often the turn begins anew.
    pub(super) async fn ask_about(
        self: &Arc<Self>,
        turn: &Turn,
        file: &Attached,
        ask: Ask,
    ) -> Result<Vec<Value>, Missed> {
        let aside = Aside {
            tenant_id: turn.claim.tenant_id,
            currency: turn.context.currency,
            policy: turn.context.fair_charging,
            channel_id: turn.context.channel_id,
            id: file.call(turn),
            place: turn.place,
        };
        let model = ask.model().to_owned();
        self.ask_aside(aside, ask).await.map_err(|error| {
            tracing::debug!(class = error.class(), model, "no answer about a file of a message");
            Missed("failed")
        })
    }

    async fn stored(
        &self,
        turn: &Turn,
        file: &Attached,
    ) -> Result<Option<MediaFile>, StorageError> {
        let (channel, conversation) = (turn.context.channel_id, turn.claim.conversation_id);
        let mut tx = self.store.begin(turn.claim.tenant_id).await?;
        let found = tx.message_media(channel, conversation, file.seq, file.place).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Writes down what a file holds, and keeps the copy that was drawn of it: both or neither.
    ///
    /// Without a database the turn goes on with what it knows; who begins it anew asks again, and that is
    /// not booked again.
    pub(super) async fn write_down(
        &self,
        turn: &Turn,
        file: &Attached,
        (words, text): (&str, &str),
        drawn: Option<&Drawn>,
    ) {
        let write = async {
            let mut tx = self.store.begin(turn.claim.tenant_id).await?;
            let conversation = turn.claim.conversation_id;
            tx.describe_media(conversation, file.seq, file.place, words, text).await?;
            if let Some(drawn) = drawn {
                tx.keep_media(NewMedia {
                    id: file.drawn_id(turn),
                    channel_id: turn.context.channel_id,
                    conversation_id: Some(conversation),
                    mime: drawn.mime,
                    name: Some(drawn.name),
                    sha256: &drawn.sha256,
                    bytes: &drawn.bytes,
                })
                .await?;
            }
            tx.commit().await
        };
        if let Err(error) = write.await {
            tracing::warn!(%error, "what a file holds was not written down");
        }
    }
}
