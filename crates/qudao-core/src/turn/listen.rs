//! Sounds are listened to before the language model is asked, where the assistant has a model that
//! hears: what is said in a voice message takes the place of the message's text.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics::counter;
use qudao_domain::message::Part;
use qudao_plugin_api::wire::{Segment, TranscribeRequest};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Turn,
    attached::{self, Attached, Missed, PATIENCE},
};
use crate::{Core, failpoint};

mod words;

/// Sounds that are listened to in one turn; more are left as they are.
const SOUNDS_MAX: usize = 8;
/// Characters of a transcript that are told and kept: some twenty minutes of speech.
const TRANSCRIPT_MAX: usize = 20_000;

/// What an assistant's parameters say of sounds; the rest of them is for the language model.
#[derive(Default, Deserialize)]
struct Hearing {
    speech_model: Option<String>,
}

impl Core {
    /// Listens to the sounds of the messages to answer. What cannot be listened to is told to the
    /// language model as that, and the turn goes on.
    pub(super) async fn listen(self: &Arc<Self>, turn: &mut Turn) {
        let sounds = attached::unknown(turn, |part| matches!(part, Part::Audio(_)));
        if sounds.is_empty() {
            return;
        }
        let params = turn.context.assistant.params.clone();
        let Hearing { speech_model } = serde_json::from_value(params).unwrap_or_default();
        let patience = Instant::now() + PATIENCE;
        for sound in sounds.into_iter().take(SOUNDS_MAX) {
            let heard = match &speech_model {
                Some(model) => self.listen_to(turn, model, &sound, patience).await,
                None => Err(Missed("deaf")),
            };
            let voice = sound.part(turn).and_then(Part::media).is_some_and(|media| media.voice);
            let locale = &turn.context.locale;
            let (outcome, words) = match &heard {
                Ok(text) if text.is_empty() => ("silent", words::silent(locale, voice)),
                Ok(text) => ("heard", text.clone()),
                Err(Missed("deaf")) => ("deaf", words::deaf(locale, voice)),
                Err(Missed(class)) => (*class, words::unheard(locale, voice)),
            };
            counter!("qudao_sounds_total", "outcome" => outcome).increment(1);
            let Some(text) = sound.describe(turn, &words) else { continue };
            if heard.is_ok() {
                self.write_down(turn, &sound, (&words, &text), None).await;
                self.show(turn.claim.conversation_id, &sound.heard(words)).await;
                failpoint!("listen.written");
            } else if let Some(model) = &speech_model {
                let conversation = turn.claim.conversation_id;
                tracing::warn!(%conversation, model, outcome, "a sound was not listened to");
            }
        }
    }

    /// What is said in a sound; nothing where nobody speaks.
    async fn listen_to(
        self: &Arc<Self>,
        turn: &Turn,
        model: &str,
        sound: &Attached,
        patience: Instant,
    ) -> Result<String, Missed> {
        if self.is_withheld(&turn.context.routing, model) {
            return Err(Missed("remote"));
        }
        let file = self.attached_file(turn, sound, patience).await?;
        let request = TranscribeRequest::new(model, STANDARD.encode(&file.bytes));
        let answer = self.ask_about(turn, sound, request.into()).await?;
        failpoint!("listen.settled");
        let segments: Vec<Segment> = answer
            .into_iter()
            .map(|segment| serde_json::from_value(segment).map_err(|_| Missed("failed")))
            .collect::<Result<_, _>>()?;
        Ok(Segment::text_of(&segments).chars().take(TRANSCRIPT_MAX).collect())
    }
}
