//! A tenant that chats, in as few words as a test needs.

use std::time::Duration;

use qudao_billing::Rates;
use qudao_domain::{
    ChannelId, ConversationId, DecisionId, Micros, NodeId, TurnId,
    routing::Arm,
    state::{EndReason, FairCharging},
    text::ExternalId,
};
use qudao_storage::{
    Accept, Claim, Commit, CommitTurn, EndTurn, Finding, Hold, HoldTurn, Inbound, MessageBody,
    NewDecision, OutboxClaim, ReplyBody, Store, StoreSettings, UsageLine,
};
use qudao_testkit::{TestDb, TestTenant, connect};
use serde_json::json;

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const MODEL: &str = "fake";

pub(crate) struct World {
    pub(crate) db: TestDb,
    pub(crate) store: Store,
    pub(crate) tenant: TestTenant,
    pub(crate) price_version: i64,
    pub(crate) node: NodeId,
}

pub(crate) fn external(text: &str) -> ExternalId {
    ExternalId::parse(text).unwrap()
}

impl World {
    /// A tenant with 100 units.
    pub(crate) async fn new() -> Self {
        Self::with_credits(Micros::new(100 * Micros::UNIT.get())).await
    }

    pub(crate) async fn with_credits(credits: Micros) -> Self {
        let db = TestDb::new().await;
        let store = db.store();
        let rates = Rates {
            input_per_mtok: Micros::UNIT,
            output_per_mtok: Micros::UNIT,
            per_call: Micros::ZERO,
        };
        let tenant = TestTenant::builder().credits(credits).rates(rates).create(&store).await;
        let price_version = store.prices().await.unwrap()[0].version;
        Self { db, store, tenant, price_version, node: NodeId::new() }
    }

    /// A store for many who come at once: on a busy machine they wait for each other longer than a
    /// node would.
    pub(crate) async fn patient_store(&self) -> Store {
        let patience = Duration::from_secs(30);
        let settings = StoreSettings {
            max_connections: 8,
            acquire_timeout: patience,
            statement_timeout: patience,
            lock_timeout: patience,
            ..StoreSettings::new(self.db.url())
        };
        connect(settings).await
    }

    /// Another tenant on the same database.
    pub(crate) async fn other_tenant(&self) -> TestTenant {
        TestTenant::builder().name("Rival").create(&self.store).await
    }

    pub(crate) fn inbound(&self, peer: &str, id: &str) -> Inbound {
        Inbound {
            channel_id: self.tenant.channel_id,
            external_id: external(id),
            peer: external(peer),
            body: MessageBody::text(format!("text of {id}")),
        }
    }

    pub(crate) async fn say(&self, peer: &str, id: &str) -> Accept {
        let message = (self.tenant.id, self.inbound(peer, id));
        self.store.accept_together(&[message]).await.unwrap()[0]
    }

    /// A message to another tenant.
    pub(crate) async fn say_to(&self, tenant: &TestTenant, peer: &str, id: &str) -> Accept {
        let inbound = Inbound { channel_id: tenant.channel_id, ..self.inbound(peer, id) };
        let mut tx = self.store.begin(tenant.id).await.unwrap();
        let accept = tx.accept(&inbound).await.unwrap();
        tx.commit().await.unwrap();
        accept
    }

    /// So many conversations of this tenant, each with a message that waited longer than any other.
    pub(crate) async fn flood(&self, conversations: u32) {
        self.say("flood", "flood").await;
        self.db.psql(&format!(
            "INSERT INTO conversations \
                 (tenant_id, conversation_id, channel_id, contact_id, peer, last_seq, ready_at) \
             SELECT tenant_id, gen_random_uuid(), channel_id, contact_id, 'flood ' || n, 1, \
                 now() - interval '1 hour' \
             FROM conversations, generate_series(2, {conversations}) n; \
             ANALYZE conversations"
        ));
    }

    pub(crate) async fn claim(&self) -> Vec<Claim> {
        self.store.claim_conversations(self.node, 64, LEASE).await.unwrap()
    }

    /// The one conversation that waits.
    pub(crate) async fn claim_one(&self) -> Claim {
        let claims = self.claim().await;
        assert_eq!(claims.len(), 1, "{claims:?}");
        claims[0]
    }

    pub(crate) async fn hold(&self, claim: &Claim, amount: i64) -> Hold {
        let hold = HoldTurn {
            conversation_id: claim.conversation_id,
            epoch: claim.epoch,
            turn_id: turn_of(claim),
            amount: Micros::new(amount),
            currency: self.tenant.currency,
            model: MODEL.to_owned(),
        };
        self.store.hold_turn(self.tenant.id, &hold).await.unwrap()
    }

    pub(crate) fn usage(&self, turn_id: TurnId, channel_id: ChannelId, charge: i64) -> UsageLine {
        UsageLine {
            turn_id,
            channel_id,
            api_key_id: None,
            conversation_id: None,
            model: MODEL.to_owned(),
            price_version: self.price_version,
            input_tokens: 10,
            output_tokens: 20,
            delivered_tokens: 20,
            charge: Micros::new(charge),
            absorbed: Micros::ZERO,
            currency: self.tenant.currency,
            policy: FairCharging::BillDelivered,
            end_reason: EndReason::Stop,
            kept: None,
        }
    }

    pub(crate) fn reply(&self, claim: &Claim, charge: i64) -> CommitTurn {
        let mut usage = self.usage(turn_of(claim), self.tenant.channel_id, charge);
        usage.conversation_id = Some(claim.conversation_id);
        CommitTurn {
            conversation_id: claim.conversation_id,
            epoch: claim.epoch,
            turn_id: turn_of(claim),
            to_seq: claim.to_seq,
            reply: ReplyBody::text("an answer"),
            usage,
            decision: self.decision(turn_of(claim), Some(claim.conversation_id)),
        }
    }

    pub(crate) fn decision(
        &self,
        turn_id: TurnId,
        conversation_id: Option<ConversationId>,
    ) -> NewDecision {
        NewDecision {
            id: DecisionId::new(),
            turn_id,
            route_id: self.tenant.route_id,
            conversation_id,
            model: Some(MODEL.to_owned()),
            fallbacks: 0,
            arm: Arm::Stable,
            failed: Some(false),
            latency: Some(Duration::from_millis(40)),
            body: json!({}),
        }
    }

    pub(crate) async fn commit(&self, claim: &Claim, charge: i64) -> Commit {
        self.store.commit_turn(self.tenant.id, &self.reply(claim, charge)).await.unwrap()
    }

    pub(crate) fn ending(&self, claim: &Claim) -> EndTurn {
        EndTurn {
            conversation_id: claim.conversation_id,
            epoch: claim.epoch,
            turn_id: turn_of(claim),
            to_seq: claim.to_seq,
            notice: ReplyBody::text("a notice"),
        }
    }

    /// A whole turn: said, claimed, held, answered.
    pub(crate) async fn chat(&self, peer: &str, id: &str) {
        self.say(peer, id).await;
        let claim = self.claim_one().await;
        assert!(matches!(self.hold(&claim, 1000).await, Hold::Held { .. }));
        assert!(matches!(self.commit(&claim, 700).await, Commit::Done { .. }));
    }

    /// Sends all that waits.
    pub(crate) async fn deliver(&self) -> usize {
        let claims = self.store.claim_outbox(self.node, 64, LEASE).await.unwrap();
        for claim in &claims {
            self.finish(claim).await;
        }
        claims.len()
    }

    /// Whether another message of the conversation was waiting behind this one.
    pub(crate) async fn finish(&self, claim: &OutboxClaim) -> bool {
        let sent = (claim.tenant_id, claim.outbox_id, claim.epoch);
        self.store.finish_deliveries(&[sent]).await.unwrap()
    }

    /// What the tenant has and what of it is held.
    pub(crate) async fn wallet(&self) -> (i64, i64) {
        let mut tx = self.store.begin(self.tenant.id).await.unwrap();
        let wallet = tx.wallet().await.unwrap().unwrap();
        (wallet.posted.get(), wallet.held.get())
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.db.psql(sql).trim().parse().unwrap()
    }

    pub(crate) async fn violated(&self) -> Vec<Finding> {
        let findings = self.store.check().await.unwrap();
        findings.into_iter().filter(|finding| finding.violations != 0).collect()
    }

    /// Nothing is wrong, whatever is still under way.
    pub(crate) async fn assert_sound(&self) {
        let mut bad = self.violated().await;
        bad.retain(|finding| finding.scope == qudao_storage::Scope::Always);
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

pub(crate) fn turn_of(claim: &Claim) -> TurnId {
    TurnId::derive(claim.conversation_id, claim.from_seq)
}
