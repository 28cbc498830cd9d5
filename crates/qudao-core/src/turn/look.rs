//! Pictures are looked at before the language model is asked, where the assistant has a model that
//! sees.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics::counter;
use qudao_domain::message::Part;
use qudao_plugin_api::wire::{DetectRequest, Detected};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Turn,
    attached::{self, Attached, Missed, PATIENCE},
};
use crate::{Core, failpoint};

mod words;

/// Pictures that are looked at in one turn; more are left as they are.
const PICTURES_MAX: usize = 8;

/// What an assistant's parameters say of pictures; the rest of them is for the language model.
#[derive(Default, Deserialize)]
struct Sight {
    vision_model: Option<String>,
}

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
        let pictures = attached::unknown(turn, |part| matches!(part, Part::Image(_)));
        for picture in pictures.into_iter().take(PICTURES_MAX) {
            let seen = self.look_at(turn, &model, &picture, patience).await;
            let locale = &turn.context.locale;
            let (outcome, words) = match &seen {
                Ok(detected) => ("seen", words::of(detected, locale)),
                Err(Missed(class)) => (*class, words::unseen(locale).to_owned()),
            };
            counter!("qudao_pictures_total", "outcome" => outcome).increment(1);
            let Some(text) = picture.describe(turn, &words) else { continue };
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
        picture: &Attached,
        patience: Instant,
    ) -> Result<Detected, Missed> {
        let file = self.attached_file(turn, picture, patience).await?;
        let request = DetectRequest::new(model, STANDARD.encode(&file.bytes));
        let answer = self.ask_about(turn, picture, request.into()).await?;
        failpoint!("look.settled");
        let first = answer.into_iter().next().ok_or(Missed("failed"))?;
        serde_json::from_value(first).map_err(|_| Missed("failed"))
    }
}
