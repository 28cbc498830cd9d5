//! How a call comes to its first word: one model after the other is asked, until one begins to answer.

use std::sync::Arc;

use qudao_domain::Micros;
use qudao_plugin_api::wire::Ask;
use qudao_plugin_host::{Call, CallError, Event, EventStream, ModelEntry, exchange_at_home};
use tokio::time::Instant;

use super::{Counts, OpenCall, broken_off};
use crate::{
    api::{
        ApiError, ApiReply, ApiRequest,
        parts::Parts,
        route::{Rung, is_worth_another},
    },
    failpoint,
    routing::is_failure,
    spans,
};

impl OpenCall {
    /// Calls the model and waits until it begins to answer. While it has not, the next one of the
    /// route may do it in its place.
    pub(in crate::api) async fn begin(
        mut self: Box<Self>,
        mut request: ApiRequest,
        mut model: Arc<ModelEntry>,
        mut max_tokens: u32,
    ) -> Result<ApiReply, ApiError> {
        if let Ask::Chat(chat) = &request.ask
            && self.routed.as_ref().is_some_and(|routed| routed.is_on_trial())
        {
            self.trial_ask = Some(chat.clone());
        }
        let wanted = wanted_tokens(&mut request.ask).copied();
        loop {
            let error = match self.ask(&mut request.ask, &model, max_tokens).await? {
                None => return Ok(ApiReply { call: self, standings: Vec::new() }),
                Some(error) => error,
            };
            if let Some(tokens) = wanted_tokens(&mut request.ask) {
                *tokens = wanted.flatten();
            }
            match self.fall_back(&request, &error).await {
                Some(next) => (model, max_tokens) = next,
                None => return Err(self.refuse(error).await),
            }
        }
    }

    /// The next model that may answer in the place of one that failed, with credits for it.
    async fn fall_back(
        &mut self,
        request: &ApiRequest,
        error: &CallError,
    ) -> Option<(Arc<ModelEntry>, u32)> {
        self.chat.fail(error.class());
        self.stream = None;
        self.report(is_failure(error).then_some(false));
        if let Some(routed) = &mut self.routed {
            routed.draft.asked(&self.bill.model, error.class(), self.first_word.take());
        }
        if !is_worth_another(error) {
            return None;
        }
        let core = Arc::clone(&self.core);
        loop {
            let routed = self.routed.as_mut()?;
            let Rung { model, price, size, permit } = core.next_rung(request, routed).await.ok()?;
            if !self.cover(size.hold).await {
                if let Some(routed) = &mut self.routed {
                    routed.draft.passed_over(&model.name, "no_funds");
                }
                continue;
            }
            failpoint!("call.falls_back");
            self.permit = Some(permit);
            self.counts = Counts::default();
            self.bill.model.clone_from(&model.name);
            self.bill.price = price;
            self.bill.input_bound = size.input_bound;
            return Some((model, size.max_tokens));
        }
    }

    /// Sees to it that the call has credits for so much. What it has is enough for a model that costs
    /// no more; else it is given back and taken anew.
    async fn cover(&mut self, hold: Micros) -> bool {
        match self.grant.take() {
            Some(grant) if hold <= grant.amount => {
                self.grant = Some(grant);
                return true;
            }
            Some(grant) => {
                self.lane.give_back(grant, Micros::ZERO);
                self.lane.call_closed();
            }
            None => {}
        }
        self.grant = self.core.grant(&self.lane, hold).await.ok();
        self.grant.is_some()
    }

    /// Tells the model's breaker, where there is something to tell.
    pub(super) fn report(&mut self, ok: Option<bool>) {
        if let (Some(permit), Some(ok)) = (self.permit.take(), ok) {
            permit.report(ok);
        }
    }

    /// Calls a model and waits until it begins to answer, or says why it does not.
    async fn ask(
        &mut self,
        ask: &mut Ask,
        model: &ModelEntry,
        max_tokens: u32,
    ) -> Result<Option<CallError>, ApiError> {
        // Changed in its place: a picture in it may have megabytes.
        if let Ask::Chat(chat) = ask {
            chat.params.max_tokens = Some(max_tokens);
            chat.cache_salt = Some(self.lane.tenant_id.to_string());
        }
        self.parts = Parts::of(ask);
        ask.set_model(model.upstream.as_ref().unwrap_or(&model.name));
        let payload = serde_json::to_vec(ask).map_err(|error| ApiError::InvalidParameter {
            param: "messages",
            detail: error.to_string(),
        })?;
        let timeout = self.core.settings.api.timeout;
        let kind = self.bill.kind;
        self.chat = spans::model(self.span.place(), kind, &self.bill.model, max_tokens);
        let call = Call { kind, payload, timeout, trace: self.chat.place() };
        let called = Instant::now();
        let payer = self.lane.tenant_id.as_uuid().as_u128();
        let calls = || self.core.plugins.call_for(payer, &self.bill.model, call);
        // An answer that is kept is made to its end, even if this thread ends before.
        let stream = if self.keeping.is_some() { exchange_at_home(calls) } else { calls() };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => return Ok(Some(error)),
        };
        // Kept before the wait: a caller who leaves now may owe what the model makes meanwhile.
        let stream = self.stream.insert(stream);
        failpoint!("call.made");
        let first = first_event(stream, &mut self.counts).await;
        failpoint!("call.began");
        self.core.api.meters.first_event.record(called.elapsed());
        match first {
            Event::Error(error) => Ok(Some(error)),
            first => {
                self.first_word = Some(called.elapsed());
                self.first = Some(first);
                Ok(None)
            }
        }
    }
}

/// The first event that a caller can see, or the end.
async fn first_event(stream: &mut EventStream, counts: &mut Counts) -> Event {
    loop {
        let event = stream.next().await.unwrap_or_else(broken_off);
        counts.count(&event);
        if !matches!(event, Event::Usage(_) | Event::Progress(_)) {
            return event;
        }
    }
}

/// How long the answer may become, where that can be said.
fn wanted_tokens(ask: &mut Ask) -> Option<&mut Option<u32>> {
    match ask {
        Ask::Chat(chat) => Some(&mut chat.params.max_tokens),
        Ask::Embed(_) | Ask::Classify(_) | Ask::Detect(_) | Ask::Transcribe(_) => None,
    }
}
