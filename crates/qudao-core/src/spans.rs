//! The spans of turns and calls, by OpenTelemetry's semantic conventions for generative AI where
//! there are any. Names, numbers and words of closed sets: never what a person or a model wrote.

use qudao_domain::{ConversationId, TurnId};
use qudao_plugin_api::wire::Usage;
use qudao_plugin_host::ModelKind;
use qudao_storage::Claim;
use qudao_telemetry::{Span, SpanKind, Trace};

/// Messages of a burst whose traces a turn points to; what is beyond them is not pointed to.
const LINKS_MAX: i64 = 16;

/// The trace of a turn: the same on every node, at its first span, which is the acceptance of its
/// first message.
pub(crate) fn trace_of(conversation: ConversationId, first_seq: i64) -> Trace {
    of_turn(TurnId::derive(conversation, first_seq))
}

/// As [`trace_of`], for whoever knows the turn's id.
pub(crate) fn of_turn(turn: TurnId) -> Trace {
    Trace::of_work(turn.as_uuid().as_u128())
}

/// One attempt at a turn.
pub(crate) fn turn(claim: &Claim) -> Span {
    let id = TurnId::derive(claim.conversation_id, claim.from_seq);
    let mut span = Span::remote_child("turn", SpanKind::Consumer, of_turn(id));
    if span.is_recorded() {
        span.set("qudao.turn.id", id.to_string());
        span.set("qudao.turn.attempt", claim.attempts);
        span.set("qudao.turn.epoch", claim.epoch);
        span.set("qudao.turn.messages", claim.to_seq - claim.from_seq + 1);
        for seq in (claim.from_seq + 1..=claim.to_seq).take(usize::try_from(LINKS_MAX).unwrap_or(0))
        {
            span.link(trace_of(claim.conversation_id, seq));
        }
    }
    span
}

/// A model is asked.
pub(crate) fn model(parent: Trace, kind: ModelKind, model: &str, max_tokens: u32) -> Span {
    let operation = match kind {
        ModelKind::Embed => "embeddings",
        other => other.as_str(),
    };
    let mut span = Span::child(operation, SpanKind::Client, parent);
    if span.is_recorded() {
        span.rename(|| format!("{operation} {model}"));
        span.set("gen_ai.operation.name", operation);
        span.set("gen_ai.provider.name", "qudao");
        span.set("gen_ai.request.model", model.to_owned());
        span.set("gen_ai.request.max_tokens", max_tokens);
    }
    span
}

/// It has answered, as far as it did.
pub(crate) fn model_ended(span: &mut Span, reason: &'static str, usage: Option<Usage>) {
    if !span.is_recorded() {
        return;
    }
    span.set("gen_ai.response.finish_reasons", vec![reason]);
    if let Some(usage) = usage {
        span.set("gen_ai.usage.input_tokens", usage.input_tokens);
        span.set("gen_ai.usage.output_tokens", usage.output_tokens);
    }
}
