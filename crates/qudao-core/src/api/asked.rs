//! What a call asks, by the kind of model that answers it: what is wrong with it, and how long the answer
//! may become.

use qudao_plugin_api::wire::{Ask, ChatRequest};
use qudao_plugin_host::ModelEntry;

use super::{ApiError, ApiRequest};

/// Refuses what no model serves.
///
/// # Errors
/// [`ApiError::InvalidParameter`].
pub(super) fn check(request: &ApiRequest) -> Result<(), ApiError> {
    let refuse =
        |param, detail: &str| Err(ApiError::InvalidParameter { param, detail: detail.to_owned() });
    match &request.ask {
        Ask::Chat(chat) => check_chat(chat, request.choices),
        Ask::Embed(embed) => check_texts(&embed.texts),
        Ask::Classify(classify) => check_texts(&classify.texts),
        Ask::Detect(detect) if detect.picture.is_empty() => refuse("picture", "must not be empty"),
        Ask::Detect(detect) if detect.threshold.is_some_and(|t| !(0.0..=1.0).contains(&t)) => {
            refuse("threshold", "must be from 0 to 1")
        }
        Ask::Transcribe(transcribe) if transcribe.sound.is_empty() => {
            refuse("sound", "must not be empty")
        }
        Ask::Detect(_) | Ask::Transcribe(_) => Ok(()),
    }
}

fn check_texts(texts: &[String]) -> Result<(), ApiError> {
    if texts.is_empty() || texts.iter().any(|text| text.trim().is_empty()) {
        let detail = "must hold at least one text, and none without a letter".to_owned();
        return Err(ApiError::InvalidParameter { param: "input", detail });
    }
    Ok(())
}

fn check_chat(chat: &ChatRequest, choices: Option<u32>) -> Result<(), ApiError> {
    let refuse =
        |param, detail: &str| Err(ApiError::InvalidParameter { param, detail: detail.to_owned() });
    let params = &chat.params;
    let within = |value: Option<f32>, low: f32, high: f32| {
        value.is_none_or(|value| (low..=high).contains(&value))
    };
    if !matches!(choices, None | Some(1)) {
        return refuse("n", "only one choice per call is served: n must be 1");
    }
    if chat.messages.is_empty() {
        return refuse("messages", "must hold at least one message");
    }
    if params.max_tokens == Some(0) {
        return refuse("max_tokens", "must be at least 1");
    }
    if !within(params.temperature, 0.0, 2.0) {
        return refuse("temperature", "must be from 0 to 2");
    }
    if !within(params.top_p, 0.0, 1.0) {
        return refuse("top_p", "must be from 0 to 1");
    }
    if !within(params.frequency_penalty, -2.0, 2.0) {
        return refuse("frequency_penalty", "must be from -2 to 2");
    }
    if !within(params.presence_penalty, -2.0, 2.0) {
        return refuse("presence_penalty", "must be from -2 to 2");
    }
    Ok(())
}

/// The tokens that the answer may have. Vectors, classes and boxes are none; words that are explained
/// count as one each.
pub(super) fn output_bound(ask: &Ask, model: &ModelEntry, default: u32) -> u32 {
    let capped = |wanted: u32| match model.max_output_tokens {
        0 => wanted,
        most => wanted.min(most),
    };
    match ask {
        Ask::Chat(chat) => capped(chat.params.max_tokens.unwrap_or(default)),
        Ask::Classify(classify) if classify.explain => {
            let bytes = classify.texts.iter().map(String::len).sum::<usize>();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        }
        // Of a transcript the seconds of the sound are counted, which are read.
        Ask::Embed(_) | Ask::Classify(_) | Ask::Detect(_) | Ask::Transcribe(_) => 0,
    }
}
