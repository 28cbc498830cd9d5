//! Shows an answer as it grows. The model's loop only appends to a buffer; a task of its own
//! publishes what has gathered, so that a slow Redis makes the pieces larger and nothing slower.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;
use qudao_domain::{ConversationId, TurnId};
use qudao_storage::Topic;
use tokio::{sync::Notify, task::AbortHandle, time};

use crate::{AssistantState, Core, PreviewEvent};

/// A turn's preview. Nothing is published any more once it is dropped.
pub(super) struct Typing {
    shared: Arc<Preview>,
    publisher: AbortHandle,
}

/// The text of a running answer on its way to Redis.
pub(super) struct Preview {
    turn: TurnId,
    epoch: i64,
    topic: Topic,
    pending: Mutex<Pending>,
    grown: Notify,
    published: Notify,
}

#[derive(Default)]
struct Pending {
    text: String,
    /// What was published before `text`.
    shown: String,
    /// The same in UTF-16 code units.
    offset: u64,
    /// The next piece begins at the answer's beginning.
    replay: bool,
    /// A piece is on its way to Redis.
    publishing: bool,
}

impl Typing {
    pub(super) fn start(
        core: &Arc<Core>,
        conversation: ConversationId,
        turn: TurnId,
        epoch: i64,
    ) -> Self {
        let shared = Arc::new(Preview {
            turn,
            epoch,
            topic: Topic::Preview(conversation),
            pending: Mutex::default(),
            grown: Notify::new(),
            published: Notify::new(),
        });
        core.running.type_on(conversation, epoch, &shared);
        let publisher = core.spawn(publish(Arc::clone(core), Arc::clone(&shared))).abort_handle();
        Self { shared, publisher }
    }

    /// More text. Never waits.
    pub(super) fn push(&self, text: &str) {
        self.shared.pending().text.push_str(text);
        self.shared.grown.notify_one();
    }

    /// Waits until what was pushed is published, for a moment at most: it is only a preview.
    pub(super) async fn flush(&self) {
        let flushed = async {
            loop {
                let published = self.shared.published.notified();
                {
                    let pending = self.shared.pending();
                    if pending.text.is_empty() && !pending.publishing {
                        return;
                    }
                }
                published.await;
            }
        };
        if time::timeout(time::Duration::from_millis(100), flushed).await.is_err() {
            counter!("qudao_preview_dropped_total").increment(1);
        }
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        self.publisher.abort();
    }
}

impl Preview {
    /// Publishes once more what was published, for somebody who missed it. The publisher does it,
    /// so that no later piece overtakes it.
    pub(super) fn replay(&self) {
        self.pending().replay = true;
        self.grown.notify_one();
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text that gathered, as the next delta.
    fn take(&self) -> Option<PreviewEvent> {
        let mut pending = self.pending();
        let replay = std::mem::take(&mut pending.replay) && !pending.shown.is_empty();
        if pending.text.is_empty() && !replay {
            return None;
        }
        let fresh = std::mem::take(&mut pending.text);
        pending.shown.push_str(&fresh);
        let (offset, text) =
            if replay { (0, pending.shown.clone()) } else { (pending.offset, fresh.clone()) };
        pending.offset += fresh.chars().map(|c| c.len_utf16() as u64).sum::<u64>();
        pending.publishing = true;
        Some(PreviewEvent::Delta { turn: self.turn, epoch: self.epoch, offset, text })
    }

    fn done(&self) {
        self.pending().publishing = false;
        self.published.notify_waiters();
    }
}

async fn publish(core: Arc<Core>, shared: Arc<Preview>) {
    loop {
        shared.grown.notified().await;
        while let Some(delta) = shared.take() {
            core.bus.publish(&shared.topic, delta.to_bytes()).await;
            shared.done();
            time::sleep(core.settings.turns.preview_interval).await;
        }
    }
}

impl Core {
    /// Tells the watchers of a conversation something. Lost if nobody watches or Redis is gone.
    pub(crate) async fn show(&self, conversation: ConversationId, event: &PreviewEvent) {
        self.bus.publish(&Topic::Preview(conversation), event.to_bytes()).await;
    }

    pub(super) async fn show_status(&self, conversation: ConversationId, state: AssistantState) {
        self.show(conversation, &PreviewEvent::Status { state }).await;
    }
}
