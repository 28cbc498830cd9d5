//! The stop button, and other orders to a running turn. An order may reach any node; it goes to
//! the one that runs the turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use qudao_domain::ConversationId;
use qudao_storage::{BusEvent, Topic};
use tokio_util::sync::CancellationToken;

use super::typing::Preview;
use crate::{ControlEvent, Core};

/// The turns that this node runs at present.
#[derive(Default)]
pub(crate) struct RunningTurns(Mutex<HashMap<ConversationId, Running>>);

struct Running {
    epoch: i64,
    stop: CancellationToken,
    /// What is being typed, once a model was called.
    preview: Weak<Preview>,
}

impl RunningTurns {
    fn map(&self) -> MutexGuard<'_, HashMap<ConversationId, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self, conversation: ConversationId) {
        if let Some(running) = self.map().get(&conversation) {
            running.stop.cancel();
        }
    }

    fn replay(&self, conversation: ConversationId) {
        let preview = self.map().get(&conversation).and_then(|running| running.preview.upgrade());
        if let Some(preview) = preview {
            preview.replay();
        }
    }

    /// From now on, this is what the turn types.
    pub(super) fn type_on(&self, conversation: ConversationId, epoch: i64, preview: &Arc<Preview>) {
        let mut map = self.map();
        if let Some(running) = map.get_mut(&conversation).filter(|found| found.epoch == epoch) {
            running.preview = Arc::downgrade(preview);
        }
    }
}

/// A running turn's ear for orders.
pub(super) struct StopListener {
    core: Arc<Core>,
    conversation: ConversationId,
    epoch: i64,
    pub(super) token: CancellationToken,
}

impl StopListener {
    pub(super) fn start(core: &Arc<Core>, conversation: ConversationId, epoch: i64) -> Self {
        let token = CancellationToken::new();
        let running = Running { epoch, stop: token.clone(), preview: Weak::new() };
        core.running.map().insert(conversation, running);
        let listener = Self { core: Arc::clone(core), conversation, epoch, token: token.clone() };
        let core = Arc::clone(core);
        // The order may come from another node. Without Redis only this node's own counts.
        core.clone().spawn(async move {
            let mut orders = core.bus.subscribe(&Topic::Control(conversation));
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    order = orders.next() => match order {
                        BusEvent::Message(bytes) => match serde_json::from_slice(&bytes) {
                            Ok(ControlEvent::Stop) => token.cancel(),
                            Ok(ControlEvent::Replay) => core.running.replay(conversation),
                            // A newer node may know more orders.
                            Err(_) => {}
                        },
                        BusEvent::Ready => {}
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
        if running.get(&self.conversation).is_some_and(|found| found.epoch == self.epoch) {
            running.remove(&self.conversation);
        }
        drop(running);
        self.token.cancel();
    }
}

impl Core {
    /// Stops the conversation's running answer, on whichever node it runs. What was delivered by
    /// then is kept and charged. Nothing happens if no answer is running.
    pub async fn cancel_turn(&self, conversation: ConversationId) {
        self.running.cancel(conversation);
        self.bus.publish(&Topic::Control(conversation), ControlEvent::Stop.to_bytes()).await;
    }

    /// Has the conversation's running answer shown once more from its beginning, to all who
    /// watch: each piece says where it belongs, so nobody sees anything twice.
    pub async fn replay_preview(&self, conversation: ConversationId) {
        self.bus.publish(&Topic::Control(conversation), ControlEvent::Replay.to_bytes()).await;
    }
}
