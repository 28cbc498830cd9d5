//! Pictures are looked at before the language model is asked, where the assistant has a model that
//! sees. What is found is written down at the picture, so that a turn that begins anew finds it there,
//! and later turns read it in what was said before.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics::counter;
use qudao_domain::{TurnId, message::Part};
use qudao_plugin_api::wire::{DetectRequest, Detected};
use qudao_storage::MediaFile;
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::Turn;
use crate::{Core, api::Aside, failpoint};

mod words;

/// Pictures that are looked at in one turn; more are left as they are.
const PICTURES_MAX: usize = 8;
/// How long a turn waits for a picture's bytes: they come after the message, from the visitor or from
/// the platform.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether they are there.
const POLL: Duration = Duration::from_millis(250);
/// Larger files do not fit a request, which has 16 MiB, in base64.
const BYTES_MAX: usize = 11 << 20;

/// What an assistant's parameters say of pictures; the rest of them is for the language model.
#[derive(Default, Deserialize)]
struct Sight {
    vision_model: Option<String>,
}

/// A picture among the messages to answer.
struct Picture {
    message: usize,
    place: usize,
    seq: i64,
}

/// Why a picture was not looked at: a word of a closed set.
struct Blind(&'static str);

impl Core {
    /// Looks at the pictures of the messages to answer. What cannot be looked at is told to the
    /// language model as that, and the turn goes on.
    pub(super) async fn look(self: &Arc<Self>, turn: &mut Turn) {
        let params = turn.context.assistant.params.clone();
        let Sight { vision_model: Some(model) } =
            serde_json::from_value(params).unwrap_or_default()
        else {
            return;
        };
        let patience = Instant::now() + PATIENCE;
        for picture in pictures(turn).into_iter().take(PICTURES_MAX) {
            let seen = self.look_at(turn, &model, &picture, patience).await;
            let locale = &turn.context.locale;
            let (outcome, words) = match &seen {
                Ok(detected) => ("seen", words::of(detected, locale)),
                Err(Blind(class)) => (*class, words::unseen(locale).to_owned()),
            };
            counter!("qudao_pictures_total", "outcome" => outcome).increment(1);
            let Some(text) = describe(turn, &picture, &words) else { continue };
            if seen.is_ok() {
                self.write_down(turn, &picture, &words, &text).await;
                failpoint!("look.written");
            } else {
                let conversation = turn.claim.conversation_id;
                tracing::warn!(%conversation, model, outcome, "a picture was not looked at");
            }
        }
    }

    async fn look_at(
        self: &Arc<Self>,
        turn: &Turn,
        model: &str,
        picture: &Picture,
        patience: Instant,
    ) -> Result<Detected, Blind> {
        let file = self.picture(turn, picture, patience).await?;
        if BYTES_MAX < file.bytes.len() {
            return Err(Blind("too_large"));
        }
        let aside = Aside {
            tenant_id: turn.claim.tenant_id,
            currency: turn.context.currency,
            policy: turn.context.fair_charging,
            channel_id: turn.context.channel_id,
            id: TurnId::beside(turn.claim.conversation_id, picture.seq, picture.place),
            place: turn.place,
        };
        let request = DetectRequest::new(model, STANDARD.encode(&file.bytes));
        let answer = self.ask_aside(aside, request.into()).await.map_err(|error| {
            tracing::debug!(class = error.class(), model, "no answer about a picture");
            Blind("failed")
        })?;
        failpoint!("look.settled");
        let first = answer.into_iter().next().ok_or(Blind("failed"))?;
        serde_json::from_value(first).map_err(|_| Blind("failed"))
    }

    /// The bytes of a picture, as soon as they are here.
    async fn picture(
        &self,
        turn: &Turn,
        picture: &Picture,
        patience: Instant,
    ) -> Result<MediaFile, Blind> {
        let comes = picture.part(turn).and_then(Part::media);
        if comes.is_none_or(|media| media.upload_id.is_none() && media.external_id.is_none()) {
            // Nothing but an address of somebody's, which is not asked.
            return Err(Blind("elsewhere"));
        }
        loop {
            match self.stored(turn, picture).await {
                Ok(Some(file)) => return Ok(file),
                Ok(None) if patience <= Instant::now() => return Err(Blind("absent")),
                Ok(None) => time::sleep(POLL).await,
                Err(error) => {
                    tracing::warn!(%error, "a picture cannot be read");
                    return Err(Blind("failed"));
                }
            }
        }
    }

    async fn stored(
        &self,
        turn: &Turn,
        picture: &Picture,
    ) -> Result<Option<MediaFile>, qudao_storage::StorageError> {
        let (channel, conversation) = (turn.context.channel_id, turn.claim.conversation_id);
        let mut tx = self.store.begin(turn.claim.tenant_id).await?;
        let file = tx.message_media(channel, conversation, picture.seq, picture.place).await?;
        tx.commit().await?;
        Ok(file)
    }

    /// Without a database the turn goes on with what it knows; who begins it anew looks again, and the
    /// look is not booked again.
    async fn write_down(&self, turn: &Turn, picture: &Picture, words: &str, text: &str) {
        let write = async {
            let mut tx = self.store.begin(turn.claim.tenant_id).await?;
            let conversation = turn.claim.conversation_id;
            tx.describe_media(conversation, picture.seq, picture.place, words, text).await?;
            tx.commit().await
        };
        if let Err(error) = write.await {
            tracing::warn!(%error, "what a picture shows was not written down");
        }
    }
}

impl Picture {
    fn part<'a>(&self, turn: &'a Turn) -> Option<&'a Part> {
        turn.context.pending.get(self.message)?.body.parts.get(self.place)
    }
}

/// The pictures of which nobody has said yet what they show.
fn pictures(turn: &Turn) -> Vec<Picture> {
    let mut found = Vec::new();
    for (message, pending) in turn.context.pending.iter().enumerate() {
        for (place, part) in pending.body.parts.iter().enumerate() {
            if matches!(part, Part::Image(media) if media.alt.is_none()) {
                found.push(Picture { message, place, seq: pending.seq });
            }
        }
    }
    found
}

/// Puts the words in the place where the message's text mentions the picture. Returns the whole text.
fn describe(turn: &mut Turn, picture: &Picture, words: &str) -> Option<String> {
    let body = &mut turn.context.pending.get_mut(picture.message)?.body;
    let part = body.parts.get_mut(picture.place)?;
    let before = part.to_text();
    part.media_mut()?.alt = Some(words.to_owned());
    let after = part.to_text();
    body.text = match body.text.contains(&before) {
        true => body.text.replacen(&before, &after, 1),
        false => format!("{}\n{after}", body.text),
    };
    Some(body.text.clone())
}
