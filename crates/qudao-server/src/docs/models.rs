//! Calls of models.

use serde_json::json;

use crate::{
    code::Code,
    openai::{
        answer::Completion,
        classifications::{ClassificationList, ClassificationRequest},
        detections::{Detection, DetectionRequest},
        embeddings::{EmbeddingList, EmbeddingRequest},
        models::{Model, ModelList},
        transcript::{Transcription, VerboseTranscription},
        transcriptions::TranscriptionForm,
        wire::CompletionRequest,
    },
    openapi::Doc,
};

pub(crate) fn completions() -> Doc {
    Doc::new("Models", "Answer a conversation")
        .openai()
        .about(
            "As OpenAI's endpoint of the same name; fields that no model here knows are ignored. \
             With `stream` the answer is `text/event-stream`: chunks as `data:` lines, then \
             `data: [DONE]` when the charge is settled. A refusal in the middle of a stream is one \
             `data:` line with `error` in place of the rest. With an `Idempotency-Key` the answer is \
             kept for a day and given again: the model is called and charged once. Such a call is \
             made to its end, and charged as a whole, even if its caller hangs up.",
        )
        .once()
        .served()
        .body::<CompletionRequest>(json!({
            "model": "qwen2.5-0.5b-instruct",
            "messages": [{ "role": "user", "content": "Hello!" }],
            "stream": true,
        }))
        .returns::<Completion>(200, "The answer.")
        .or_text("text/event-stream")
        .fails(ASKED)
}

pub(crate) fn embeddings() -> Doc {
    Doc::new("Models", "Turn texts into vectors")
        .openai()
        .about(
            "As OpenAI's endpoint of the same name. With an `Idempotency-Key` the answer is kept for a \
             day and given again: the model is called and charged once.",
        )
        .once()
        .served()
        .body::<EmbeddingRequest>(json!({
            "model": "multilingual-e5-small",
            "input": ["How do I return an order?", "怎么退货？"],
        }))
        .returns::<EmbeddingList>(200, "The vectors, in the order of the texts.")
        .fails(ASKED)
}

pub(crate) fn classifications() -> Doc {
    Doc::new("Models", "Classify texts")
        .openai()
        .about(
            "Each text gets the likeliest of the model's classes, unless the model is not sure enough \
             to name one. With an `Idempotency-Key` the answer is kept for a day and given again: the \
             model is called and charged once.",
        )
        .once()
        .served()
        .body::<ClassificationRequest>(json!({
            "model": "sentiment",
            "input": "The parcel came a day early, thank you!",
            "explain": true,
        }))
        .returns::<ClassificationList>(200, "The classes, in the order of the texts.")
        .fails(ASKED)
}

pub(crate) fn detections() -> Doc {
    Doc::new("Models", "Find things in a picture")
        .openai()
        .about(
            "JPEG, PNG, WebP and the first frame of a GIF, of any size up to the model's limits. Boxes are \
             in pixels of the picture as people see it. With an `Idempotency-Key` the answer is kept for \
             a day and given again: the model is called and charged once.",
        )
        .once()
        .served()
        .body::<DetectionRequest>(json!({
            "model": "yolox-nano",
            "image": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAFklEQVR42mMoIgAYRhWMKhhVMFIVAAC7NMgQNNvlHQAAAABJRU5ErkJggg==",
            "annotate": true,
        }))
        .returns::<Detection>(200, "What is in the picture, the surest first.")
        .fails(ASKED)
}

pub(crate) fn transcriptions() -> Doc {
    Doc::new("Models", "Write down what is said")
        .openai()
        .about(
            "As OpenAI's endpoint of the same name. A second of sound, begun ones counted, is charged as \
             a token of input. `srt` and `text` come as `text/plain`, `vtt` as `text/vtt`. With `stream` \
             the answer is `text/event-stream`: `transcript.text.delta` for each stretch of speech as soon \
             as it is understood, `transcript.text.done` and `data: [DONE]` when the charge is settled. \
             With an `Idempotency-Key` the answer is kept for a day and given again: the model is called \
             and charged once, and the form's own bounds may differ.",
        )
        .once()
        .served()
        .form::<TranscriptionForm>()
        .returns_either::<Transcription, VerboseTranscription>(200, "What is said.")
        .or_text("text/plain")
        .or_text("text/vtt")
        .or_text("text/event-stream")
        .fails(ASKED)
}

/// How a call of a model may fail.
const ASKED: &[Code] = &[
    Code::InsufficientCredits,
    Code::ModelNotFound,
    Code::WrongModelKind,
    Code::RateLimited,
    Code::ModelFailed,
    Code::ProviderMisconfigured,
    Code::ModelNotReady,
    Code::ModelUnavailable,
    Code::Overloaded,
    Code::ModelTimeout,
];

pub(crate) fn models() -> Doc {
    Doc::new("Models", "List the models")
        .openai()
        .about("The models that the routes of the key's tenant name.")
        .returns::<ModelList>(200, "The models.")
}

pub(crate) fn model() -> Doc {
    Doc::new("Models", "Read a model")
        .openai()
        .returns::<Model>(200, "The model.")
        .fails(&[Code::ModelNotFound])
}
