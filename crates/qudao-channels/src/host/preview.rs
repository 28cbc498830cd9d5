//! "Writes…" and answers that are seen growing, on platforms that can show it. All of it may fail
//! or be lost; the reply comes from the outbox.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use qudao_core::{
    AssistantState, PreviewEvent, TurnWatcher, WatchedTurn,
    channel::{
        adapter::{ChannelAdapter, Outcome, Preview},
        plan::Plan,
        setup::OpenChannel,
    },
};
use qudao_domain::{
    ConversationId, TurnId,
    capability::{Capabilities, Level, Streaming},
};
use qudao_storage::{BusEvent, Topic};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Host;

/// The longest that a turn is shown.
const LONGEST: Duration = Duration::from_secs(300);
/// The least time between two previews, whatever a platform says.
const LEAST: Duration = Duration::from_millis(400);
/// A draft that does not change is shown again before the platform takes it away.
const DRAFT_LIFE: Duration = Duration::from_secs(20);
/// How long a delivery waits for the preview of its turn to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// Words that are worth a first preview, in characters.
const WORTH: usize = 12;

/// The turns that this node shows.
#[derive(Default)]
pub(super) struct Previews(Mutex<HashMap<ConversationId, Shown>>);

struct Shown {
    turn: TurnId,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

impl Previews {
    fn begin(&self, turn: &WatchedTurn) -> (CancellationToken, oneshot::Sender<()>) {
        let (stop, (end, ended)) = (CancellationToken::new(), oneshot::channel());
        let shown = Shown { turn: turn.turn_id, stop: stop.clone(), ended };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = all.insert(turn.conversation_id, shown) {
            before.stop.cancel();
        }
        (stop, end)
    }

    fn forget(&self, conversation: ConversationId, turn: TurnId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&conversation).is_some_and(|shown| shown.turn == turn) {
            all.remove(&conversation);
        }
    }

    /// Ends what is shown of a conversation: its reply goes out.
    pub(super) async fn end(&self, conversation: ConversationId) {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&conversation);
        let Some(shown) = shown else { return };
        shown.stop.cancel();
        let _ = tokio::time::timeout(PATIENCE, shown.ended).await;
    }
}

impl TurnWatcher for Host {
    fn turn_begins(self: Arc<Self>, turn: WatchedTurn) {
        if !self.adapters.contains_key(&turn.channel_kind) || self.closing.is_cancelled() {
            return;
        }
        let (stop, end) = self.previews.begin(&turn);
        let host = Arc::clone(&self);
        let work = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = host.closing.cancelled() => {}
                () = host.show(&turn) => {}
            }
            host.previews.forget(turn.conversation_id, turn.turn_id);
            let _ = end.send(());
        };
        self.core.tasks.spawn_on(work, &self.runtime);
    }
}

impl Host {
    async fn show(&self, turn: &WatchedTurn) {
        let Ok((channel, adapter)) = self.open(turn.tenant_id, turn.channel_id).await else {
            return;
        };
        let capabilities = adapter.capabilities(&channel.config);
        let streams = matches!(capabilities.stream, Streaming::Edit | Streaming::Draft);
        if capabilities.typing.level != Level::Native && !streams {
            return;
        }
        let Some(thread) = self.thread(turn).await else { return };
        let screen = Screen { host: self, channel: &channel, adapter: &**adapter, turn, thread };
        let deadline = Instant::now() + LONGEST;
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = screen.run(&capabilities, streams) => {}
        }
    }

    async fn thread(&self, turn: &WatchedTurn) -> Option<String> {
        let mut tx = self.core.store.begin(turn.tenant_id).await.ok()?;
        let peer = tx.conversation_peer(turn.conversation_id).await.ok()?;
        tx.commit().await.ok()?;
        peer
    }
}

/// One turn on one platform.
struct Screen<'a> {
    host: &'a Host,
    channel: &'a OpenChannel,
    adapter: &'a dyn ChannelAdapter,
    turn: &'a WatchedTurn,
    thread: String,
}

impl Screen<'_> {
    async fn run(&self, capabilities: &Capabilities, streams: bool) {
        let mut subscription =
            self.host.core.bus.subscribe(&Topic::Preview(self.turn.conversation_id));
        let typing = Duration::from_secs(capabilities.typing.ttl_s.max(2) - 1);
        let pace = Duration::from_millis(capabilities.edit.min_interval_ms).max(LEAST);
        let types = capabilities.typing.level == Level::Native;
        let mut text = String::new();
        let mut shown = Progress::default();
        let mut next_typing = Instant::now();
        let mut next_preview = Instant::now() + pace;
        loop {
            let typing_due = types && shown.message_id.is_none() && shown.length == 0;
            tokio::select! {
                event = subscription.next() => match self.read(&event, &mut text) {
                    Seen::More => {}
                    Seen::Anew => shown.length = 0,
                    Seen::End => return,
                },
                () = sleep_until(next_typing), if typing_due => {
                    if let Some(plan) = self.adapter.typing(&self.channel.config, &self.thread) {
                        let _ = self.host.request(self.channel, self.adapter, &plan).await;
                    }
                    next_typing = Instant::now() + typing;
                }
                () = sleep_until(next_preview), if streams && shown.wants(&text) => {
                    if !self.preview(&text, &mut shown).await {
                        // The platform has had enough: the reply comes as one.
                        std::future::pending::<()>().await;
                    }
                    next_preview = Instant::now() + pace;
                }
            }
        }
    }

    fn read(&self, event: &BusEvent, text: &mut String) -> Seen {
        let BusEvent::Message(bytes) = event else { return Seen::More };
        match serde_json::from_slice(bytes) {
            Ok(PreviewEvent::Delta { turn, epoch, offset, text: more })
                if turn == self.turn.turn_id && epoch == self.turn.epoch =>
            {
                let here = text.encode_utf16().count() as u64;
                if offset == here {
                    text.push_str(&more);
                } else if offset == 0 {
                    *text = more;
                }
                Seen::More
            }
            Ok(PreviewEvent::Reset { turn, epoch })
                if turn == self.turn.turn_id && self.turn.epoch < epoch =>
            {
                Seen::End
            }
            Ok(PreviewEvent::Reset { .. }) => {
                text.clear();
                Seen::Anew
            }
            Ok(PreviewEvent::Message { .. })
            | Ok(PreviewEvent::Status { state: AssistantState::Stopped }) => Seen::End,
            _ => Seen::More,
        }
    }

    /// Whether to go on.
    async fn preview(&self, text: &str, shown: &mut Progress) -> bool {
        let preview = Preview {
            draft: draft_of(self.turn.turn_id),
            text,
            message_id: shown.message_id.as_deref(),
        };
        let plan = self.adapter.preview(&self.channel.config, &self.thread, &preview);
        let Some(plan) = plan else { return false };
        let answer = self.host.request(self.channel, self.adapter, &plan).await;
        shown.length = text.len();
        shown.at = Some(Instant::now());
        let Ok(response) = answer else { return true };
        let plan = Plan::Http(plan);
        match self.adapter.classify(&self.channel.config, &plan, &response) {
            Outcome::Sent { external_id: Some(id) } if shown.message_id.is_none() => {
                self.keep(&id).await;
                shown.message_id = Some(id);
                true
            }
            Outcome::Sent { .. } => true,
            Outcome::Retry { after: None, .. } => true,
            _ => false,
        }
    }

    /// So that the reply takes the preview's place, whichever node sends it.
    async fn keep(&self, message_id: &str) {
        let turn = self.turn;
        let keep = async {
            let mut tx = self.host.core.store.begin(turn.tenant_id).await?;
            tx.keep_preview(turn.turn_id, turn.conversation_id, message_id).await?;
            tx.commit().await
        };
        if let Err(error) = keep.await {
            tracing::warn!(%error, turn = %turn.turn_id, "a preview is not written down");
        }
    }
}

#[derive(Default)]
struct Progress {
    /// Bytes that were shown.
    length: usize,
    /// When.
    at: Option<Instant>,
    message_id: Option<String>,
}

impl Progress {
    fn wants(&self, text: &str) -> bool {
        let old = self.at.is_some_and(|at| DRAFT_LIFE < at.elapsed());
        (self.length < text.len() && WORTH <= text.chars().count()) || (old && !text.is_empty())
    }
}

enum Seen {
    More,
    Anew,
    End,
}

/// A number above 0 that is the turn's own.
fn draft_of(turn: TurnId) -> u64 {
    let (high, low) = turn.as_uuid().as_u64_pair();
    ((high ^ low) & 0x7FFF_FFFF).max(1)
}
