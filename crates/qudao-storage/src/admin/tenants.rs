//! Tenants, their wallets, and the credits that come in.

use jiff::Timestamp;
use qudao_domain::{
    ChannelId, Currency, LedgerTxnId, Micros, TenantId,
    state::FairCharging,
    text::{IdempotencyKey, Name},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{Listing, Page, PlatformTx, Result, StorageError, Store, Tx, page::id_cursor, row};

/// A tenant to be made.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// What it is called.
    pub name: Name,
    /// What it pays in; fixed for its life.
    pub currency: Currency,
    /// The language of its channels unless they say otherwise, such as `zh` or `en`.
    pub locale: String,
    /// What it pays for when a reply is cut short.
    pub fair_charging: FairCharging,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Which.
    pub id: TenantId,
    /// What it is called.
    pub name: String,
    /// What it pays in.
    pub currency: Currency,
    /// The language of its channels unless they say otherwise.
    pub locale: String,
    /// What it pays for when a reply is cut short.
    pub fair_charging: FairCharging,
    /// For how many days messages are kept; for ever when absent.
    pub retention_days: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a tenant has. `posted − held` is what it may still spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wallet {
    /// The currency of both amounts.
    pub currency: Currency,
    /// The balance of the ledger.
    pub posted: Micros,
    /// What is set aside for turns and blocks under way.
    pub held: Micros,
}

impl Wallet {
    /// What may still be spent.
    pub fn available(&self) -> Micros {
        Micros::new(self.posted.get() - self.held.get())
    }
}

/// Where credits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditSource {
    /// The tenant paid.
    Cash,
    /// The platform gives them away.
    Bonus,
}

impl CreditSource {
    /// As the database and the wire write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cash => "cash",
            Self::Bonus => "bonus",
        }
    }

    /// The value with this text form, if there is one.
    pub fn find(text: &str) -> Option<Self> {
        [Self::Cash, Self::Bonus].into_iter().find(|source| source.as_str() == text)
    }
}

/// Credits to be added to a wallet.
#[derive(Debug, Clone)]
pub struct NewCredit {
    /// Adding twice under the same key adds once.
    pub idempotency_key: IdempotencyKey,
    /// How much; more than zero.
    pub amount: Micros,
    /// Where they come from.
    pub source: CreditSource,
    /// For the books; may be empty.
    pub note: String,
}

/// Whether credits were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreditOutcome {
    /// They are, once the transaction commits.
    Added {
        /// The ledger's transaction.
        txn_id: LedgerTxnId,
    },
    /// They were added before under the same key with the same content.
    Repeated {
        /// The ledger's transaction of then.
        txn_id: LedgerTxnId,
    },
    /// The key was used for something else. Nothing changed.
    KeyReused,
}

/// Whether credits were taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReverseOutcome {
    /// They are, once the transaction commits.
    Reversed {
        /// How much of them the wallet still had; the platform bears the rest.
        taken: Micros,
    },
    /// They were before. Nothing changed.
    Repeated,
    /// There are no credits under this key. Nothing changed.
    Unknown,
}

impl Store {
    /// Makes a tenant with an empty wallet and the channel that its API calls are booked on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn create_tenant(&self, new: &NewTenant) -> Result<Tenant> {
        let mut tx = self.begin(TenantId::new()).await?;
        let tenant = tx.create_tenant(new).await?;
        tx.commit().await?;
        Ok(tenant)
    }

    /// All tenants, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`] and others.
    pub async fn list_tenants(&self, page: &Page) -> Result<Listing<Tenant>> {
        let mut tx = self.begin_platform().await?;
        let listing = tx.list_tenants(page).await?;
        tx.commit().await?;
        Ok(listing)
    }
}

impl PlatformTx {
    /// All tenants, the newest first.
    ///
    /// # Errors
    /// [`StorageError::BadCursor`] and others.
    pub async fn list_tenants(&mut self, page: &Page) -> Result<Listing<Tenant>> {
        let rows = sqlx::query(
            "SELECT tenant_id, name, currency, locale, fair_charging, retention_days, \
                    app.micros(created_at) AS created_at \
             FROM app.page_of_tenants($1, $2)",
        )
        .bind(page.after_id()?)
        .bind(page.probe_limit())
        .fetch_all(self.connection())
        .await?;
        let items = rows.iter().map(read_tenant).collect::<Result<Vec<_>, _>>()?;
        Ok(Listing::cut(items, page, |tenant| id_cursor(tenant.id.as_uuid())))
    }
}

impl Tx {
    /// Makes the tenant of this transaction, with an empty wallet and the channel that its API
    /// calls are booked on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn create_tenant(&mut self, new: &NewTenant) -> Result<Tenant> {
        sqlx::query("SELECT app.create_tenant($1, $2, $3, $4, $5)")
            .bind(new.name.as_str())
            .bind(new.currency.as_str())
            .bind(&new.locale)
            .bind(new.fair_charging.as_str())
            .bind(ChannelId::new().as_uuid())
            .execute(self.connection())
            .await?;
        let id = self.tenant_id();
        let tenant = self.tenant().await?;
        tenant.ok_or_else(|| StorageError::Inconsistent { detail: format!("{id} vanished") })
    }

    /// The tenant of this transaction, if it exists.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn tenant(&mut self) -> Result<Option<Tenant>> {
        let row = sqlx::query(
            "SELECT tenant_id, name, currency, locale, fair_charging, retention_days, \
                    app.micros(created_at) AS created_at \
             FROM tenants WHERE tenant_id = $1",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_optional(self.connection())
        .await?;
        Ok(row.as_ref().map(read_tenant).transpose()?)
    }

    /// The tenant's wallet, if the tenant exists.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn wallet(&mut self) -> Result<Option<Wallet>> {
        let row = sqlx::query(
            "SELECT w.currency, w.posted, w.held \
             FROM wallets w \
             JOIN tenants t ON t.tenant_id = w.tenant_id AND t.currency = w.currency \
             WHERE w.tenant_id = $1",
        )
        .bind(self.tenant_id().as_uuid())
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Wallet {
            currency: row::currency(&row, "currency")?,
            posted: row::micros(&row, "posted")?,
            held: row::micros(&row, "held")?,
        }))
    }

    /// Adds credits to the wallet, with their ledger entries.
    ///
    /// # Errors
    /// [`StorageError::MissingParent`] if the tenant does not exist; safe to repeat.
    pub async fn add_credit(&mut self, credit: &NewCredit) -> Result<CreditOutcome> {
        let row = sqlx::query("SELECT outcome, txn_id FROM app.add_credit($1, $2, $3, $4, $5)")
            .bind(LedgerTxnId::new().as_uuid())
            .bind(credit.idempotency_key.as_str())
            .bind(credit.amount.get())
            .bind(credit.source.as_str())
            .bind(&credit.note)
            .fetch_one(self.connection())
            .await?;
        let outcome: String = row.try_get("outcome")?;
        let txn_id = row::id(&row, "txn_id", LedgerTxnId::from_uuid)?;
        match outcome.as_str() {
            "added" => Ok(CreditOutcome::Added { txn_id }),
            "repeated" => Ok(CreditOutcome::Repeated { txn_id }),
            "key_reused" => Ok(CreditOutcome::KeyReused),
            other => Err(StorageError::unknown_outcome("app.add_credit", other)),
        }
    }

    /// Takes credits back that were added under a key, with their ledger entries: as much as the wallet
    /// has and is not set aside.
    ///
    /// # Errors
    /// [`StorageError`]; safe to repeat.
    pub async fn reverse_credit(&mut self, key: &IdempotencyKey) -> Result<ReverseOutcome> {
        let row = sqlx::query("SELECT outcome, taken FROM app.reverse_credit($1, $2)")
            .bind(key.as_str())
            .bind(LedgerTxnId::new().as_uuid())
            .fetch_one(self.connection())
            .await?;
        let outcome: String = row.try_get("outcome")?;
        match outcome.as_str() {
            "reversed" => Ok(ReverseOutcome::Reversed { taken: row::micros(&row, "taken")? }),
            "repeated" => Ok(ReverseOutcome::Repeated),
            "unknown" => Ok(ReverseOutcome::Unknown),
            other => Err(StorageError::unknown_outcome("app.reverse_credit", other)),
        }
    }
}

fn read_tenant(row: &PgRow) -> Result<Tenant, sqlx::Error> {
    Ok(Tenant {
        id: row::id(row, "tenant_id", TenantId::from_uuid)?,
        name: row.try_get("name")?,
        currency: row::currency(row, "currency")?,
        locale: row.try_get("locale")?,
        fair_charging: row::state(row, "fair_charging", FairCharging::find)?,
        retention_days: row.try_get::<Option<i32>, _>("retention_days")?.map(i32::unsigned_abs),
        created_at: row::time(row, "created_at")?,
    })
}
