//! Deltas that tell something of the answer and are no part of it: how likely its tokens were. They
//! are handed on and not counted.

use serde_json::Value;

use super::ApiEvent;

/// Whether a delta only tells how likely the tokens were that came before it.
pub(super) fn is_remark(delta: &Value) -> bool {
    delta.as_object().is_some_and(|delta| delta.keys().eq(["logprobs"]))
}

/// Whether a piece is a part of the answer.
pub(super) fn is_part(piece: &ApiEvent) -> bool {
    !matches!(piece, ApiEvent::Data(delta) if is_remark(delta))
}
