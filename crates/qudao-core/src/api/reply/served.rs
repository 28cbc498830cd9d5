//! Who serves a call, for its caller and for the record.

use qudao_domain::state::EndReason;

use super::{ApiReply, OpenCall};
use crate::{api::Served, routing::ANSWERED};

impl OpenCall {
    /// Who serves the call.
    pub(super) fn served(&self) -> Served {
        let routed = self.routed.as_ref().map(|routed| routed.served_by());
        Served { model: self.bill.model.clone(), routed }
    }

    /// Writes down what its route decided and what came of it.
    pub(super) fn close_route(&mut self, end: EndReason, whole: bool) {
        let Some(mut routed) = self.routed.take() else { return };
        let answered = end != EndReason::Failed;
        let outcome = if answered { ANSWERED } else { "broke_off" };
        routed.draft.asked(&self.bill.model, outcome, self.first_word);
        let model = answered.then_some(self.bill.model.as_str());
        let ask = self.trial_ask.take();
        routed.close(&self.core, model, end.as_str(), whole, ask);
    }
}

impl std::fmt::Debug for ApiReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiReply").field("turn_id", &self.call.turn_id).finish_non_exhaustive()
    }
}
