//! Calls that a turn makes beside the one that answers, such as a look at a picture. Each is a call of
//! its own in the books; under its own id it is booked once, however often the turn begins anew.

use std::{sync::Arc, time::Duration};

use qudao_domain::{ChannelId, Currency, Micros, TenantId, TurnId, state::FairCharging};
use qudao_plugin_api::wire::Ask;
use qudao_plugin_host::ModelKind;
use qudao_telemetry::Trace;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    ApiError, ApiEvent, ApiRequest,
    admit::{Pass, Plan},
    asked,
    reply::{Bill, OpenCall},
};
use crate::Core;

/// For whom a call is made, and how it is booked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aside {
    /// Who pays.
    pub(crate) tenant_id: TenantId,
    /// In which currency.
    pub(crate) currency: Currency,
    /// By which policy.
    pub(crate) policy: FairCharging,
    /// Where the conversation takes place.
    pub(crate) channel_id: ChannelId,
    /// The same for each repetition of the call.
    pub(crate) id: TurnId,
    /// The turn, in its trace.
    pub(crate) place: Trace,
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct WholeAside {
    /// What is not said in words.
    pub(crate) pieces: Vec<Value>,
    /// What is.
    pub(crate) text: String,
    /// From the call to its first word.
    pub(crate) first: Option<Duration>,
    /// What it cost.
    pub(crate) charge: Micros,
}

impl Core {
    /// Asks one of the tenant's models that do not chat, and waits until its answer is whole and
    /// settled. The tenant's rates do not count it: the message that led to it was counted.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is charged then.
    pub(crate) async fn ask_aside(
        self: &Arc<Self>,
        aside: Aside,
        ask: Ask,
    ) -> Result<Vec<Value>, ApiError> {
        Ok(self.ask_aside_in_words(aside, ask).await?.pieces)
    }

    /// As [`Self::ask_aside`], of a model that may also speak.
    pub(crate) async fn ask_aside_in_words(
        self: &Arc<Self>,
        aside: Aside,
        ask: Ask,
    ) -> Result<WholeAside, ApiError> {
        let Aside { tenant_id, currency, policy, channel_id, id, place } = aside;
        let (choices, address, slot) = (None, None, None);
        let request = ApiRequest { ask, choices, stream: false, trace: place, address, slot };
        asked::check(&request)?;
        let plan = self.plan(tenant_id, currency, &request).await?;
        let Plan { model, price, size, permit, .. } = plan;
        let lane = self.api.lane(tenant_id);
        let grant = self.grant(&lane, size.hold).await?;
        let bill = Bill {
            channel_id,
            key_id: None,
            policy,
            model: request.ask.model().to_owned(),
            kind: ModelKind::of(&request.ask),
            price,
            input_bound: size.input_bound,
            streamed: false,
        };
        let call = OpenCall::new(Arc::clone(self), lane, grant, bill, None, Pass::default());
        let call = call.known_as(id).by(&model.name, permit, None);
        let called = Instant::now();
        let mut reply = Box::new(call).begin(request, model, size.max_tokens).await?;
        let first = Some(called.elapsed());
        let mut whole = WholeAside { first, ..WholeAside::default() };
        while let Some(event) = reply.next().await {
            match event? {
                ApiEvent::Data(piece) => whole.pieces.push(piece),
                ApiEvent::Delta { text, reasoning: false } => whole.text.push_str(&text),
                ApiEvent::Delta { .. } => {}
                ApiEvent::End { charge, .. } => return Ok(WholeAside { charge, ..whole }),
            }
        }
        Err(ApiError::ModelFailed { detail: "it ended without an end".to_owned() })
    }
}
