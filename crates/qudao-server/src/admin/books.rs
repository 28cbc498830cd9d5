//! What was used, and what was booked for it.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{
    ApiKeyId, ChannelId, ConversationId, LedgerTxnId, TurnId,
    state::{Account, EndReason, FairCharging},
};
use qudao_storage::{LedgerEntry, UsageRecord};
use serde::Serialize;
use utoipa::ToSchema;

use super::{List, Money, in_tenant, page};
use crate::{
    access::TenantScope,
    error::ApiError,
    extract::{PageQuery, Query},
    state::AppState,
};

/// One reply or API call as it was booked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// The turn or API call; the ledger's transaction has the same number.
    #[schema(value_type = String)]
    turn_id: TurnId,
    #[schema(value_type = String)]
    channel_id: ChannelId,
    /// The key that called, on the API.
    #[schema(value_type = Option<String>)]
    api_key_id: Option<ApiKeyId>,
    /// The conversation, on a messaging channel.
    #[schema(value_type = Option<String>)]
    conversation_id: Option<ConversationId>,
    model: String,
    /// Which version of the price book applied.
    price_version: i64,
    input_tokens: u32,
    output_tokens: u32,
    /// Tokens of those that reached the other side.
    delivered_tokens: u32,
    /// What the tenant paid.
    charge: Money,
    /// What the platform bore.
    absorbed: Money,
    /// The policy that applied.
    #[schema(value_type = String, example = "bill_delivered")]
    policy: FairCharging,
    /// Why the reply ended.
    #[schema(value_type = String, example = "stop")]
    end_reason: EndReason,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<UsageRecord> for Usage {
    fn from(record: UsageRecord) -> Self {
        Self {
            turn_id: record.turn_id,
            channel_id: record.channel_id,
            api_key_id: record.api_key_id,
            conversation_id: record.conversation_id,
            model: record.model,
            price_version: record.price_version,
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            delivered_tokens: record.delivered_tokens,
            charge: Money::new(record.charge, record.currency),
            absorbed: Money::new(record.absorbed, record.currency),
            policy: record.policy,
            end_reason: record.end_reason,
            at: record.at,
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// Its number; later entries of a tenant have higher ones.
    entry_no: i64,
    /// The group that it belongs to; the group sums to zero.
    #[schema(value_type = String)]
    txn_id: LedgerTxnId,
    /// Its place in the group.
    leg: u32,
    #[schema(value_type = String, example = "wallet")]
    account: Account,
    /// Added to the account; negative amounts are taken from it.
    amount: Money,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<LedgerEntry> for Entry {
    fn from(entry: LedgerEntry) -> Self {
        let LedgerEntry { entry_no, txn_id, leg, account, amount, currency, at } = entry;
        Self { entry_no, txn_id, leg, account, amount: Money::new(amount, currency), at }
    }
}

pub(crate) async fn usage(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_usage(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<Usage>::of(listing.await?)))
}

pub(crate) async fn ledger(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = page(&query)?;
    let listing = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move { Ok(tx.list_ledger(&page).await?) })
    });
    Ok(HttpResponse::Ok().json(List::<Entry>::of(listing.await?)))
}
