//! What the admin API shows of a tenant's conversations, usage and ledger.

use jiff::Timestamp;
use qudao_domain::{
    ApiKeyId, ChannelId, ContactId, ConversationId, Currency, LedgerTxnId, Micros, TurnId,
    state::{Account, EndReason, FairCharging},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Listing, Page, Result, Tx, page::id_cursor, row};

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Which.
    pub id: ConversationId,
    /// Where it takes place.
    pub channel_id: ChannelId,
    /// With whom.
    pub contact_id: ContactId,
    /// The channel's own id of the person.
    pub peer: String,
    /// How many messages came in.
    pub last_seq: i64,
    /// Up to which of them it is answered.
    pub done_seq: i64,
    /// How many messages went out.
    pub out_seq: i64,
    /// When it began.
    pub created_at: Timestamp,
}

/// One line of usage as it was booked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// The turn or API call; also the ledger's transaction.
    pub turn_id: TurnId,
    /// Where it took place.
    pub channel_id: ChannelId,
    /// The key that called, on the API.
    pub api_key_id: Option<ApiKeyId>,
    /// The conversation, on a messaging channel.
    pub conversation_id: Option<ConversationId>,
    /// Which model answered.
    pub model: String,
    /// Which version of the price book applied.
    pub price_version: i64,
    /// Tokens that the model read.
    pub input_tokens: u32,
    /// Tokens that the model wrote.
    pub output_tokens: u32,
    /// Tokens of those that reached the other side.
    pub delivered_tokens: u32,
    /// What the tenant paid.
    pub charge: Micros,
    /// What the platform bore.
    pub absorbed: Micros,
    /// The currency of both.
    pub currency: Currency,
    /// The policy that applied.
    pub policy: FairCharging,
    /// Why the reply ended.
    pub end_reason: EndReason,
    /// When it was booked.
    pub at: Timestamp,
    entry_no: i64,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Its number; later entries of a tenant have higher ones.
    pub entry_no: i64,
    /// The group that it belongs to; the group sums to zero.
    pub txn_id: LedgerTxnId,
    /// Its place in the group.
    pub leg: u32,
    /// The account.
    pub account: Account,
    /// Added to the account; negative amounts are taken from it.
    pub amount: Micros,
    /// The currency.
    pub currency: Currency,
    /// When it was booked.
    pub at: Timestamp,
}

const CONVERSATION: &str = "conversation_id, channel_id, contact_id, peer, last_seq, done_seq, \
                            out_seq, app.micros(created_at) AS created_at";

impl Tx {
    /// The conversation, if it is this tenant's.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_conversation(&mut self, id: ConversationId) -> Result<Option<Conversation>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {CONVERSATION} FROM conversations \
             WHERE tenant_id = $1 AND conversation_id = $2"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_conversation).transpose()?)
    }

    /// The conversation of a person on a channel, if they ever wrote there.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn find_conversation_of(
        &mut self,
        channel_id: ChannelId,
        peer: &str,
    ) -> Result<Option<Conversation>> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {CONVERSATION} FROM conversations \
             WHERE tenant_id = $1 AND channel_id = $2 AND peer = $3"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(channel_id.as_uuid())
        .bind(peer)
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_conversation).transpose()?)
    }

    /// The tenant's conversations, or those of one contact, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_conversations(
        &mut self,
        page: &Page,
        of: Option<ContactId>,
    ) -> Result<Listing<Conversation>> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {CONVERSATION} FROM conversations \
             WHERE tenant_id = $1 AND ($2::uuid IS NULL OR conversation_id < $2) \
               AND ($4::uuid IS NULL OR contact_id = $4) \
             ORDER BY conversation_id DESC LIMIT $3"
        )))
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .bind(of.map(ContactId::as_uuid))
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_conversation).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |item| id_cursor(item.id.as_uuid())))
    }

    /// The tenant's usage, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_usage(&mut self, page: &Page) -> Result<Listing<UsageRecord>> {
        let rows = sqlx::query(
            "SELECT turn_id, channel_id, api_key_id, conversation_id, model, price_version, \
                    input_tokens, output_tokens, delivered_tokens, charge, absorbed, currency, \
                    policy, end_reason, app.micros(at) AS at, entry_no \
             FROM usage_events \
             WHERE tenant_id = $1 AND ($2::bigint IS NULL OR entry_no < $2) \
             ORDER BY entry_no DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_number()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_usage).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |item| item.entry_no.to_string()))
    }

    /// The tenant's ledger, the newest entry first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`](crate::StorageError) and others.
    pub async fn list_ledger(&mut self, page: &Page) -> Result<Listing<LedgerEntry>> {
        let rows = sqlx::query(
            "SELECT entry_no, txn_id, leg::int AS leg, account, amount, currency, \
                    app.micros(at) AS at \
             FROM ledger_entries \
             WHERE tenant_id = $1 AND ($2::bigint IS NULL OR entry_no < $2) \
             ORDER BY entry_no DESC LIMIT $3",
        )
        .bind(self.tenant_id().as_uuid())
        .bind(page.after_number()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_entry).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |item| item.entry_no.to_string()))
    }
}

fn read_conversation(row: &PgRow) -> Result<Conversation, sqlx::Error> {
    Ok(Conversation {
        id: row::id(row, "conversation_id", ConversationId::from_uuid)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        contact_id: row::id(row, "contact_id", ContactId::from_uuid)?,
        peer: row.try_get("peer")?,
        last_seq: row.try_get("last_seq")?,
        done_seq: row.try_get("done_seq")?,
        out_seq: row.try_get("out_seq")?,
        created_at: row::time(row, "created_at")?,
    })
}

fn read_usage(row: &PgRow) -> Result<UsageRecord, sqlx::Error> {
    Ok(UsageRecord {
        turn_id: row::id(row, "turn_id", TurnId::from_uuid)?,
        channel_id: row::id(row, "channel_id", ChannelId::from_uuid)?,
        api_key_id: row::optional_id(row, "api_key_id", ApiKeyId::from_uuid)?,
        conversation_id: row::optional_id(row, "conversation_id", ConversationId::from_uuid)?,
        model: row.try_get("model")?,
        price_version: row.try_get("price_version")?,
        input_tokens: row::tokens(row, "input_tokens")?,
        output_tokens: row::tokens(row, "output_tokens")?,
        delivered_tokens: row::tokens(row, "delivered_tokens")?,
        charge: row::micros(row, "charge")?,
        absorbed: row::micros(row, "absorbed")?,
        currency: row::currency(row, "currency")?,
        policy: row::state(row, "policy", FairCharging::find)?,
        end_reason: row::state(row, "end_reason", EndReason::find)?,
        at: row::time(row, "at")?,
        entry_no: row.try_get("entry_no")?,
    })
}

fn read_entry(row: &PgRow) -> Result<LedgerEntry, sqlx::Error> {
    Ok(LedgerEntry {
        entry_no: row.try_get("entry_no")?,
        txn_id: row::id(row, "txn_id", LedgerTxnId::from_uuid)?,
        leg: row::count(row, "leg")?,
        account: row::state(row, "account", Account::find)?,
        amount: row::micros(row, "amount")?,
        currency: row::currency(row, "currency")?,
        at: row::time(row, "at")?,
    })
}
