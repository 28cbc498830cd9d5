//! T2: a worker takes conversations that wait for an answer, and reads what the answer needs.

use std::time::Duration;

use jiff::Timestamp;
use qudao_domain::{
    AssistantId, ChannelId, ConversationId, Currency, Micros, NodeId, RouteId, TenantId, TurnId,
    routing::Routing,
    state::{ChannelKind, FairCharging},
};
use sqlx::{Row as _, postgres::PgRow, types::Json};

use crate::{
    MessageBody, Result, Store, Tx,
    decisions::read_routing,
    row,
    turn::{order, place},
};

/// A conversation that this node may answer until its lease runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which.
    pub conversation_id: ConversationId,
    /// The fencing number: every later step names it and is refused once another node has
    /// claimed the conversation.
    pub epoch: i64,
    /// The first unanswered message.
    pub from_seq: i64,
    /// The last message that was there at the claim: all up to here get one reply.
    pub to_seq: i64,
    /// Which attempt this is, from 1.
    pub attempts: u32,
}

/// How the turns of a node are shared out among tenants.
#[derive(Debug, Clone, Default)]
pub struct Shares {
    /// The tenant that was served last: those after it come first.
    pub after: Option<TenantId>,
    /// Turns that are under way on the node, by tenant. Who has fewer comes first.
    pub running: Vec<(TenantId, u32)>,
    /// How many a tenant may have under way there; `None` for as many as there are.
    pub most: Option<u32>,
}

/// What a turn needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnContext {
    /// What the tenant pays in.
    pub currency: Currency,
    /// What the tenant may spend on this turn at present, with what an earlier attempt set aside
    /// for it. For sizing the reply; the hold decides.
    pub available: Micros,
    /// What the tenant has, with what is set aside for others.
    pub posted: Micros,
    /// The language of the channel, such as `zh` or `en`.
    pub locale: String,
    /// Where the conversation takes place.
    pub channel_id: ChannelId,
    /// What kind of place that is.
    pub channel_kind: ChannelKind,
    /// Who answers.
    pub assistant: TurnAssistant,
    /// The route that decides who answers.
    pub route_id: RouteId,
    /// Which models may answer where no rule of the route matches, the preferred first.
    pub models: Vec<String>,
    /// The route's rules.
    pub routing: Routing,
    /// What the tenant pays for when a reply is cut short.
    pub fair_charging: FairCharging,
    /// The messages to answer, in order. Empty if the turn is answered already.
    pub pending: Vec<Message>,
    /// What was said before, in order.
    pub history: Vec<PastMessage>,
}

/// The assistant of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnAssistant {
    /// Which.
    pub id: AssistantId,
    /// What it is called.
    pub name: String,
    /// What it is told.
    pub system_prompt: String,
    /// Sampling parameters, as the admin API took them.
    pub params: serde_json::Value,
}

/// An unanswered message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its place in the conversation.
    pub seq: i64,
    /// What it says.
    pub body: MessageBody,
    /// When it was accepted.
    pub at: Timestamp,
}

/// Something that was said earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastMessage {
    /// By whom.
    pub speaker: Speaker,
    /// What.
    pub text: String,
}

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The end user.
    User,
    /// The assistant.
    Assistant,
}

impl Store {
    /// Claims as [`Store::claim_turns`] does for a node on which nothing is under way.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed comes free when the lease ends.
    pub async fn claim_conversations(
        &self,
        node: NodeId,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<Claim>> {
        self.claim_turns(node, limit, lease, &Shares::default()).await
    }

    /// Claims up to `limit` conversations that wait for an answer, in turns among tenants, and the
    /// longest waiting of each first. Conversations that other nodes are claiming at this moment
    /// are passed over.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); what was claimed comes free when the lease ends.
    pub async fn claim_turns(
        &self,
        node: NodeId,
        limit: u32,
        lease: Duration,
        shares: &Shares,
    ) -> Result<Vec<Claim>> {
        let whole = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let (tenants, running): (Vec<_>, Vec<_>) =
            shares.running.iter().map(|(id, count)| (id.as_uuid(), whole(*count))).unzip();
        let query = || {
            sqlx::query(
                "SELECT tenant_id, conversation_id, epoch, from_seq, to_seq, attempts \
                 FROM app.claim_turns($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(node.as_uuid())
            .bind(whole(limit))
            .bind(millis(lease))
            .bind(shares.after.map(TenantId::as_uuid))
            .bind(tenants.clone())
            .bind(running.clone())
            .bind(whole(shares.most.unwrap_or(u32::MAX)))
        };
        let rows = self.rows_of_one_claim(query).await?;
        rows.iter().map(|row| Ok(read_claim(row)?)).collect()
    }

    /// How many messages of each tenant wait for an answer. Looks at `most` conversations at most:
    /// where more are waiting, all that is known is that they are many.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn backlog(&self, most: u32) -> Result<Vec<(TenantId, u64)>> {
        let mut tx = self.begin_claim().await?;
        let rows = sqlx::query("SELECT tenant_id, messages FROM app.backlog($1)")
            .bind(i64::from(most))
            .fetch_all(tx.connection())
            .await?;
        tx.commit().await?;
        let read = |row: &PgRow| {
            let tenant = row::id(row, "tenant_id", TenantId::from_uuid)?;
            let messages: i64 = row.try_get("messages")?;
            Ok((tenant, messages.unsigned_abs()))
        };
        rows.iter().map(read).collect()
    }
}

impl Tx {
    /// Extends the lease of a claim. `false` if another node has the conversation, or the turn
    /// is over: stop then.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn heartbeat(
        &mut self,
        conversation_id: ConversationId,
        epoch: i64,
        lease: Duration,
    ) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE conversations \
             SET lease_until = now() + $4 * interval '1 millisecond', \
                 ready_at = now() + $4 * interval '1 millisecond' \
             WHERE tenant_id = $1 AND conversation_id = $2 AND epoch = $3 \
               AND lease_until IS NOT NULL",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(conversation_id.as_uuid())
        .bind(epoch)
        .bind(millis(lease))
        .execute(self.connection())
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

impl Store {
    /// Reads what the answer to the messages of a claim needs, with at most `history_limit`
    /// earlier messages.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn turn_context(&self, claim: &Claim, history_limit: u32) -> Result<TurnContext> {
        let contexts = self.turn_contexts(std::slice::from_ref(claim), history_limit).await?;
        Ok(contexts.into_iter().next().ok_or(sqlx::Error::RowNotFound)?)
    }

    /// [`Store::turn_context`] of several claims, in their order.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError), if one of them cannot be read.
    pub async fn turn_contexts(
        &self,
        claims: &[Claim],
        history_limit: u32,
    ) -> Result<Vec<TurnContext>> {
        let turn = |claim: &Claim| TurnId::derive(claim.conversation_id, claim.from_seq);
        let order = order(claims, |claim| claim.tenant_id);
        let sorted = || order.iter().map(|at| &claims[*at]);
        let query = || {
            sqlx::query("SELECT * FROM app.turn_contexts($1, $2, $3, $4, $5, $6)")
                .bind(sorted().map(|claim| claim.tenant_id.as_uuid()).collect::<Vec<_>>())
                .bind(sorted().map(|claim| claim.conversation_id.as_uuid()).collect::<Vec<_>>())
                .bind(sorted().map(|claim| turn(claim).as_uuid()).collect::<Vec<_>>())
                .bind(sorted().map(|claim| claim.from_seq).collect::<Vec<_>>())
                .bind(sorted().map(|claim| claim.to_seq).collect::<Vec<_>>())
                .bind(i32::try_from(history_limit).unwrap_or(i32::MAX))
        };
        let mut contexts: Vec<Option<TurnContext>> = claims.iter().map(|_| None).collect();
        for row in self.rows_of_one_statement(query).await? {
            *place(&row, &order, &mut contexts)? = Some(read_context(&row)?);
        }
        let found = contexts.into_iter().map(|context| context.ok_or(sqlx::Error::RowNotFound));
        Ok(found.collect::<std::result::Result<_, _>>()?)
    }
}

fn read_context(row: &PgRow) -> Result<TurnContext> {
    // Contexts are read together, and rules that this version cannot read are one tenant's matter. To
    // pass them over might show a message to a model that must not see it: nobody answers.
    let (models, routing) = match read_routing(row) {
        Ok(routing) => (row.try_get("models")?, routing),
        Err(error) => {
            tracing::warn!(%error, "the rules of a route cannot be read");
            (Vec::new(), Routing::default())
        }
    };
    Ok(TurnContext {
        currency: row::currency(row, "currency")?,
        available: row::micros(row, "available")?,
        posted: row::micros(row, "posted")?,
        locale: row.try_get("locale")?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        channel_kind: row::state(row, "kind", ChannelKind::find)?,
        assistant: TurnAssistant {
            id: row::id(row, "assistant_id", AssistantId::from_uuid)?,
            name: row.try_get("name")?,
            system_prompt: row.try_get("system_prompt")?,
            params: row.try_get("params")?,
        },
        route_id: row::id(row, "route_id", RouteId::from_uuid)?,
        models,
        routing,
        fair_charging: row::state(row, "fair_charging", FairCharging::find)?,
        pending: read_pending(row)?,
        history: read_history(row)?,
    })
}

fn read_pending(row: &PgRow) -> Result<Vec<Message>> {
    let seqs: Vec<i64> = row.try_get("pending_seqs")?;
    let bodies: Vec<Json<MessageBody>> = row.try_get("pending_bodies")?;
    let times: Vec<i64> = row.try_get("pending_at")?;
    let read = |((seq, Json(body)), at)| Ok(Message { seq, body, at: row::time_of(at)? });
    seqs.into_iter().zip(bodies).zip(times).map(read).collect()
}

/// The database has the newest first.
fn read_history(row: &PgRow) -> Result<Vec<PastMessage>> {
    let texts: Vec<String> = row.try_get("history_texts")?;
    let outbound: Vec<bool> = row.try_get("history_outbound")?;
    let read = |(text, outbound)| {
        let speaker = if outbound { Speaker::Assistant } else { Speaker::User };
        PastMessage { speaker, text }
    };
    Ok(texts.into_iter().zip(outbound).rev().map(read).collect())
}

fn read_claim(row: &PgRow) -> Result<Claim, sqlx::Error> {
    Ok(Claim {
        tenant_id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        conversation_id: row::id(row, "conversation_id", ConversationId::from_uuid)?,
        epoch: row.try_get("epoch")?,
        from_seq: row.try_get("from_seq")?,
        to_seq: row.try_get("to_seq")?,
        attempts: row::count(row, "attempts")?,
    })
}

/// Whole milliseconds, as the functions of the schema take leases.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
