//! A tenant that is ready to be talked to.

use std::collections::BTreeSet;

use qudao_billing::Rates;
use qudao_domain::{
    AssistantId, ChannelId, Currency, Micros, RouteId, TenantId,
    access::Scopes,
    key::{ApiKey, random_secret},
    routing::Routing,
    state::FairCharging,
    text::{IdempotencyKey, Name, SystemPrompt},
};
use qudao_storage::{
    CreditSource, ModelPrice, NewApiKey, NewAssistant, NewChannel, NewCredit, NewRoute, NewTenant,
    Store,
};
use serde_json::{Value, json};

/// A tenant with credits, a route, an assistant, a web channel and an API key.
#[derive(Debug, Clone)]
pub struct TestTenant {
    /// The tenant.
    pub id: TenantId,
    /// What it pays in.
    pub currency: Currency,
    /// Which models answer.
    pub route_id: RouteId,
    /// Who answers.
    pub assistant_id: AssistantId,
    /// The web channel.
    pub channel_id: ChannelId,
    /// Under which key strangers find the web channel.
    pub public_key: String,
    /// A key with every scope.
    pub api_key: ApiKey,
}

impl TestTenant {
    /// A tenant that the test need not know more about: 100 CNY, the model `fake`.
    pub fn builder() -> TenantBuilder {
        TenantBuilder {
            name: "Test tenant".to_owned(),
            currency: Currency::CNY,
            locale: "en".to_owned(),
            fair_charging: FairCharging::BillDelivered,
            credits: Micros::new(100 * Micros::UNIT.get()),
            models: vec!["fake".to_owned()],
            routing: Routing::default(),
            prompt: "You help.".to_owned(),
            params: json!({}),
            rates: None,
        }
    }
}

/// What to make.
#[derive(Debug, Clone)]
#[must_use = "a builder makes nothing until `create`"]
pub struct TenantBuilder {
    name: String,
    currency: Currency,
    locale: String,
    fair_charging: FairCharging,
    credits: Micros,
    models: Vec<String>,
    routing: Routing,
    prompt: String,
    params: Value,
    rates: Option<Rates>,
}

impl TenantBuilder {
    /// What it is called.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// What it pays in.
    pub fn currency(mut self, currency: Currency) -> Self {
        self.currency = currency;
        self
    }

    /// The language of what the platform says.
    pub fn locale(mut self, locale: &str) -> Self {
        locale.clone_into(&mut self.locale);
        self
    }

    /// What it pays for when a reply is cut short.
    pub fn fair_charging(mut self, policy: FairCharging) -> Self {
        self.fair_charging = policy;
        self
    }

    /// What it has to spend; nothing is an empty wallet.
    pub fn credits(mut self, credits: Micros) -> Self {
        self.credits = credits;
        self
    }

    /// Which models answer, the preferred first.
    pub fn models(mut self, models: &[&str]) -> Self {
        self.models = models.iter().map(|model| (*model).to_owned()).collect();
        self
    }

    /// The rules of its route, as JSON.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn routing(mut self, routing: Value) -> Self {
        self.routing = serde_json::from_value(routing).expect("a route's rules");
        self
    }

    /// What the assistant is told.
    pub fn prompt(mut self, prompt: &str) -> Self {
        prompt.clone_into(&mut self.prompt);
        self
    }

    /// The assistant's sampling parameters.
    pub fn params(mut self, params: Value) -> Self {
        self.params = params;
        self
    }

    /// What each of the models costs, in the tenant's currency.
    pub fn rates(mut self, rates: Rates) -> Self {
        self.rates = Some(rates);
        self
    }

    /// Makes it.
    ///
    /// # Panics
    /// If the database refuses.
    pub async fn create(self, store: &Store) -> TestTenant {
        let name = Name::parse(&self.name).expect("a name");
        let tenant = NewTenant {
            name: name.clone(),
            currency: self.currency,
            locale: self.locale.clone(),
            fair_charging: self.fair_charging,
        };
        let id = store.create_tenant(&tenant).await.expect("a tenant").id;
        if let Some(rates) = self.rates {
            let price = |model: String| ModelPrice { model, currency: self.currency, rates };
            let named = self.routing.models().map(str::to_owned);
            let names: BTreeSet<_> = self.models.iter().cloned().chain(named).collect();
            let prices: Vec<ModelPrice> = names.into_iter().map(price).collect();
            store.sync_prices(&prices).await.expect("prices");
        }
        let public_key = format!("wk_{}", &random_secret()[..22]);
        let api_key = ApiKey::generate();
        let mut tx = store.begin(id).await.expect("a transaction");
        if Micros::ZERO < self.credits {
            let credit = NewCredit {
                idempotency_key: IdempotencyKey::parse("test-credits").expect("a key"),
                amount: self.credits,
                source: CreditSource::Cash,
                note: String::new(),
            };
            tx.add_credit(&credit).await.expect("credits");
        }
        let route = NewRoute { name: name.clone(), models: self.models, routing: self.routing };
        let route_id = tx.create_route(&route).await.expect("a route").id;
        let assistant = NewAssistant {
            name: name.clone(),
            system_prompt: SystemPrompt::parse(&self.prompt).expect("a prompt"),
            greeting: String::new(),
            params: self.params,
            route_id,
        };
        let assistant_id = tx.create_assistant(&assistant).await.expect("an assistant").id;
        let channel = NewChannel::web(name.clone(), public_key.clone(), assistant_id, self.locale);
        let channel_id = tx.create_channel(&channel).await.expect("a channel").id;
        let key = NewApiKey::new(name, &api_key, Scopes::ALL);
        tx.create_api_key(&key).await.expect("an API key");
        tx.commit().await.expect("all of it is kept");
        let currency = self.currency;
        TestTenant { id, currency, route_id, assistant_id, channel_id, public_key, api_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TestDb;

    #[tokio::test]
    async fn a_tenant_has_its_credits_and_its_doors() {
        let db = TestDb::new().await;
        let store = db.store();
        let tenant = TestTenant::builder().credits(Micros::UNIT).create(&store).await;
        let mut tx = store.begin(tenant.id).await.unwrap();
        assert_eq!(tx.wallet().await.unwrap().unwrap().available(), Micros::UNIT);
        drop(tx);
        let door = store.find_channel_by_public_key(&tenant.public_key).await.unwrap().unwrap();
        assert_eq!((door.tenant_id, door.channel_id), (tenant.id, tenant.channel_id));
        let holder = store.find_api_key(tenant.api_key.id()).await.unwrap().unwrap();
        assert!(holder.secret_hash.matches(&tenant.api_key.hash()));
    }
}
