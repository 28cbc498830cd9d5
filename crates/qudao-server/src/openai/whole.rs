//! Calls whose answer is sent when it is whole: those of models that do not chat.

use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use qudao_core::{Answered, ApiEvent, ApiReply, ApiRequest, KeptAnswer, Served};
use qudao_plugin_api::wire::{Ask, Usage};
use qudao_storage::Standing;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type},
    },
};

use super::{
    completions::{broke_off, cut_off, read_once},
    rate, served,
};
use crate::{
    access::KeyCaller,
    address::client_address,
    code::Code,
    error::{ApiError, FieldCheck},
    once::{mark_replayed, reused, under_way},
    scope::RequestContext,
    state::AppState,
};

/// Texts of one call at most, as at OpenAI.
const TEXTS_MAX: usize = 2048;

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "has to be a text or a list of texts")]
pub(crate) enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl PartialSchema for Texts {
    fn schema() -> RefOr<Schema> {
        let text = || {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .pattern(Some(r"^[^\x00]*[^\s\x00\x85][^\x00]*$"))
        };
        let texts =
            ArrayBuilder::new().items(text().build()).min_items(Some(1)).max_items(Some(TEXTS_MAX));
        OneOfBuilder::new().item(text()).item(texts).into()
    }
}

impl ToSchema for Texts {}

impl Texts {
    /// The texts, if a model can make something of each.
    pub(crate) fn take(self, check: &mut FieldCheck) -> Vec<String> {
        let (texts, single) = match self {
            Self::One(text) => (vec![text], true),
            Self::Many(texts) => (texts, false),
        };
        if !(1..=TEXTS_MAX).contains(&texts.len()) {
            check.refuse("/input", format_args!("may hold 1 to {TEXTS_MAX} texts"));
        }
        for (at, text) in texts.iter().enumerate() {
            if text.trim().is_empty() {
                let pointer = if single { "/input".to_owned() } else { format!("/input/{at}") };
                check.refuse(&pointer, "must not be empty");
            }
        }
        texts
    }
}

/// A call as it came in, before it is let in.
pub(crate) struct Door<'a> {
    pub(crate) state: &'a AppState,
    pub(crate) request: &'a HttpRequest,
    pub(crate) caller: &'a KeyCaller,
    pub(crate) context: &'a RequestContext,
    /// The body's bytes: a key for repetitions holds for them.
    pub(crate) body: &'a [u8],
}

const OTHER_FORM: &str = "the model's answer has another form than was asked";

/// A whole answer.
pub(crate) struct Whole {
    pub(crate) model: String,
    pieces: Vec<Value>,
    pub(crate) usage: Usage,
    standings: Vec<Standing>,
    served: Option<Served>,
    replayed: bool,
}

/// A call that was let in.
pub(super) enum Opened {
    /// Its answer begins.
    Now(Box<ApiReply>),
    /// It was answered before.
    Before(KeptAnswer),
}

impl Door<'_> {
    /// Asks the model. With `stream`, what was handed out counts as delivered though the rest is not.
    pub(super) async fn open(
        &self,
        ask: impl Into<Ask>,
        slot: qudao_core::CallSlot,
        stream: bool,
    ) -> Result<Opened, ApiError> {
        let Self { state, request, caller, context, body } = *self;
        let call = ApiRequest {
            ask: ask.into(),
            choices: None,
            stream,
            trace: context.trace,
            address: Some(client_address(request)),
            slot: Some(slot),
        };
        let Some(once) = read_once(request, caller, body)? else {
            let reply = state.within(state.core.api_call(&caller.0, call)).await?;
            return Ok(Opened::Now(Box::new(reply)));
        };
        match state.within(state.core.api_call_once(&caller.0, call, once)).await? {
            Answered::Now(reply) => Ok(Opened::Now(reply)),
            Answered::Before(answer) => Ok(Opened::Before(answer)),
            Answered::BrokenOff => Err(broke_off()),
            Answered::OtherBody => Err(reused()),
            Answered::UnderWay => Err(under_way()),
        }
    }

    /// Asks the model and waits for the end of its answer, which is settled then.
    pub(crate) async fn ask(
        &self,
        ask: impl Into<Ask>,
        slot: qudao_core::CallSlot,
    ) -> Result<Whole, ApiError> {
        let mut reply = match self.open(ask, slot, false).await? {
            Opened::Now(reply) => reply,
            Opened::Before(answer) => return Whole::again(answer),
        };
        let mut whole = Whole {
            model: reply.model().to_owned(),
            pieces: Vec::new(),
            usage: Usage::default(),
            standings: reply.standings().to_vec(),
            served: Some(reply.served()),
            replayed: false,
        };
        while let Some(event) = reply.next().await {
            if whole.push(event?) {
                return Ok(whole);
            }
        }
        Err(cut_off())
    }
}

impl Whole {
    /// A call that was served before: the same answer.
    fn again(answer: KeptAnswer) -> Result<Self, ApiError> {
        let mut whole = Self {
            model: answer.model.clone(),
            pieces: Vec::new(),
            usage: Usage::default(),
            standings: Vec::new(),
            served: answer.served.clone(),
            replayed: true,
        };
        let ended = answer.into_events().any(|event| whole.push(event));
        if ended { Ok(whole) } else { Err(cut_off()) }
    }

    /// Adds an event; true if it was the last.
    fn push(&mut self, event: ApiEvent) -> bool {
        match event {
            // These models have nothing to say in words.
            ApiEvent::Delta { .. } => {}
            ApiEvent::Data(piece) => self.pieces.push(piece),
            ApiEvent::End { usage, .. } => {
                self.usage = usage;
                return true;
            }
        }
        false
    }

    /// What the model said of each of `count` things, in their order.
    ///
    /// # Errors
    /// `model_failed` where it left one out, named one twice, or said something else.
    pub(crate) fn each<T: DeserializeOwned>(
        &mut self,
        count: usize,
        index: impl Fn(&T) -> u32,
    ) -> Result<Vec<T>, ApiError> {
        let failed = |detail: &'static str| ApiError::new(Code::ModelFailed, detail);
        let mut found: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
        for piece in self.pieces.drain(..) {
            let part: T = serde_json::from_value(piece).map_err(|_| failed(OTHER_FORM))?;
            let at = usize::try_from(index(&part)).unwrap_or(usize::MAX);
            match found.get_mut(at) {
                Some(place @ None) => *place = Some(part),
                _ => return Err(failed("the model answered something that was not asked")),
            }
        }
        let whole: Option<Vec<T>> = found.into_iter().collect();
        whole.ok_or_else(|| failed("the model left something out of its answer"))
    }

    /// All that the model said, of which nobody knew how much it would be.
    ///
    /// # Errors
    /// `model_failed` where it said something else.
    pub(crate) fn all<T: DeserializeOwned>(&mut self) -> Result<Vec<T>, ApiError> {
        let pieces = self.pieces.drain(..).map(serde_json::from_value).collect::<Result<_, _>>();
        pieces.map_err(|_| ApiError::new(Code::ModelFailed, OTHER_FORM))
    }

    /// All that the model said, as it came.
    pub(crate) fn take_pieces(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.pieces)
    }

    /// The head of the response.
    pub(crate) fn response(&self) -> HttpResponseBuilder {
        let mut response = HttpResponse::Ok();
        rate::tell(&mut response, &self.standings);
        if let Some(by) = &self.served {
            served::tell(&mut response, by);
        }
        if self.replayed {
            mark_replayed(&mut response);
        }
        response
    }
}
