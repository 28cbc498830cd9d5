//! What routes may name, as tenants see it.

use std::{sync::Arc, time::Duration};

use qudao_domain::{Currency, routing::Health};
use qudao_plugin_host::{DataClass, ModelKind};
use qudao_storage::{PriceRow, StorageError};

use crate::Core;

/// A model that is for sale in a currency, and how it does on this node.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its name.
    pub model: String,
    /// What it does.
    pub kind: ModelKind,
    /// Whether words leave the machine.
    pub data_class: DataClass,
    /// Whether it serves, as a word: why it does not is for the operator.
    pub state: &'static str,
    /// What it costs.
    pub price: Arc<PriceRow>,
    /// How its breaker is.
    pub health: Health,
    /// When it is tried again, if it is left alone.
    pub open_for: Option<Duration>,
}

impl Core {
    /// The models that this node offers for this currency, by name. One without a price is not listed:
    /// it is not for sale.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn offers(&self, currency: Currency) -> Result<Vec<Offer>, StorageError> {
        let mut offers = Vec::new();
        for report in self.plugins.models() {
            let Some(price) = self.price(&report.name, currency).await? else { continue };
            let (health, open_for) = self.routes.breakers.standing(&report.name);
            offers.push(Offer {
                model: report.name,
                kind: report.kind,
                data_class: report.data_class,
                state: report.state.as_str(),
                price,
                health,
                open_for,
            });
        }
        Ok(offers)
    }
}
