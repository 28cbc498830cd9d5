//! The answer of a chat completion in OpenAI's JSON: chunks of a stream, or one object.
//!
//! The hot path writes bytes: what all chunks of a stream share is written once.

use actix_web::web::{Bytes, BytesMut};
use qudao_core::ApiEvent;
use qudao_domain::TurnId;
use qudao_plugin_api::wire::{FinishReason, Usage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::stream::{Writer, write_json};

/// What names one completion.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) model: String,
}

impl Heading {
    /// The completion is called like the call in the usage.
    pub(crate) fn new(turn_id: TurnId, created: i64, model: &str) -> Self {
        let id = format!("chatcmpl-{}", turn_id.as_uuid().simple());
        Self { id, created, model: model.to_owned() }
    }
}

/// How OpenAI writes why an answer ended.
fn finish_text(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
    }
}

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
        }
    }
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    id: String,
    /// Always `chat.completion`.
    object: &'static str,
    /// Seconds since 1970.
    created: i64,
    model: String,
    system_fingerprint: Option<String>,
    /// Always one.
    choices: Vec<Choice>,
    usage: UsageBody,
}

/// The answer proper.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Choice {
    index: u32,
    /// `role`, `content`, and `tool_calls` where the model calls functions.
    #[schema(value_type = Object)]
    message: Map<String, Value>,
    #[schema(value_type = Option<Object>)]
    logprobs: Option<Value>,
    /// `stop`, `length`, `tool_calls` or `content_filter`.
    finish_reason: &'static str,
}

/// How every suffix of a chunk begins.
const NO_LOGPROBS: &[u8] = b",\"logprobs\":null";

/// Writes the chunks of one stream.
pub(crate) struct ChunkWriter {
    /// `data: {"id":…,"choices":[{"index":0,"delta":`.
    prefix: Bytes,
    /// What follows the delta of a chunk that is not the last.
    suffix: &'static [u8],
    heading: Heading,
    include_usage: bool,
    begun: bool,
}

impl ChunkWriter {
    pub(crate) fn new(heading: Heading, include_usage: bool) -> Self {
        let model = Value::String(heading.model.clone());
        let prefix = format!(
            "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{model},\
             \"system_fingerprint\":null,\"choices\":[{{\"index\":0,\"delta\":",
            heading.id, heading.created,
        );
        let suffix: &[u8] = if include_usage {
            b",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"
        } else {
            b",\"logprobs\":null,\"finish_reason\":null}]}\n\n"
        };
        Self { prefix: prefix.into(), suffix, heading, include_usage, begun: false }
    }

    /// A delta of the plugin. Probabilities stand in it, and beside the delta at OpenAI.
    fn data(&self, delta: &Value, out: &mut BytesMut) {
        out.extend_from_slice(&self.prefix);
        match (delta, delta.get("logprobs")) {
            (Value::Object(members), Some(logprobs)) => {
                let rest: Map<String, Value> = members
                    .iter()
                    .filter(|(name, _)| *name != "logprobs")
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                write_json(&rest, out);
                out.extend_from_slice(b",\"logprobs\":");
                write_json(logprobs, out);
                let suffix = self.suffix.strip_prefix(NO_LOGPROBS);
                out.extend_from_slice(suffix.unwrap_or(self.suffix));
            }
            _ => {
                write_json(delta, out);
                out.extend_from_slice(self.suffix);
            }
        }
    }

    fn delta(&self, delta: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(delta);
        out.extend_from_slice(self.suffix);
    }

    fn end(&self, reason: FinishReason, usage: Usage, out: &mut BytesMut) {
        out.extend_from_slice(&self.prefix);
        let usage_field = if self.include_usage { ",\"usage\":null" } else { "" };
        let reason = finish_text(reason);
        out.extend_from_slice(
            format!("{{}},\"logprobs\":null,\"finish_reason\":\"{reason}\"}}]{usage_field}}}\n\n")
                .as_bytes(),
        );
        if self.include_usage {
            let Heading { id, created, model } = &self.heading;
            let chunk = json!({
                "id": id, "object": "chat.completion.chunk", "created": created, "model": model,
                "system_fingerprint": null, "choices": [], "usage": UsageBody::from(usage),
            });
            out.extend_from_slice(b"data: ");
            write_json(&chunk, out);
            out.extend_from_slice(b"\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

impl Writer for ChunkWriter {
    fn write(&mut self, event: &ApiEvent, out: &mut BytesMut) {
        if !self.begun {
            self.begun = true;
            self.delta(br#"{"role":"assistant","content":""}"#, out);
        }
        match event {
            ApiEvent::Delta { text, reasoning } => {
                let name: &[u8] =
                    if *reasoning { b"{\"reasoning_content\":" } else { b"{\"content\":" };
                out.extend_from_slice(&self.prefix);
                out.extend_from_slice(name);
                write_json(text, out);
                out.extend_from_slice(b"}");
                out.extend_from_slice(self.suffix);
            }
            ApiEvent::Data(delta) => self.data(delta, out),
            ApiEvent::End { finish_reason, usage, .. } => self.end(*finish_reason, *usage, out),
        }
    }
}

/// Adds the members that are absent or null.
fn fill(known: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, value) in more {
        let place = known.entry(name).or_insert(Value::Null);
        if place.is_null() {
            *place = value;
        }
    }
}

/// Puts the events of one answer together.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    text: String,
    reasoning: String,
    /// By the `index` of the deltas.
    tool_calls: Vec<Map<String, Value>>,
    logprobs: Option<Value>,
    other: Map<String, Value>,
}

impl Collector {
    pub(crate) fn push(&mut self, event: ApiEvent) -> Option<(FinishReason, Usage)> {
        match event {
            ApiEvent::Delta { text, reasoning: false } => self.text.push_str(&text),
            ApiEvent::Delta { text, reasoning: true } => self.reasoning.push_str(&text),
            ApiEvent::Data(Value::Object(delta)) => self.merge(delta),
            ApiEvent::Data(_) => {}
            ApiEvent::End { finish_reason, usage, .. } => return Some((finish_reason, usage)),
        }
        None
    }

    fn merge(&mut self, mut delta: Map<String, Value>) {
        if let Some(Value::Array(calls)) = delta.remove("tool_calls") {
            for call in calls {
                self.merge_call(call);
            }
        }
        if let Some(Value::Object(told)) = delta.remove("logprobs") {
            self.merge_logprobs(told);
        }
        self.other.extend(delta);
    }

    /// The lists of all pieces, one after the other.
    fn merge_logprobs(&mut self, told: Map<String, Value>) {
        let known = self.logprobs.get_or_insert_with(|| Value::Object(Map::new()));
        for (name, more) in told {
            match (&mut known[name.as_str()], more) {
                (Value::Array(list), Value::Array(more)) => list.extend(more),
                (place, more) if place.is_null() => *place = more,
                _ => {}
            }
        }
    }

    /// The first delta of a call names it, the later ones continue its arguments. Providers differ
    /// in what the first one holds; what it lacks is taken from whichever has it first.
    fn merge_call(&mut self, call: Value) {
        let Value::Object(mut call) = call else { return };
        let index = call.remove("index").and_then(|index| index.as_u64());
        let index = index.and_then(|index| usize::try_from(index).ok());
        let index = index.unwrap_or(self.tool_calls.len());
        let Some(known) = self.tool_calls.get_mut(index) else {
            self.tool_calls.push(call);
            return;
        };
        let more = call.remove("function");
        fill(known, call);
        let Some(Value::Object(mut more)) = more else { return };
        let Some(Value::Object(function)) = known.get_mut("function") else {
            known.insert("function".to_owned(), Value::Object(more));
            return;
        };
        let known = function.get_mut("arguments");
        if let (Some(Value::String(arguments)), Some(Value::String(next))) =
            (known, more.get("arguments"))
        {
            arguments.push_str(next);
            more.remove("arguments");
        }
        fill(function, more);
    }

    /// The whole answer.
    pub(crate) fn finish(
        self,
        heading: &Heading,
        reason: FinishReason,
        usage: Usage,
    ) -> Completion {
        let mut message = Map::new();
        message.insert("role".to_owned(), json!("assistant"));
        let silent = self.text.is_empty() && !self.tool_calls.is_empty();
        let content = if silent { Value::Null } else { Value::String(self.text) };
        message.insert("content".to_owned(), content);
        message.insert("refusal".to_owned(), Value::Null);
        if !self.reasoning.is_empty() {
            message.insert("reasoning_content".to_owned(), json!(self.reasoning));
        }
        if !self.tool_calls.is_empty() {
            message.insert("tool_calls".to_owned(), json!(self.tool_calls));
        }
        message.extend(self.other);
        let finish_reason = finish_text(reason);
        let logprobs = self.logprobs;
        let choice = Choice { index: 0, message, logprobs, finish_reason };
        Completion {
            id: heading.id.clone(),
            object: "chat.completion",
            created: heading.created,
            model: heading.model.clone(),
            system_fingerprint: None,
            choices: vec![choice],
            usage: usage.into(),
        }
    }
}

#[cfg(test)]
mod tests;
