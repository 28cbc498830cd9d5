//! The price book: versioned and only ever added to, because every usage row names its version.

use jiff::Timestamp;
use qudao_billing::Rates;
use qudao_domain::{Currency, Micros};
use sqlx::Row as _;

use crate::{PlatformTx, Result, Store, row};

/// What a model shall cost from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// The model's name.
    pub model: String,
    /// The currency of the rates.
    pub currency: Currency,
    /// The rates.
    pub rates: Rates,
}

/// One version of a model's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// What usage rows name.
    pub version: i64,
    /// The model's name.
    pub model: String,
    /// The currency of the rates.
    pub currency: Currency,
    /// Per million tokens read.
    pub input_per_mtok: Micros,
    /// Per million tokens written.
    pub output_per_mtok: Micros,
    /// Per call.
    pub per_call: Micros,
    /// From when on.
    pub effective_from: Timestamp,
}

impl PriceRow {
    /// The rates, to compute with.
    pub fn rates(&self) -> Rates {
        Rates {
            input_per_mtok: self.input_per_mtok,
            output_per_mtok: self.output_per_mtok,
            per_call: self.per_call,
        }
    }
}

impl Store {
    /// Adds a version for every model whose price differs from the present one. Returns how many
    /// were added. Prices of models that are not named stay as they are.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError); safe to repeat.
    pub async fn sync_prices(&self, prices: &[ModelPrice]) -> Result<u64> {
        let mut tx = self.begin_platform().await?;
        let added = tx.sync_prices(prices).await?;
        tx.commit().await?;
        Ok(added)
    }

    /// The present price of every model in every currency.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn prices(&self) -> Result<Vec<PriceRow>> {
        let mut tx = self.begin_platform().await?;
        let rows = sqlx::query(
            "SELECT DISTINCT ON (model, currency) price_version, model, currency, input_per_mtok, \
                    output_per_mtok, per_call, app.micros(effective_from) AS effective_from \
             FROM price_books \
             WHERE effective_from <= now() \
             ORDER BY model, currency, effective_from DESC, price_version DESC",
        )
        .fetch_all(tx.connection())
        .await?;
        tx.commit().await?;
        rows.iter().map(|row| Ok(read_price(row)?)).collect()
    }
}

impl PlatformTx {
    async fn sync_prices(&mut self, prices: &[ModelPrice]) -> Result<u64> {
        macro_rules! column {
            ($price:ident => $value:expr) => {
                prices.iter().map(|$price| $value).collect::<Vec<_>>()
            };
        }
        let added: i64 = sqlx::query_scalar("SELECT app.sync_prices($1, $2, $3, $4, $5)")
            .bind(column!(price => price.model.as_str()))
            .bind(column!(price => price.currency.as_str()))
            .bind(column!(price => price.rates.input_per_mtok.get()))
            .bind(column!(price => price.rates.output_per_mtok.get()))
            .bind(column!(price => price.rates.per_call.get()))
            .fetch_one(self.connection())
            .await?;
        Ok(added.unsigned_abs())
    }
}

fn read_price(row: &sqlx::postgres::PgRow) -> Result<PriceRow, sqlx::Error> {
    Ok(PriceRow {
        version: row.try_get("price_version")?,
        model: row.try_get("model")?,
        currency: row::currency(row, "currency")?,
        input_per_mtok: row::micros(row, "input_per_mtok")?,
        output_per_mtok: row::micros(row, "output_per_mtok")?,
        per_call: row::micros(row, "per_call")?,
        effective_from: row::time(row, "effective_from")?,
    })
}
