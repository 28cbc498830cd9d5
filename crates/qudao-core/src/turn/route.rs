//! Who may answer a turn.

use std::sync::Arc;

use qudao_domain::{
    message::Part,
    routing::{Modality, Routing},
};
use qudao_plugin_api::wire::{ChatRequest, Content};
use qudao_storage::Message;

use super::{Turn, prompt};
use crate::{
    Core,
    routing::{Draft, Matter, Shadow},
};

/// What a route decided about a turn.
#[derive(Clone)]
pub(super) struct Routed {
    pub(super) draft: Draft,
    matter: Arc<Matter>,
}

impl Routed {
    /// The trial that this is a part of, if it is.
    pub(super) fn on_trial(&self, turn: &Turn) -> Option<Shadow> {
        let routing: &Routing = &turn.context.routing;
        let canary = routing.canary.as_ref()?;
        let request = prompt::request(&turn.context, &canary.model);
        Shadow::of(routing, &self.matter, &self.draft, request)
    }
}

impl Core {
    pub(super) async fn route_turn(self: &Arc<Self>, turn: &Turn) -> Routed {
        let matter = matter(turn);
        let context = &turn.context;
        let chosen = self.choose(&context.routing, &context.models, &matter).await;
        let draft = Draft::new(context.route_id, &context.routing, &matter, chosen);
        Routed { draft, matter: Arc::new(matter) }
    }

    /// Writes down what was decided about an attempt that came to no answer.
    pub(super) fn record_unanswered(self: &Arc<Self>, turn: &Turn, routed: Routed, end: &str) {
        if routed.draft.is_empty() {
            return;
        }
        let trial = routed.on_trial(turn);
        let recorded = self.record(turn.claim.tenant_id, routed.draft.finish(None, "chat", end));
        if let Some(shadow) = trial {
            self.go_on_trial(shadow, None, recorded);
        }
    }
}

fn matter(turn: &Turn) -> Matter {
    let context = &turn.context;
    let texts: Vec<_> = context.pending.iter().map(|message| &*message.body.text).collect();
    let text = texts.join("\n");
    let history = context.history.iter().map(|past| past.text.clone());
    let request = prompt::request(context, "");
    Matter {
        tenant_id: turn.claim.tenant_id,
        currency: context.currency,
        policy: context.fair_charging,
        channel_id: context.channel_id,
        id: turn.id,
        conversation_id: Some(turn.claim.conversation_id),
        place: turn.place,
        all: history.chain([text.clone()]).collect(),
        text,
        prompt_bytes: bytes(&request),
        modality: modality(&context.pending),
        available: Some(context.available),
        key: turn.claim.conversation_id.as_uuid().as_bytes().to_vec(),
    }
}

fn bytes(request: &ChatRequest) -> usize {
    let contents = request.messages.iter().filter_map(|message| message.content.as_ref());
    contents.map(|content| if let Content::Text(text) = content { text.len() } else { 0 }).sum()
}

/// Kinds of parts, without repetition.
fn modality(pending: &[Message]) -> Vec<Modality> {
    let mut found: Vec<_> = pending.iter().flat_map(of_message).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn of_message(message: &Message) -> Vec<Modality> {
    if message.body.parts.is_empty() {
        // A channel that knows no parts.
        return vec![Modality::Text];
    }
    let kind = |part: &Part| match part {
        Part::Image(_) => Modality::Image,
        Part::Audio(_) => Modality::Audio,
        Part::Video(_) => Modality::Video,
        Part::File(_) => Modality::File,
        Part::Text { .. }
        | Part::Location { .. }
        | Part::Contact { .. }
        | Part::Buttons { .. }
        | Part::List { .. }
        | Part::Card { .. }
        | Part::Quote { .. } => Modality::Text,
    };
    message.body.parts.iter().map(kind).collect()
}
