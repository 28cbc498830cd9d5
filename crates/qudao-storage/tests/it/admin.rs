use qudao_billing::Rates;
use qudao_domain::{
    Currency, Micros, TenantId, key::ApiKey, routing::Routing, text::IdempotencyKey,
};
use qudao_storage::{
    CreditOutcome, CreditSource, ModelPrice, NewCredit, NewRoute, Page, StorageError,
};

use crate::{accept::join_all, world::World};

fn credit(key: &str, amount: i64) -> NewCredit {
    NewCredit {
        idempotency_key: IdempotencyKey::parse(key).unwrap(),
        amount: Micros::new(amount),
        source: CreditSource::Cash,
        note: String::new(),
    }
}

async fn add(world: &World, credit: &NewCredit) -> CreditOutcome {
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let outcome = tx.add_credit(credit).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

#[tokio::test]
async fn a_payment_that_is_reported_many_times_at_once_counts_once() {
    let world = World::with_credits(Micros::ZERO).await;
    let payment = credit("order 1", 500);
    let outcomes = join_all((0..8).map(|_| add(&world, &payment))).await;
    let added = outcomes.iter().filter(|o| matches!(o, CreditOutcome::Added { .. })).count();
    assert_eq!(added, 1, "{outcomes:?}");
    assert_eq!(add(&world, &credit("order 1", 501)).await, CreditOutcome::KeyReused);
    assert_eq!(world.wallet().await, (500, 0));
    world.assert_sound().await;
}

#[tokio::test]
async fn two_tenants_may_use_the_same_key_for_their_payments() {
    let mut world = World::with_credits(Micros::ZERO).await;
    let payment = credit("order 1", 500);
    assert!(matches!(add(&world, &payment).await, CreditOutcome::Added { .. }));
    world.tenant = world.other_tenant().await;
    assert!(matches!(add(&world, &payment).await, CreditOutcome::Added { .. }));
}

#[tokio::test]
async fn credits_for_nobody_are_refused() {
    let world = World::new().await;
    let mut tx = world.store.begin(TenantId::new()).await.unwrap();
    let error = tx.add_credit(&credit("order 1", 1)).await.unwrap_err();
    assert!(matches!(error, StorageError::MissingParent { .. }), "{error:?}");
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    let error = tx.add_credit(&credit("order 2", 0)).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_show_every_item_once_the_newest_first() {
    let world = World::new().await;
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    for n in 0..6 {
        let name = qudao_domain::text::Name::parse(&format!("route {n}")).unwrap();
        tx.create_route(&NewRoute {
            name,
            models: vec!["fake".to_owned()],
            routing: Routing::default(),
        })
        .await
        .unwrap();
    }
    let (mut names, mut page) = (Vec::new(), Page::first(3));
    loop {
        let listing = tx.list_routes(&page).await.unwrap();
        assert!(listing.items.len() <= 3);
        names.extend(listing.items.into_iter().map(|route| route.name));
        let Some(next) = listing.next else { break };
        page.cursor = Some(next);
    }
    let mut expected: Vec<_> = (0..6).rev().map(|n| format!("route {n}")).collect();
    expected.push("Test tenant".to_owned());
    assert_eq!(names, expected);

    page.cursor = Some("no cursor".to_owned());
    assert!(matches!(tx.list_routes(&page).await, Err(StorageError::BadCursor)));
    assert!(matches!(tx.list_ledger(&page).await, Err(StorageError::BadCursor)));
}

#[tokio::test]
async fn every_list_pages_over_what_there_is() {
    let world = World::new().await;
    for n in 0..3 {
        world.chat(&format!("peer {n}"), &format!("m{n}")).await;
    }
    world.other_tenant().await;
    let page = Page::first(1);
    let tenants = world.store.list_tenants(&page).await.unwrap();
    assert_eq!((&*tenants.items[0].name, tenants.next.is_some()), ("Rival", true));
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.list_channels(&page).await.unwrap().next.is_some());
    assert!(tx.list_assistants(&page).await.unwrap().next.is_none());
    assert_eq!(tx.list_api_keys(&page).await.unwrap().items.len(), 1);
    assert_eq!(tx.list_conversations(&page, None).await.unwrap().items[0].peer, "peer 2");
    let usage = tx.list_usage(&page).await.unwrap();
    let second = tx.list_usage(&Page { limit: 1, cursor: usage.next }).await.unwrap();
    assert_ne!(usage.items[0].turn_id, second.items[0].turn_id);
    assert_eq!(usage.items[0].charge, Micros::new(700));
    let ledger = tx.list_ledger(&Page::first(200)).await.unwrap();
    assert_eq!(ledger.items.len(), 8);
    assert_eq!(ledger.items.iter().map(|entry| entry.amount).sum::<Micros>(), Micros::ZERO);
}

#[tokio::test]
async fn a_revoked_key_is_found_as_revoked() {
    let world = World::new().await;
    let key = world.tenant.api_key.id();
    assert!(world.store.find_api_key(key).await.unwrap().unwrap().revoked_at.is_none());
    let mut tx = world.store.begin(world.tenant.id).await.unwrap();
    assert!(tx.revoke_api_key(key).await.unwrap());
    tx.commit().await.unwrap();
    let holder = world.store.find_api_key(key).await.unwrap().unwrap();
    assert!(holder.revoked_at.is_some());
    assert!(holder.secret_hash.matches(&world.tenant.api_key.hash()));
    assert!(world.store.find_api_key(ApiKey::generate().id()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_price_gets_a_new_version_only_when_it_changes() {
    let world = World::new().await;
    let price = |output| ModelPrice {
        model: "other".to_owned(),
        currency: Currency::CNY,
        rates: Rates {
            input_per_mtok: Micros::new(1),
            output_per_mtok: Micros::new(output),
            per_call: Micros::ZERO,
        },
    };
    assert_eq!(world.store.sync_prices(&[price(5)]).await.unwrap(), 1);
    assert_eq!(world.store.sync_prices(&[price(5)]).await.unwrap(), 0);
    assert_eq!(world.store.sync_prices(&[price(6)]).await.unwrap(), 1);
    assert_eq!(world.store.sync_prices(&[price(5)]).await.unwrap(), 1);
    let prices = world.store.prices().await.unwrap();
    let present: Vec<_> = prices.iter().filter(|row| row.model == "other").collect();
    assert_eq!(present.len(), 1);
    assert_eq!(present[0].rates(), price(5).rates);
}
