//! How fast anybody may go. All nodes count together, in Redis, with the generic cell rate
//! algorithm: <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>. One decision is one
//! script and one round trip, by the clock of Redis; those about a caller who comes often are made
//! several at a time ([`ahead`]).
//!
//! Without Redis each node goes on by itself with its part of every limit. Buckets hold no more
//! than a limit's burst, so what a node has let pass before Redis went or came back is forgotten
//! at the price of one burst more. Nothing that is about money is decided here.

use std::{
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::counter;
use qudao_domain::TenantId;
use redis::{RedisResult, Script, aio::ConnectionLike};
use tokio::time::{Instant, timeout};

use crate::Bus;

mod ahead;
mod bucket;
mod line;
mod local;

use ahead::{Ahead, Charged, Way};
pub use bucket::{Bucket, Rate, Standing};
use line::Lines;
use local::{Charge, Local, Outcome};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("limiter/take.lua")));

/// How the limiter counts.
#[derive(Debug, Clone)]
pub struct LimiterSettings {
    /// How many nodes share the limits. Only matters while Redis is away.
    pub nodes: u32,
    /// How long an answer of Redis is waited for.
    pub patience: Duration,
    /// How long Redis is left alone after it did not answer.
    pub rest: Duration,
}

impl Default for LimiterSettings {
    fn default() -> Self {
        let (patience, rest) = (Duration::from_millis(50), Duration::from_millis(250));
        Self { nodes: 1, patience, rest }
    }
}

/// Whose buckets are charged together; they lie together in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A tenant.
    Tenant(TenantId),
    /// The platform itself.
    Platform,
}

impl Owner {
    /// The bucket's name in Redis. The braces hold what a cluster places it by.
    fn name(self, bucket: &Bucket) -> String {
        let Bucket { kind, id, .. } = bucket;
        match self {
            Self::Tenant(tenant) => format!("qd:{{{}}}:rate:{kind}:{id}", tenant.as_uuid()),
            Self::Platform => format!("qd:{{platform}}:rate:{kind}:{id}"),
        }
    }

    /// The name of whoever is limited by all these buckets.
    fn caller(self, buckets: &[Bucket]) -> String {
        let mut name = match self {
            Self::Tenant(tenant) => tenant.as_uuid().to_string(),
            Self::Platform => String::new(),
        };
        for Bucket { kind, id, .. } in buckets {
            for part in [" ", kind, ":", id] {
                name.push_str(part);
            }
        }
        name
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every bucket allowed it and was charged.
    Allowed {
        /// Where each bucket stands now.
        standings: Vec<Standing>,
        /// Who counted it; what is given back is given back there.
        counted: Counted,
    },
    /// Nothing was charged.
    Refused {
        /// The kind of the bucket that takes longest.
        kind: &'static str,
        /// When all of them will allow it, if nobody else comes first.
        retry_after: Duration,
        /// Where each bucket stands.
        standings: Vec<Standing>,
    },
    /// No bucket of this kind will ever hold so much; nothing was charged.
    TooDear {
        /// The kind of the bucket.
        kind: &'static str,
        /// The most that it allows at once.
        burst: u32,
    },
}

/// Who counted a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Redis, for all nodes.
    Together,
    /// This node, for itself.
    Alone,
}

/// The limiter of one node.
pub struct Limiter {
    bus: Bus,
    lines: Lines,
    settings: LimiterSettings,
    local: Local,
    /// Calls that are paid for before they come, if they may be.
    ahead: Option<Ahead>,
    /// When Redis did not answer, or was last tried since.
    failed_at: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limiter that counts in the Redis of this bus.
    pub fn new(bus: &Bus, settings: LimiterSettings) -> Self {
        let (bus, lines, local) = (bus.clone(), Lines::default(), Local::new());
        Self { bus, lines, settings, local, ahead: None, failed_at: Mutex::new(None) }
    }

    /// One that pays for calls of those who come often before they come. [`Self::give_back_unused`]
    /// has to be called each [`Self::UNUSED`] then.
    #[must_use]
    pub fn paying_ahead(self) -> Self {
        Self { ahead: Some(Ahead::default()), ..self }
    }

    /// How long calls that were paid for are waited for.
    pub const UNUSED: Duration = ahead::KEPT;

    /// Gives back what was paid for calls that did not come.
    pub async fn give_back_unused(&self) {
        let Some(ahead) = &self.ahead else { return };
        for (left, Charged { owner, buckets, .. }) in ahead.unused() {
            self.ask(&charges(owner, &buckets, 1, Direction::GiveBack), left).await;
        }
    }

    /// Charges all buckets, or none if one of them does not allow it. Without buckets this is free.
    pub async fn take(&self, owner: Owner, buckets: &[Bucket]) -> Verdict {
        let dear = buckets.iter().find(|bucket| bucket.rate.burst() < bucket.cost);
        if let Some(Bucket { kind, rate, .. }) = dear {
            return Verdict::TooDear { kind, burst: rate.burst() };
        }
        if buckets.is_empty() {
            return Verdict::Allowed { standings: Vec::new(), counted: Counted::Alone };
        }
        // A call that costs more than one may cost something else the next time.
        let ahead = self.ahead.as_ref().filter(|_| buckets.iter().all(|bucket| bucket.cost == 1));
        let ahead = ahead.map(|ahead| (ahead, owner.caller(buckets)));
        let calls = match ahead.as_ref().map(|(ahead, caller)| ahead.take(caller)) {
            Some(Way::Paid(debts)) => {
                let standings = standings(buckets, 1, &debts);
                return Verdict::Allowed { standings, counted: Counted::Together };
            }
            Some(Way::Ask(calls)) => calls,
            None => 1,
        };
        let charges = |nodes| charges(owner, buckets, nodes, Direction::Take);
        let answer = self.ask(&charges(1), calls).await;
        if let Some((ahead, caller)) = &ahead {
            let charged = answer.as_ref().and_then(|outcome| outcome.ahead(owner, buckets));
            ahead.answered(caller, calls, charged);
        }
        let (outcome, counted) = match answer {
            Some(outcome) => (outcome.of_one(buckets), Counted::Together),
            None => {
                counter!("qudao_limiter_fallbacks_total").increment(1);
                (self.local.take(&charges(self.settings.nodes)), Counted::Alone)
            }
        };
        let nodes = if counted == Counted::Together { 1 } else { self.settings.nodes };
        let standings = standings(buckets, nodes, &outcome.debts);
        match outcome.refused.and_then(|(at, wait)| Some((buckets.get(at)?.kind, wait))) {
            None => Verdict::Allowed { standings, counted },
            Some((kind, wait)) => {
                counter!("qudao_rate_limited_total", "kind" => kind).increment(1);
                Verdict::Refused { kind, retry_after: Duration::from_micros(wait), standings }
            }
        }
    }

    /// Gives back what was taken and not used. No bucket gets more than full by it. Lost if Redis
    /// is away: the buckets fill by themselves.
    pub async fn give_back(&self, owner: Owner, buckets: &[Bucket], counted: Counted) {
        let charges = |nodes| charges(owner, buckets, nodes, Direction::GiveBack);
        match counted {
            Counted::Together => drop(self.ask(&charges(1), 1).await),
            Counted::Alone => {
                self.local.take(&charges(self.settings.nodes));
            }
        }
    }

    /// What Redis says about one call, and gladly about so many. `None` if it has no answer in time,
    /// or had none a moment ago.
    async fn ask(&self, charges: &[Charge], calls: u32) -> Option<Outcome> {
        if !self.may_ask() {
            return None;
        }
        let outcome = timeout(self.settings.patience, self.ask_server(charges, calls)).await;
        if outcome.is_err()
            && let Some(charge) = charges.first()
        {
            // Its server may be gone without a word: the next decision asks anew where it is.
            self.lines.forget(&charge.name);
        }
        let outcome = outcome.ok().flatten();
        *self.failure() = outcome.is_none().then(Instant::now);
        outcome
    }

    /// The server that holds the buckets: all of them, as their names are made.
    async fn ask_server(&self, charges: &[Charge], calls: u32) -> Option<Outcome> {
        let key = charges.first()?.name.as_str();
        let mut line = self.lines.of(key).unwrap_or_else(|| self.bus.commands());
        let answer = match ask(&mut line, charges, calls).await {
            Ok(answer) => answer,
            Err(error) => {
                let other = self.lines.follow(&error, self.bus.client(), self.settings.patience);
                let Some(mut other) = other else {
                    self.lines.forget(key);
                    return None;
                };
                ask(&mut other, charges, calls).await.ok()?
            }
        };
        read(&answer, charges.len())
    }

    /// After a failure one caller tries again after each rest; the others do not wait for it.
    fn may_ask(&self) -> bool {
        let mut failure = self.failure();
        let rested = failure.is_none_or(|at| self.settings.rest <= at.elapsed());
        if rested && failure.is_some() {
            *failure = Some(Instant::now());
        }
        rested
    }

    fn failure(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Take,
    GiveBack,
}

/// What each bucket is charged where `nodes` share the limits.
fn charges(owner: Owner, buckets: &[Bucket], nodes: u32, direction: Direction) -> Vec<Charge> {
    let charge = |bucket: &Bucket| {
        let rate = bucket.rate.part(nodes);
        let capacity = rate.capacity();
        // A node alone has smaller buckets: what is more than all of one takes all of it.
        let charge = i64::try_from(rate.span(bucket.cost).min(capacity)).unwrap_or(i64::MAX);
        let charge = match direction {
            Direction::Take => charge,
            Direction::GiveBack => -charge,
        };
        Charge { name: owner.name(bucket), charge, capacity }
    };
    buckets.iter().map(charge).collect()
}

fn standings(buckets: &[Bucket], nodes: u32, debts: &[u64]) -> Vec<Standing> {
    let both = buckets.iter().zip(debts);
    both.map(|(bucket, debt)| bucket.standing(bucket.rate.part(nodes), *debt)).collect()
}

async fn ask(
    connection: &mut impl ConnectionLike,
    charges: &[Charge],
    calls: u32,
) -> RedisResult<Vec<u64>> {
    let mut call = TAKE.prepare_invoke();
    call.arg(calls);
    for Charge { name, charge, capacity } in charges {
        call.key(name).arg(*charge).arg(*capacity);
    }
    call.invoke_async(connection).await
}

/// What the script answered about so many buckets; `None` for what it never answers.
fn read(answer: &[u64], buckets: usize) -> Option<Outcome> {
    let (head, debts) = answer.split_at_checked(2)?;
    if debts.len() != buckets {
        return None;
    }
    let (calls, refused) = match head {
        [0, calls] => (u32::try_from(*calls).ok()?, None),
        [place, wait] => (0, Some((usize::try_from(*place).ok()?.checked_sub(1)?, *wait))),
        _ => return None,
    };
    Some(Outcome { calls, refused, debts: debts.to_vec() })
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("settings", &self.settings).finish_non_exhaustive()
    }
}
