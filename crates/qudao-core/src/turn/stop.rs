//! The stop button. The order may reach any node; it goes to the one that runs the turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qudao_domain::ConversationId;
use qudao_storage::{BusEvent, Topic};
use tokio_util::sync::CancellationToken;

use crate::{ControlEvent, Core};

/// The turns that this node runs at present.
#[derive(Default)]
pub(crate) struct RunningTurns(Mutex<HashMap<ConversationId, (i64, CancellationToken)>>);

impl RunningTurns {
    fn map(&self) -> MutexGuard<'_, HashMap<ConversationId, (i64, CancellationToken)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, conversation: ConversationId) {
        if let Some((_, token)) = self.map().get(&conversation) {
            token.cancel();
        }
    }
}

/// A running turn's ear for the stop button.
pub(super) struct StopListener {
    core: Arc<Core>,
    conversation: ConversationId,
    epoch: i64,
    pub(super) token: CancellationToken,
}

impl StopListener {
    pub(super) fn start(core: &Arc<Core>, conversation: ConversationId, epoch: i64) -> Self {
        let token = CancellationToken::new();
        core.running.map().insert(conversation, (epoch, token.clone()));
        let listener = Self { core: Arc::clone(core), conversation, epoch, token: token.clone() };
        let core = Arc::clone(core);
        // The order may come from another node. Without Redis only this node's own counts.
        core.clone().spawn(async move {
            let mut orders = core.bus.subscribe(&Topic::Control(conversation));
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    order = orders.next() => match order {
                        BusEvent::Message(bytes) if is_stop(&bytes) => token.cancel(),
                        BusEvent::Message(_) | BusEvent::Ready => {}
                    },
                }
            }
        });
        listener
    }
}

impl Drop for StopListener {
    fn drop(&mut self) {
        let mut running = self.core.running.map();
        // A later attempt on this node may have taken the place.
        if running.get(&self.conversation).is_some_and(|(epoch, _)| *epoch == self.epoch) {
            running.remove(&self.conversation);
        }
        drop(running);
        self.token.cancel();
    }
}

fn is_stop(bytes: &[u8]) -> bool {
    matches!(serde_json::from_slice(bytes), Ok(ControlEvent::Stop))
}

impl Core {
    /// Stops the conversation's running answer, on whichever node it runs. What was delivered by
    /// then is kept and charged. Nothing happens if no answer is running.
    pub async fn cancel_turn(&self, conversation: ConversationId) {
        self.running.cancel(conversation);
        self.bus.publish(&Topic::Control(conversation), ControlEvent::Stop.to_bytes()).await;
    }
}
