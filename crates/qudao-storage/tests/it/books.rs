//! Any sequence of steps that move money leaves the wallet where plain arithmetic does.
//!
//! `QUDAO_BOOKS_SEQUENCES=2000` makes it long; each sequence has a tenant of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use qudao_domain::{BlockId, ChannelId, Micros, TurnId, text::IdempotencyKey};
use qudao_storage::{
    Accept, Claim, Commit, CreditOutcome, CreditSource, Extend, Hold, NewCredit, ReverseOutcome,
    Settle, StorageError, Tx, UsageLine,
};
use qudao_testkit::TestTenant;

use crate::world::{LEASE, World};

/// Something that moves money, or tries to. Blocks, calls and people are named by small numbers,
/// so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Credit {
        key: u8,
        amount: i64,
    },
    /// A payment is given back.
    Reverse {
        key: u8,
    },
    Reserve {
        block: u8,
        least: i64,
        more: i64,
    },
    Extend {
        block: u8,
        more: i64,
    },
    Settle {
        block: u8,
        calls: Vec<(u8, i64, i64)>,
    },
    Absorb {
        call: u8,
        absorbed: i64,
    },
    Close {
        block: u8,
    },
    /// The node is gone, and its lease with it.
    Lapse {
        block: u8,
    },
    Hold {
        person: u8,
        amount: i64,
    },
    Commit {
        person: u8,
        charge: i64,
        absorbed: i64,
    },
    Void {
        person: u8,
        buried: bool,
    },
    /// Another node takes the conversation over.
    TakeOver {
        person: u8,
    },
    /// The node that had it comes back.
    StaleCommit {
        person: u8,
    },
    /// A transaction that is given up.
    RollBack {
        block: u8,
        amount: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (block, person, call) = (0..3_u8, 0..2_u8, 0..8_u8);
    let calls = prop::collection::vec((call.clone(), 0..120_i64, 0..20_i64), 1..5);
    prop_oneof![
        3 => (0..4_u8, 1..500_i64).prop_map(|(key, amount)| Step::Credit { key, amount }),
        1 => (0..4_u8).prop_map(|key| Step::Reverse { key }),
        3 => (block.clone(), 1..150_i64, 0..200_i64)
            .prop_map(|(block, least, more)| Step::Reserve { block, least, more }),
        2 => (block.clone(), 0..200_i64).prop_map(|(block, more)| Step::Extend { block, more }),
        4 => (block.clone(), calls).prop_map(|(block, calls)| Step::Settle { block, calls }),
        1 => (call, 0..50_i64).prop_map(|(call, absorbed)| Step::Absorb { call, absorbed }),
        1 => block.clone().prop_map(|block| Step::Close { block }),
        1 => block.clone().prop_map(|block| Step::Lapse { block }),
        4 => (person.clone(), 1..250_i64)
            .prop_map(|(person, amount)| Step::Hold { person, amount }),
        3 => (person.clone(), 0..250_i64, 0..20_i64)
            .prop_map(|(person, charge, absorbed)| Step::Commit { person, charge, absorbed }),
        1 => (person.clone(), any::<bool>())
            .prop_map(|(person, buried)| Step::Void { person, buried }),
        1 => person.clone().prop_map(|person| Step::TakeOver { person }),
        1 => person.prop_map(|person| Step::StaleCommit { person }),
        1 => (block, 1..100_i64).prop_map(|(block, amount)| Step::RollBack { block, amount }),
    ]
}

/// The books as arithmetic.
#[derive(Debug, Default)]
struct Books {
    posted: i64,
    held: i64,
    keys: BTreeMap<u8, i64>,
    reversed: BTreeSet<u8>,
    blocks: BTreeMap<u8, Block>,
    calls: BTreeMap<u8, TurnId>,
    settled: BTreeSet<u8>,
    people: BTreeMap<u8, Person>,
    charged: i64,
    absorbed: i64,
    messages: u32,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    id: BlockId,
    amount: i64,
    settled: i64,
    open: bool,
}

#[derive(Debug, Default)]
struct Person {
    claim: Option<Claim>,
    stale: Option<Claim>,
    hold: Option<i64>,
}

impl Books {
    fn available(&self) -> i64 {
        self.posted - self.held
    }

    /// Gives back what is left of a block.
    fn close(&mut self, block: u8) -> bool {
        let Some(block) = self.blocks.get_mut(&block).filter(|block| block.open) else {
            return false;
        };
        block.open = false;
        self.held -= block.amount - block.settled;
        true
    }
}

/// The database beside its model.
struct Bench<'a> {
    world: &'a World,
    api_channel: ChannelId,
    books: Books,
}

impl Bench<'_> {
    async fn begin(&self) -> Tx {
        self.world.store.begin(self.world.tenant.id).await.unwrap()
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Credit { key, amount } => self.credit(key, amount).await,
            Step::Reverse { key } => self.reverse(key).await,
            Step::Reserve { block, least, more } => self.reserve(block, least, least + more).await,
            Step::Extend { block, more } => self.extend(block, more).await,
            Step::Settle { block, ref calls } => self.settle(block, calls).await,
            Step::Absorb { call, absorbed } => self.absorb(call, absorbed).await,
            Step::Close { block } => {
                if let Some(id) = self.books.blocks.get(&block).map(|block| block.id) {
                    let mut tx = self.begin().await;
                    let closed = tx.close_block(id).await.unwrap();
                    tx.commit().await.unwrap();
                    assert_eq!(closed, self.books.close(block));
                }
            }
            Step::Lapse { block } => {
                if let Some(id) = self.books.blocks.get(&block).map(|block| block.id.as_uuid()) {
                    self.world.db.psql(&format!(
                        "UPDATE holds SET lease_until = now() - interval '1 second' \
                         WHERE hold_id = '{id}'"
                    ));
                    self.world.store.sweep().await.unwrap();
                    self.books.close(block);
                }
            }
            Step::Hold { person, amount } => self.hold(person, amount).await,
            Step::Commit { person, charge, absorbed } => {
                self.commit(person, charge, absorbed).await;
            }
            Step::Void { person, buried } => self.void(person, buried).await,
            Step::TakeOver { person } => self.take_over(person).await,
            Step::StaleCommit { person } => self.stale_commit(person).await,
            Step::RollBack { block, amount } => self.roll_back(block, amount).await,
        }
    }

    async fn credit(&mut self, key: u8, amount: i64) {
        let credit = NewCredit {
            idempotency_key: IdempotencyKey::parse(&format!("key-{key}")).unwrap(),
            amount: Micros::new(amount),
            source: CreditSource::Cash,
            note: String::new(),
        };
        let mut tx = self.begin().await;
        let outcome = tx.add_credit(&credit).await.unwrap();
        tx.commit().await.unwrap();
        match self.books.keys.get(&key) {
            None => {
                assert!(matches!(outcome, CreditOutcome::Added { .. }));
                self.books.keys.insert(key, amount);
                self.books.posted += amount;
            }
            Some(before) if *before == amount => {
                assert!(matches!(outcome, CreditOutcome::Repeated { .. }));
            }
            Some(_) => assert_eq!(outcome, CreditOutcome::KeyReused),
        }
    }

    async fn reverse(&mut self, key: u8) {
        let mut tx = self.begin().await;
        let name = IdempotencyKey::parse(&format!("key-{key}")).unwrap();
        let outcome = tx.reverse_credit(&name).await.unwrap();
        tx.commit().await.unwrap();
        let expected = match self.books.keys.get(&key) {
            None => ReverseOutcome::Unknown,
            Some(_) if !self.books.reversed.insert(key) => ReverseOutcome::Repeated,
            Some(amount) => {
                let taken = self.books.available().min(*amount);
                self.books.posted -= taken;
                ReverseOutcome::Reversed { taken: Micros::new(taken) }
            }
        };
        assert_eq!(outcome, expected);
    }

    async fn reserve(&mut self, block: u8, least: i64, most: i64) {
        let open = self.books.blocks.get(&block).copied().filter(|block| block.open);
        let id = open.map_or_else(BlockId::new, |block| block.id);
        let mut tx = self.begin().await;
        let (low, high) = (Micros::new(least), Micros::new(most));
        let node = self.world.node;
        let reserved = tx.reserve_block_up_to(id, node, low, high, LEASE).await.unwrap();
        tx.commit().await.unwrap();
        // A repetition finds the block as it is.
        let Some(open) = open else {
            let amount = most.min(self.books.available());
            let expected = (least <= amount).then_some(amount);
            assert_eq!(reserved.map(Micros::get), expected);
            if let Some(amount) = expected {
                self.books.held += amount;
                let made = Block { id, amount, settled: 0, open: true };
                self.books.blocks.insert(block, made);
            }
            return;
        };
        assert_eq!(reserved.map(Micros::get), Some(open.amount));
    }

    async fn extend(&mut self, block: u8, more: i64) {
        let available = self.books.available();
        let Some(block) = self.books.blocks.get_mut(&block) else { return };
        let expected = if !block.open {
            Extend::Gone
        } else if more <= available {
            block.amount += more;
            self.books.held += more;
            Extend::Extended
        } else {
            Extend::NoFunds
        };
        let id = block.id;
        let mut tx = self.begin().await;
        assert_eq!(tx.extend_block(id, Micros::new(more), LEASE).await.unwrap(), expected);
        tx.commit().await.unwrap();
    }

    fn line(&mut self, call: u8, charge: i64, absorbed: i64) -> UsageLine {
        let turn_id = *self.books.calls.entry(call).or_insert_with(TurnId::new);
        let mut line = self.world.usage(turn_id, self.api_channel, charge);
        line.absorbed = Micros::new(absorbed);
        line
    }

    async fn settle(&mut self, block: u8, calls: &[(u8, i64, i64)]) {
        let Some(held) = self.books.blocks.get(&block).copied() else { return };
        let calls: BTreeMap<u8, (i64, i64)> =
            calls.iter().map(|(call, charge, absorbed)| (*call, (*charge, *absorbed))).collect();
        let lines: Vec<_> =
            calls.iter().map(|(call, (charge, more))| self.line(*call, *charge, *more)).collect();
        let mut tx = self.begin().await;
        let settled = tx.settle_calls(held.id, &lines).await;
        let fresh: Vec<_> =
            calls.iter().filter(|(call, _)| !self.books.settled.contains(call)).collect();
        let charge: i64 = fresh.iter().map(|(_, (charge, _))| charge).sum();
        if !held.open {
            let expected = if fresh.is_empty() { Settle::Done } else { Settle::Fenced };
            assert_eq!(settled.unwrap(), expected);
            tx.commit().await.unwrap();
            return;
        }
        if held.amount < held.settled + charge {
            assert!(matches!(settled, Err(StorageError::Refused { .. })), "{settled:?}");
            return;
        }
        assert_eq!(settled.unwrap(), Settle::Done);
        tx.commit().await.unwrap();
        self.books.absorbed += fresh.iter().map(|(_, (_, absorbed))| absorbed).sum::<i64>();
        let fresh: Vec<u8> = fresh.iter().map(|(call, _)| **call).collect();
        self.books.settled.extend(fresh);
        self.books.blocks.insert(block, Block { settled: held.settled + charge, ..held });
        self.books.posted -= charge;
        self.books.held -= charge;
        self.books.charged += charge;
    }

    async fn absorb(&mut self, call: u8, absorbed: i64) {
        let line = self.line(call, 0, absorbed);
        let mut tx = self.begin().await;
        tx.absorb_calls(&[line]).await.unwrap();
        tx.commit().await.unwrap();
        if self.books.settled.insert(call) {
            self.books.absorbed += absorbed;
        }
    }

    /// The claim that this person's conversation is under, after a message if there is none.
    async fn claim(&mut self, person: u8) -> Option<Claim> {
        if let Some(claim) = self.books.people.entry(person).or_default().claim {
            return Some(claim);
        }
        self.books.messages += 1;
        let (peer, id) = (format!("p{person}"), format!("m{}", self.books.messages));
        let conversation = match self.world.say(&peer, &id).await {
            Accept::New { conversation_id, .. } => conversation_id,
            other => {
                assert_eq!((other, self.books.posted), (Accept::NoFunds, 0));
                return None;
            }
        };
        let claims = self.world.claim().await;
        let claim = claims.into_iter().find(|claim| claim.conversation_id == conversation);
        self.books.people.entry(person).or_default().claim = claim;
        assert!(claim.is_some());
        claim
    }

    async fn hold(&mut self, person: u8, amount: i64) {
        let Some(claim) = self.claim(person).await else { return };
        let before = self.books.people[&person].hold;
        let wanted = before.map_or(amount, |before| before.max(amount));
        let more = wanted - before.unwrap_or_default();
        let expected = if self.books.available() < more {
            Hold::NoFunds
        } else if before.is_some() {
            Hold::Found { amount: Micros::new(wanted) }
        } else {
            Hold::Held { amount: Micros::new(wanted) }
        };
        assert_eq!(self.world.hold(&claim, amount).await, expected);
        if expected != Hold::NoFunds {
            self.books.held += more;
            self.books.people.entry(person).or_default().hold = Some(wanted);
        }
    }

    async fn commit(&mut self, person: u8, charge: i64, absorbed: i64) {
        let Some(Person { claim: Some(claim), hold, .. }) = self.books.people.get(&person) else {
            return;
        };
        let (claim, hold) = (*claim, *hold);
        let mut commit = self.world.reply(&claim, charge);
        commit.usage.absorbed = Micros::new(absorbed);
        let outcome = self.world.store.commit_turn(self.world.tenant.id, &commit).await;
        match hold {
            None => assert!(matches!(outcome, Err(StorageError::Inconsistent { .. }))),
            Some(hold) if hold < charge => {
                assert!(matches!(outcome, Err(StorageError::Refused { .. })), "{outcome:?}");
            }
            Some(hold) => {
                assert!(matches!(outcome, Ok(Commit::Done { .. })), "{outcome:?}");
                self.books.held -= hold;
                self.books.posted -= charge;
                self.books.charged += charge;
                self.books.absorbed += absorbed;
                let ended = Person { stale: Some(claim), ..Person::default() };
                self.books.people.insert(person, ended);
            }
        }
    }

    async fn void(&mut self, person: u8, buried: bool) {
        let Some(Person { claim: Some(claim), hold, .. }) = self.books.people.get(&person) else {
            return;
        };
        let (claim, hold) = (*claim, *hold);
        let end = self.world.ending(&claim);
        let mut tx = self.begin().await;
        let ended =
            if buried { tx.bury_turn(&end).await } else { tx.reject_turn(&end).await }.unwrap();
        tx.commit().await.unwrap();
        assert!(matches!(ended, Commit::Done { .. }));
        self.books.held -= hold.unwrap_or_default();
        let ended = Person { stale: Some(claim), ..Person::default() };
        self.books.people.insert(person, ended);
    }

    async fn take_over(&mut self, person: u8) {
        let Some(Person { claim: Some(claim), hold, .. }) = self.books.people.get(&person) else {
            return;
        };
        let (claim, hold) = (*claim, *hold);
        let id = claim.conversation_id.as_uuid();
        self.world.db.psql(&format!(
            "UPDATE conversations SET ready_at = now(), lease_until = now() \
             WHERE conversation_id = '{id}'"
        ));
        let claims = self.world.claim().await;
        let taken = claims.into_iter().find(|next| next.conversation_id == claim.conversation_id);
        assert_eq!(taken.unwrap().epoch, claim.epoch + 1);
        self.books.people.insert(person, Person { claim: taken, stale: Some(claim), hold });
    }

    async fn stale_commit(&mut self, person: u8) {
        let Some(stale) = self.books.people.get(&person).and_then(|person| person.stale) else {
            return;
        };
        assert_eq!(self.world.commit(&stale, 1).await, Commit::Fenced);
        assert_eq!(self.world.hold(&stale, 1).await, Hold::Fenced);
    }

    async fn roll_back(&mut self, block: u8, amount: i64) {
        let mut tx = self.begin().await;
        let (amount, node) = (Micros::new(amount), self.world.node);
        tx.reserve_block(BlockId::new(), node, amount, LEASE).await.unwrap();
        if let Some(block) = self.books.blocks.get(&block) {
            tx.extend_block(block.id, Micros::new(1), LEASE).await.unwrap();
            tx.close_block(block.id).await.unwrap();
        }
        tx.rollback().await.unwrap();
    }

    /// Ends what is open.
    async fn wind_up(&mut self) {
        for block in 0..3 {
            self.take(&Step::Close { block }).await;
        }
        for person in 0..2 {
            self.take(&Step::Void { person, buried: true }).await;
        }
    }

    async fn compare(&self, after: &str) -> Result<(), TestCaseError> {
        let found = self.world.wallet().await;
        prop_assert_eq!(found, (self.books.posted, self.books.held), "after {}", after);
        prop_assert!(0 <= self.books.available(), "after {after}: {:?}", self.books);
        Ok(())
    }
}

async fn play(world: &World, api_channel: ChannelId, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut bench = Bench { world, api_channel, books: Books::default() };
    for step in steps {
        bench.take(step).await;
        bench.compare(&format!("{step:?}")).await?;
    }
    bench.wind_up().await;
    bench.compare("the end").await?;
    prop_assert_eq!(bench.books.held, 0);
    let sums = world.db.psql(&format!(
        "SELECT COALESCE(sum(charge), 0), COALESCE(sum(absorbed), 0) FROM usage_events \
         WHERE tenant_id = '{}'",
        world.tenant.id.as_uuid()
    ));
    let expected = format!("{}|{}", bench.books.charged, bench.books.absorbed);
    prop_assert_eq!(sums, expected);
    Ok(())
}

#[test]
fn any_sequence_of_steps_leaves_the_books_where_arithmetic_does() {
    let sequences = std::env::var("QUDAO_BOOKS_SEQUENCES").ok();
    let cases = sequences.map_or(150, |number| number.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let world = std::cell::RefCell::new(world);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(), 1..32);
    let played = TestRunner::new(config).run(&steps, |steps| {
        let mut world = world.borrow_mut();
        runtime.block_on(async {
            world.tenant = TestTenant::builder().credits(Micros::ZERO).create(&world.store).await;
            let key = world.store.find_api_key(world.tenant.api_key.id()).await.unwrap();
            play(&world, key.unwrap().channel_id, &steps).await
        })
    });
    if let Err(failure) = played {
        panic!("{failure}");
    }
    let world = world.into_inner();
    runtime.block_on(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.assert_sound().await;
        // Nothing of any tenant stays set aside.
        assert_eq!(world.number("SELECT count(*) FROM holds WHERE state = 'held'"), 0);
        assert_eq!(world.number("SELECT COALESCE(sum(held), 0) FROM wallets"), 0);
    });
}
