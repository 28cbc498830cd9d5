//! Tenants, their wallets, and the credits that an operator adds by hand.

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{
    Currency, LedgerTxnId, Micros, TenantId,
    state::FairCharging,
    text::{IdempotencyKey, Name},
};
use qudao_storage::{CreditOutcome, CreditSource, NewCredit, NewTenant, Tenant, Wallet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{List, Money, in_tenant, page, parse_locale, parse_optional_text};
use crate::{
    access::TenantScope,
    error::{ApiError, FieldCheck},
    extract::{NoQuery, PageQuery, Query},
    once::{Posted, Reply, commit_once, commit_tenant},
    state::AppState,
};

const MAX_NOTE_CHARS: usize = 500;
/// More than anybody adds by hand; keeps sums far from 64 bits.
const MAX_CREDIT: Micros = Micros::new(1_000_000_000 * Micros::UNIT.get());

/// A tenant to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTenant {
    /// What it is called; 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    name: String,
    /// What it pays in; CNY if left out. Fixed for its life.
    #[schema(pattern = r"^[A-Z]{3}$")]
    currency: Option<String>,
    /// The language of its channels unless they say otherwise; `zh` if left out.
    #[schema(max_length = 35, pattern = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")]
    locale: Option<String>,
    /// What it pays for when a reply is cut short: `bill_delivered` (if left out),
    /// `bill_generated` or `free_if_nothing_delivered`.
    #[schema(pattern = r"^(bill_delivered|bill_generated|free_if_nothing_delivered)$")]
    fair_charging: Option<String>,
}

impl CreateTenant {
    fn parse(self) -> Result<NewTenant, ApiError> {
        let mut check = FieldCheck::default();
        let name = check.take("/name", Name::parse(&self.name));
        let currency = self.currency.as_deref().map(str::parse::<Currency>);
        let currency = check.take_optional("/currency", currency).unwrap_or(Currency::CNY);
        let locale = check.take_optional("/locale", self.locale.as_deref().map(parse_locale));
        let charging = self.fair_charging.as_deref().map(|text| {
            FairCharging::find(text)
                .ok_or("has to be bill_delivered, bill_generated or free_if_nothing_delivered")
        });
        let charging = check.take_optional("/fair_charging", charging);
        check.finish(name.map(|name| NewTenant {
            name,
            currency,
            locale: locale.unwrap_or_else(|| "zh".to_owned()),
            fair_charging: charging.unwrap_or(FairCharging::BillDelivered),
        }))
    }
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Tenant", as = Tenant)]
pub(crate) struct TenantBody {
    #[schema(value_type = String, example = "ten_0198c0de00007000800000000000a001")]
    id: TenantId,
    name: String,
    #[schema(value_type = String, example = "CNY")]
    currency: Currency,
    locale: String,
    #[schema(value_type = String, example = "bill_delivered")]
    fair_charging: FairCharging,
    /// For how many days messages are kept; `null` for ever.
    retention_days: Option<u32>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<Tenant> for TenantBody {
    fn from(tenant: Tenant) -> Self {
        let Tenant { id, name, currency, locale, fair_charging, retention_days, created_at } =
            tenant;
        Self { id, name, currency, locale, fair_charging, retention_days, created_at }
    }
}

/// What a tenant has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Wallet", as = Wallet)]
pub(crate) struct WalletBody {
    /// What may still be spent: the balance less what is held.
    available: Money,
    /// The balance of the ledger.
    posted: Money,
    /// Set aside for replies and API calls that are under way.
    held: Money,
}

impl From<Wallet> for WalletBody {
    fn from(wallet: Wallet) -> Self {
        let money = |amount| Money::new(amount, wallet.currency);
        Self {
            available: money(wallet.available()),
            posted: money(wallet.posted),
            held: money(wallet.held),
        }
    }
}

/// Credits to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddCredit {
    /// How much, in the tenant's currency; more than zero.
    #[schema(example = "100", pattern = r"^(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,6})?$")]
    amount: String,
    /// `cash` if the tenant paid (if left out), `bonus` if the platform gives it away.
    #[schema(pattern = r"^(cash|bonus)$")]
    source: Option<String>,
    /// For the books; at most 500 characters.
    #[schema(max_length = 500, pattern = r"^[^\x00]*$")]
    note: Option<String>,
}

impl AddCredit {
    fn parse(self, idempotency_key: IdempotencyKey) -> Result<NewCredit, ApiError> {
        let mut check = FieldCheck::default();
        let amount = check.take("/amount", self.amount.parse::<Micros>());
        if amount.is_some_and(|amount| amount <= Micros::ZERO || MAX_CREDIT < amount) {
            check.refuse("/amount", format_args!("has to be more than 0 and at most {MAX_CREDIT}"));
        }
        let source = self.source.as_deref();
        let source = source.map(|text| CreditSource::find(text).ok_or("has to be cash or bonus"));
        let source = check.take_optional("/source", source).unwrap_or(CreditSource::Cash);
        let note = self.note.as_deref().unwrap_or_default();
        let note = check.take("/note", parse_optional_text(note, MAX_NOTE_CHARS));
        let parts = amount.zip(note);
        check.finish(parts.map(|(amount, note)| NewCredit {
            idempotency_key,
            amount,
            source,
            note,
        }))
    }
}

/// Credits that were added.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Credit {
    /// The ledger's transaction.
    #[schema(value_type = String, example = "txn_0198c0de00007000800000000000a001")]
    txn_id: LedgerTxnId,
    /// How much.
    credited: Money,
}

pub(crate) async fn create(
    state: web::Data<AppState>,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<CreateTenant>,
) -> Result<HttpResponse, ApiError> {
    let new = body.parse()?;
    let made = commit_tenant(&state, once, move |tx| {
        Box::pin(async move {
            let tenant = tx.create_tenant(&new).await?;
            Ok(Reply::created(format!("/v1/tenants/{}", tenant.id), &TenantBody::from(tenant)))
        })
    });
    made.await
}

pub(crate) async fn list(
    state: web::Data<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let (page, core) = (page(&query)?, state.core.clone());
    let listing = state.on_runtime(async move { core.store.list_tenants(&page).await }).await?;
    Ok(HttpResponse::Ok().json(List::<TenantBody>::of(listing)))
}

pub(crate) async fn get(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let tenant = in_tenant(&state, tenant_id, |tx| {
        Box::pin(async move { tx.tenant().await?.ok_or_else(|| ApiError::not_found("tenant")) })
    });
    Ok(HttpResponse::Ok().json(TenantBody::from(tenant.await?)))
}

pub(crate) async fn wallet(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let wallet = in_tenant(&state, tenant_id, |tx| {
        Box::pin(async move { tx.wallet().await?.ok_or_else(|| ApiError::not_found("tenant")) })
    });
    Ok(HttpResponse::Ok().json(WalletBody::from(wallet.await?)))
}

pub(crate) async fn add_credit(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    Posted { body, once }: Posted<AddCredit>,
) -> Result<HttpResponse, ApiError> {
    let tenant_id: TenantId = crate::extract::path_id(&request)?;
    let credit = body.parse(once.required()?.clone())?;
    let added = commit_once(&state, tenant_id, once, move |tx| {
        Box::pin(async move {
            // The ledger knows its keys for ever, and not for a day only.
            let (txn_id, repeated) = match tx.add_credit(&credit).await? {
                CreditOutcome::Added { txn_id } => (txn_id, false),
                CreditOutcome::Repeated { txn_id } => (txn_id, true),
                CreditOutcome::KeyReused => return Err(crate::once::reused()),
            };
            let wallet = tx.wallet().await?.ok_or_else(|| ApiError::not_found("tenant"))?;
            let body = Credit { txn_id, credited: Money::new(credit.amount, wallet.currency) };
            let reply = Reply::created(format!("/v1/tenants/{tenant_id}/wallet"), &body);
            Ok(if repeated { reply.replayed() } else { reply })
        })
    });
    added.await
}
