//! T3: what a turn may cost is set aside before a model is asked.

use std::sync::Arc;

use metrics::counter;
use qudao_billing::{affordable_output, hold_amount};
use qudao_domain::Micros;
use qudao_plugin_api::wire::ChatRequest;
use qudao_storage::{Hold, HoldTurn, StorageError};
use qudao_telemetry::{Span, SpanKind};

use super::{Turn, generate::Rung};
use crate::{Core, failpoint};

/// How much of the wallet an answer may use.
pub(super) enum Sized {
    To {
        hold: Micros,
        max_tokens: u32,
    },
    NoFunds {
        /// The credits are there, but others have set them aside at the moment.
        set_aside: bool,
    },
    Fenced,
}

impl Core {
    /// Sets aside what the answer may cost, or as much as the wallet affords.
    pub(super) async fn hold(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        request: &ChatRequest,
        input_bound: u32,
    ) -> Result<Sized, StorageError> {
        let mut span = Span::child("hold", SpanKind::Client, turn.place);
        let sized = self.size_and_hold(turn, rung, request, input_bound).await;
        match &sized {
            Ok(Sized::To { .. }) => {}
            Ok(Sized::NoFunds { .. }) => span.fail("no_funds"),
            Ok(Sized::Fenced) => span.fail("fenced"),
            Err(_) => span.fail("database"),
        }
        sized
    }

    async fn size_and_hold(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        request: &ChatRequest,
        input_bound: u32,
    ) -> Result<Sized, StorageError> {
        let settings = &self.settings.turns;
        let rates = rung.price.rates();
        let asked = request.params.max_tokens.unwrap_or(settings.max_reply_tokens);
        let most = if rung.model.max_output_tokens == 0 {
            asked
        } else {
            asked.min(rung.model.max_output_tokens)
        };
        let least = settings.min_reply_tokens.min(most);
        let afforded = |balance| {
            let tokens = affordable_output(&rates, input_bound, balance, most);
            tokens.filter(|tokens| least <= *tokens)
        };
        let set_aside = afforded(turn.context.posted).is_some();
        let mut outcome = match hold_amount(&rates, input_bound, most) {
            Ok(amount) => self.try_hold(turn, rung, amount).await?,
            Err(_) => Hold::NoFunds,
        };
        if outcome == Hold::NoFunds {
            let short = afforded(turn.context.available);
            let amount = short.and_then(|tokens| hold_amount(&rates, input_bound, tokens).ok());
            let Some(amount) = amount else { return Ok(Sized::NoFunds { set_aside }) };
            outcome = self.try_hold(turn, rung, amount).await?;
        }
        counter!("qudao_holds_total", "outcome" => hold_word(outcome)).increment(1);
        Ok(match outcome {
            Hold::Held { amount } | Hold::Found { amount } => match afforded(amount) {
                Some(max_tokens) => Sized::To { hold: amount, max_tokens },
                None => Sized::NoFunds { set_aside },
            },
            Hold::NoFunds => Sized::NoFunds { set_aside },
            Hold::Fenced => Sized::Fenced,
        })
    }

    async fn try_hold(
        self: &Arc<Self>,
        turn: &Turn,
        rung: &Rung,
        amount: Micros,
    ) -> Result<Hold, StorageError> {
        let hold = HoldTurn {
            conversation_id: turn.claim.conversation_id,
            epoch: turn.claim.epoch,
            turn_id: turn.id,
            // A free answer takes the least amount: every turn has exactly one hold.
            amount: amount.max(Micros::new(1)),
            currency: turn.context.currency,
            model: rung.model.name.clone(),
        };
        let outcome = self.taken((turn.claim.tenant_id, hold)).await?;
        failpoint!("hold.committed");
        Ok(outcome)
    }
}

const fn hold_word(hold: Hold) -> &'static str {
    match hold {
        Hold::Held { .. } => "held",
        Hold::Found { .. } => "found",
        Hold::Fenced => "fenced",
        Hold::NoFunds => "no_funds",
    }
}
