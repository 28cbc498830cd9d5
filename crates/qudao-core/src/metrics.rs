//! The metrics of this crate: turns, calls, and the money that they move.

use metrics::{counter, gauge};
use qudao_telemetry::{Label, Metric, Unit};

use crate::{Core, rates};

const DOOR: Label = Label { name: "door", values: &["chat", "api"] };
const RATE: Label = Label {
    name: "kind",
    values: &[
        rates::KEY,
        rates::TENANT,
        rates::ADDRESS,
        rates::KEY_TOKENS,
        rates::TENANT_TOKENS,
        rates::VISITOR,
        rates::CHAT_ADDRESS,
        rates::ASSISTANT,
        rates::TENANT_MESSAGES,
        rates::ADMIN,
        rates::ADMIN_ADDRESS,
    ],
};
const MODEL: Label = Label { name: "model", values: &[] };

/// All of them.
pub const METRICS: &[Metric] = &[
    // The way of a message.
    Metric::counter("qudao_messages_accepted_total", "Messages that came in; `duplicate=\"yes\"` for those that were there already")
        .by(&[Label { name: "duplicate", values: &["no", "yes"] }]),
    Metric::gauge("qudao_backlog_messages", "Messages that wait for an answer, as far as this node knows; `limits.platform_backlog` bounds them"),
    Metric::histogram("qudao_accept_batch_messages", Unit::Count, "Messages that one commit stored"),
    Metric::counter("qudao_messages_dead_total", "Messages that no attempt could answer: the person got an apology"),
    Metric::counter("qudao_turns_total", "Attempts at a turn, by what became of them: `released` is tried again, `buried` is given up, `lost` is another node's, `stuck` waits for its lease to run out")
        .by(&[Label { name: "outcome", values: &["answered", "stopped", "rejected", "released", "buried", "lost", "stuck"] }]),
    Metric::counter("qudao_turn_attempts_total", "Turns begun, by which attempt it was; after the first it is a retry, or a turn taken over from a node that died")
        .by(&[Label { name: "attempt", values: &["1", "2", "3", "more"] }]),
    Metric::histogram("qudao_turn_seconds", Unit::Seconds, "From the claim of a turn to its end"),
    Metric::histogram("qudao_turn_wait_seconds", Unit::Seconds, "From the acceptance of a turn's first message to the attempt at an answer"),
    Metric::counter("qudao_leases_lost_total", "Turns under way whose lease another node took, or that could not be extended in time"),
    Metric::counter("qudao_lease_renewals_total", "Extensions of the lease of a turn: `kept`, `lost` to another node, or `failed` for want of the database")
        .by(&[Label { name: "outcome", values: &["kept", "lost", "failed"] }]),
    Metric::histogram("qudao_model_seconds", Unit::Seconds, "How long a model worked on a turn"),
    Metric::histogram("qudao_model_first_token_seconds", Unit::Seconds, "From the call of a model for a turn to its first word"),
    Metric::counter("qudao_rungs_failed_total", "Models that did not answer a turn, so that the next one of the route was asked").by(&[MODEL]),
    Metric::counter("qudao_pictures_total", "Pictures that an assistant's vision model was to look at: `seen`, or why not")
        .by(&[Label { name: "outcome", values: &["seen", "remote", "elsewhere", "absent", "too_large", "failed"] }]),
    Metric::counter("qudao_sounds_total", "Sounds that were sent to an assistant: `heard`, `silent` where nobody speaks, `deaf` where it has no speech model, or why not")
        .by(&[Label { name: "outcome", values: &["heard", "silent", "deaf", "remote", "elsewhere", "absent", "too_large", "failed"] }]),
    Metric::counter("qudao_unpriced_total", "Turns that passed a model over because it has no price in the tenant's currency").by(&[MODEL]),
    // Routes.
    Metric::counter("qudao_route_decisions_total", "Decisions of routes, by the door that the question came through and whether a model answered")
        .by(&[DOOR, Label { name: "outcome", values: &["answered", "unanswered"] }]),
    Metric::counter("qudao_route_fallbacks_total", "Models that were asked or passed over before another one answered, or nobody did").by(&[DOOR]),
    Metric::counter("qudao_route_decisions_lost_total", "Decisions that could not be written down"),
    Metric::counter("qudao_route_sentiments_total", "Messages whose sentiment a rule asked for: `unknown` where it could not be had, so that the rule did not match")
        .by(&[Label { name: "outcome", values: &["known", "unknown"] }]),
    Metric::counter("qudao_shadow_calls_total", "Calls of models on trial whose answers nobody sees")
        .by(&[Label { name: "outcome", values: &["answered", "failed"] }]),
    Metric::counter("qudao_shadow_cost_micros_total", "What calls of models on trial would have cost that the operator pays").in_unit(Unit::Micros),
    Metric::counter("qudao_canary_rollbacks_total", "Models on trial that were taken back, by why")
        .by(&[Label { name: "reason", values: &["error_rate", "latency", "agreement"] }]),
    Metric::gauge("qudao_breaker_state", "How a model does: 0 it is asked, 1 it is tried with a few calls, 2 it is left alone").by(&[MODEL]),
    Metric::counter("qudao_breaker_turns_total", "Turns of a model's breaker, as this node found out by itself or heard from another")
        .by(&[
            MODEL,
            Label { name: "to", values: &["closed", "half_open", "open"] },
            Label { name: "found", values: &["here", "elsewhere"] },
        ]),
    Metric::counter("qudao_breaker_refusals_total", "Calls that were not made because the model is left alone").by(&[MODEL]),
    Metric::counter("qudao_preview_dropped_total", "Previews whose last words came too late to be shown"),
    // Money.
    Metric::counter("qudao_holds_total", "Tries to set credits aside for a turn: `found` is one that an earlier attempt took")
        .by(&[Label { name: "outcome", values: &["held", "found", "fenced", "no_funds"] }]),
    Metric::counter("qudao_tokens_total", "Tokens that models read and wrote")
        .by(&[DOOR, Label { name: "side", values: &["input", "output"] }]),
    Metric::counter("qudao_charged_micros_total", "What tenants paid, all currencies together").in_unit(Unit::Micros).by(&[DOOR]),
    Metric::counter("qudao_absorbed_micros_total", "What exceeded a hold and is borne by the platform").in_unit(Unit::Micros).by(&[DOOR]),
    // The API path.
    Metric::counter("qudao_rate_limited_total", "Requests and messages that a rate refused, by whose rate it was").by(&[RATE]),
    Metric::counter("qudao_api_calls_total", "Calls of the API that were let in and had credits, by the kind of model that they asked")
        .by(&[Label { name: "kind", values: &["chat", "embed", "classify", "detect", "transcribe"] }]),
    Metric::gauge("qudao_api_calls_in_flight", "Calls that this node has let in, whether or not they took credits; `limits.calls_in_flight` bounds them"),
    Metric::gauge("qudao_api_open_calls", "Calls on this node that took credits and are not settled yet"),
    Metric::counter("qudao_api_aborted_total", "Calls whose client left before the end"),
    Metric::histogram("qudao_api_first_event_seconds", Unit::Seconds, "From the call of a model for an API call to its first event"),
    Metric::gauge("qudao_block_free_micros", "Credits in this node's blocks that no call has taken").in_unit(Unit::Micros),
    Metric::histogram("qudao_block_refill_micros", Unit::Micros, "How much a refill of a block took from the wallet"),
    Metric::counter("qudao_block_refusals_total", "Calls refused because the wallet did not cover them"),
    Metric::gauge("qudao_settle_waiting", "Calls that wait for the next group commit"),
    Metric::histogram("qudao_settle_batch_calls", Unit::Count, "Calls that one group commit settled"),
    Metric::histogram("qudao_settle_seconds", Unit::Seconds, "How long a group commit took, with its retries"),
    Metric::counter("qudao_settle_retries_total", "Group commits that were tried again"),
    Metric::counter("qudao_settle_fenced_total", "Calls whose block was closed, so that they were charged from the wallet or borne by the platform"),
    Metric::counter("qudao_settle_lost_total", "Calls that were served and could not be settled: each is in the log"),
];

impl Core {
    /// Tells the gauges what this node's calls have in hand.
    pub fn watch(&self) {
        let (mut waiting, mut open, mut free) = (0, 0, 0);
        for lane in self.api.lanes() {
            waiting += lane.waiting();
            open += lane.open_calls();
            free += lane.free().get();
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more")]
        {
            gauge!("qudao_settle_waiting").set(waiting as f64);
            gauge!("qudao_api_open_calls").set(open as f64);
            gauge!("qudao_block_free_micros").set(free as f64);
        }
        let models = self.plugins.models();
        self.routes.breakers.tell_gauges(models.iter().map(|model| model.name.clone()));
        for model in models {
            counter!("qudao_breaker_refusals_total", "model" => model.name.clone()).increment(0);
            counter!("qudao_rungs_failed_total", "model" => model.name.clone()).increment(0);
            counter!("qudao_unpriced_total", "model" => model.name).increment(0);
        }
    }
}
