//! Pictures are looked at before the language model is asked, where the assistant has a model that
//! sees.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics::counter;
use qudao_domain::message::{Media, Part};
use qudao_plugin_api::wire::{DetectRequest, Detected};
use qudao_storage::{MediaFacts, StorageError};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Turn,
    attached::{self, Attached, Missed, PATIENCE},
};
use crate::{Core, failpoint};

mod drawn;
mod words;

pub(super) use drawn::Drawn;

/// Pictures that are looked at in one turn; more are left as they are.
const PICTURES_MAX: usize = 8;

/// What an assistant's parameters say of pictures; the rest of them is for the language model.
#[derive(Default, Deserialize)]
struct Sight {
    vision_model: Option<String>,
    /// Whether the reply shows the pictures with what was found drawn into them.
    #[serde(default)]
    vision_annotate: bool,
}

impl Core {
    /// Looks at the pictures of the messages to answer. What cannot be looked at is told to the
    /// language model as that, and the turn goes on.
    pub(super) async fn look(self: &Arc<Self>, turn: &mut Turn) {
        let params = turn.context.assistant.params.clone();
        let Sight { vision_model: Some(model), vision_annotate } =
            serde_json::from_value(params).unwrap_or_default()
        else {
            return;
        };
        let patience = Instant::now() + PATIENCE;
        let pictures = attached::unknown(turn, |part| matches!(part, Part::Image(_)));
        for picture in pictures.into_iter().take(PICTURES_MAX) {
            let seen = self.look_at(turn, &picture, (&model, vision_annotate), patience).await;
            let locale = &turn.context.locale;
            let (outcome, words) = match &seen {
                Ok((detected, _)) => ("seen", words::of(detected, locale)),
                Err(Missed(class)) => (*class, words::unseen(locale).to_owned()),
            };
            counter!("qudao_pictures_total", "outcome" => outcome).increment(1);
            let Some(text) = picture.describe(turn, &words) else { continue };
            if let Ok((_, drawn)) = &seen {
                self.write_down(turn, &picture, (&words, &text), drawn.as_ref()).await;
                failpoint!("look.written");
            } else {
                let conversation = turn.claim.conversation_id;
                tracing::warn!(%conversation, model, outcome, "a picture was not looked at");
            }
        }
        if vision_annotate {
            turn.shown = self.drawn(turn).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "a reply goes without the pictures that belong to it");
                Vec::new()
            });
        }
    }

    async fn look_at(
        self: &Arc<Self>,
        turn: &Turn,
        picture: &Attached,
        (model, annotate): (&str, bool),
        patience: Instant,
    ) -> Result<(Detected, Option<Drawn>), Missed> {
        if self.is_withheld(&turn.context.routing, model) {
            return Err(Missed("remote"));
        }
        let file = self.attached_file(turn, picture, patience).await?;
        let captions =
            if annotate { words::captions(&turn.context.locale) } else { BTreeMap::new() };
        let request = DetectRequest {
            annotate,
            captions,
            ..DetectRequest::new(model, STANDARD.encode(&file.bytes))
        };
        let answer = self.ask_about(turn, picture, request.into()).await?;
        failpoint!("look.settled");
        let mut pieces = answer.into_iter();
        let first = pieces.next().ok_or(Missed("failed"))?;
        let detected = serde_json::from_value(first).map_err(|_| Missed("failed"))?;
        Ok((detected, annotate.then(|| Drawn::of(pieces)).flatten()))
    }

    /// The copies that were drawn of the pictures of the messages to answer, by this attempt or an
    /// earlier one: what the database keeps, so that no reply names a file that is not there.
    async fn drawn(&self, turn: &Turn) -> Result<Vec<Part>, StorageError> {
        let pictures = attached::all(turn, |part| matches!(part, Part::Image(_)));
        let ids: Vec<_> = pictures.iter().map(|picture| picture.drawn_id(turn)).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.store.begin(turn.claim.tenant_id).await?;
        let kept = tx.channel_media_facts(turn.context.channel_id, &ids).await?;
        tx.commit().await?;
        let part = |picture: &Attached| {
            let id = picture.drawn_id(turn);
            let MediaFacts { mime, name, size, .. } = kept.iter().find(|facts| facts.id == id)?;
            Some(Part::Image(Media {
                upload_id: Some(id.to_string()),
                mime: Some(mime.clone()),
                size: Some(*size),
                name: name.clone(),
                alt: picture.part(turn).and_then(Part::media).and_then(|media| media.alt.clone()),
                ..Media::default()
            }))
        };
        Ok(pictures.iter().filter_map(part).collect())
    }
}
