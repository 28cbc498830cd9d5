//! Messages that belong together and come one by one: an album's pictures. Each is durable by itself
//! as it comes; what makes them one turn is that the conversation is not claimed before it was quiet
//! for a moment, by the database's clock. So no node keeps anything of them, and none can lose it.

use std::{sync::Arc, time::Duration};

use metrics::counter;
use qudao_domain::{TenantId, message::Part};
use qudao_storage::{Accept, ChannelEvent, Inbound, StorageError, Tx};
use qudao_telemetry::Trace;
use serde_json::json;
use tokio::time::Instant;

use super::{AcceptError, Accepted};
use crate::Core;

/// How long it must be quiet. The pieces come within about a second of each other.
const QUIET: Duration = Duration::from_millis(1500);
/// And how long the first piece waits at most.
const MOST: Duration = Duration::from_secs(10);
/// What a claim comes later than the moment from which it can be made.
const LATER: Duration = Duration::from_millis(20);

/// One of several messages that belong together.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The message; its body names the album.
    pub inbound: Inbound,
    /// It is meant for the assistant. If not, it waits for another piece that is.
    pub addressed: bool,
    /// The platform's id of the event that brought it.
    pub event_id: String,
}

/// What became of a piece.
#[derive(Debug, Clone)]
pub enum Joined {
    /// It is accepted, and with it those that waited for it, each with its parts. The piece itself
    /// comes first.
    Accepted(Vec<(Accepted, Vec<Part>)>),
    /// It is not meant for the assistant so far.
    Overheard {
        /// It was not known before.
        new: bool,
    },
}

impl Core {
    /// Accepts a piece. When this returns, it is durable. The turn begins when no more have come for
    /// a moment.
    ///
    /// # Errors
    /// [`AcceptError`]; nothing was changed then, and the same piece may be sent again.
    pub async fn accept_piece(
        self: &Arc<Self>,
        tenant_id: TenantId,
        piece: Piece,
        origin: Trace,
    ) -> Result<Joined, AcceptError> {
        if self.tasks.is_closed() {
            return Err(AcceptError::ShuttingDown);
        }
        self.has_room(tenant_id)?;
        let began = Instant::now();
        let stored = self.store_piece(tenant_id, piece).await.map_err(Arc::new)?;
        let Stored::Pieces(stored) = stored else {
            return Ok(Joined::Overheard { new: stored.is_new() });
        };
        let mut joined = Vec::with_capacity(stored.len());
        let mut new = false;
        for (accept, parts) in stored {
            let accepted = self.accepted(tenant_id, accept, began, origin)?;
            let duplicate = if accepted.duplicate { "yes" } else { "no" };
            counter!("qudao_messages_accepted_total", "duplicate" => duplicate).increment(1);
            new |= !accepted.duplicate;
            joined.push((accepted, parts));
        }
        if new {
            let core = Arc::clone(self);
            self.spawn(async move {
                tokio::time::sleep(QUIET + LATER).await;
                core.wake_turns();
            });
        }
        Ok(Joined::Accepted(joined))
    }

    async fn store_piece(&self, tenant_id: TenantId, piece: Piece) -> Result<Stored, StorageError> {
        let Piece { inbound, addressed, event_id } = piece;
        let (channel_id, peer) = (inbound.channel_id, inbound.peer.clone());
        let album = inbound.body.album.clone().unwrap_or_default();
        let mut tx = self.store.begin(tenant_id).await?;
        tx.lock_album(channel_id, &peer, &album).await?;
        if !addressed && !tx.has_piece(channel_id, &peer, &album).await? {
            let body = json!({
                "album": album, "external_id": inbound.external_id.as_str(),
                "message": inbound.body,
            });
            let event = ChannelEvent {
                channel_id,
                event_id: &event_id,
                kind: "overheard",
                thread: peer.as_str(),
                body: &body,
            };
            let new = tx.note_channel_event(event).await?;
            tx.commit().await?;
            return Ok(Stored::Overheard { new });
        }
        let mut stored = vec![(accept_quietly(&mut tx, &inbound).await?, inbound.body.parts)];
        if matches!(stored[0].0, Accept::New { .. }) {
            for other in tx.take_overheard(channel_id, &peer, &album).await? {
                stored.push((accept_quietly(&mut tx, &other).await?, other.body.parts));
            }
        }
        tx.commit().await?;
        Ok(Stored::Pieces(stored))
    }
}

enum Stored {
    Pieces(Vec<(Accept, Vec<Part>)>),
    Overheard { new: bool },
}

impl Stored {
    const fn is_new(&self) -> bool {
        matches!(self, Self::Overheard { new: true })
    }
}

async fn accept_quietly(tx: &mut Tx, inbound: &Inbound) -> Result<Accept, StorageError> {
    let accept = tx.accept(inbound).await?;
    if let Accept::New { conversation_id, .. } = accept {
        tx.wait_for_more(conversation_id, QUIET, MOST).await?;
    }
    Ok(accept)
}
