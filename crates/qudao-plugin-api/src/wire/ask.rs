//! What may be asked of a model, whatever its kind.

use serde::Serialize;

use super::{ChatRequest, ClassifyRequest, DetectRequest, EmbedRequest, TranscribeRequest};
use crate::abi::{
    QD_KIND_CHAT, QD_KIND_CLASSIFY, QD_KIND_DETECT, QD_KIND_EMBED, QD_KIND_TRANSCRIBE,
};

/// One request, by the kind of model that answers it. Its JSON is that of what it holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "most are chats, and each is made for one call")]
pub enum Ask {
    /// Answer a conversation.
    Chat(ChatRequest),
    /// Turn texts into vectors.
    Embed(EmbedRequest),
    /// Sort texts into classes.
    Classify(ClassifyRequest),
    /// Find things in a picture.
    Detect(DetectRequest),
    /// Turn speech into text.
    Transcribe(TranscribeRequest),
}

impl Ask {
    /// `QD_KIND_*` of [`crate::abi`].
    #[must_use]
    pub const fn kind(&self) -> u32 {
        match self {
            Self::Chat(_) => QD_KIND_CHAT,
            Self::Embed(_) => QD_KIND_EMBED,
            Self::Classify(_) => QD_KIND_CLASSIFY,
            Self::Detect(_) => QD_KIND_DETECT,
            Self::Transcribe(_) => QD_KIND_TRANSCRIBE,
        }
    }

    /// The model that is asked.
    #[must_use]
    pub fn model(&self) -> &str {
        match self {
            Self::Chat(ChatRequest { model, .. })
            | Self::Embed(EmbedRequest { model, .. })
            | Self::Classify(ClassifyRequest { model, .. })
            | Self::Detect(DetectRequest { model, .. })
            | Self::Transcribe(TranscribeRequest { model, .. }) => model,
        }
    }

    /// Asks another one.
    pub fn set_model(&mut self, name: &str) {
        let model = match self {
            Self::Chat(ChatRequest { model, .. })
            | Self::Embed(EmbedRequest { model, .. })
            | Self::Classify(ClassifyRequest { model, .. })
            | Self::Detect(DetectRequest { model, .. })
            | Self::Transcribe(TranscribeRequest { model, .. }) => model,
        };
        name.clone_into(model);
    }
}

macro_rules! from {
    ($($variant:ident = $request:ty;)+) => {
        $(
            impl From<$request> for Ask {
                fn from(request: $request) -> Self {
                    Self::$variant(request)
                }
            }
        )+
    };
}

from! {
    Chat = ChatRequest;
    Embed = EmbedRequest;
    Classify = ClassifyRequest;
    Detect = DetectRequest;
    Transcribe = TranscribeRequest;
}
