//! Whether every invariant held: those that SQL can see, and those that need the record of an
//! outsider.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use crate::{
    plan::Delivery,
    record::{Entry, Record, Seen},
    stage::Stage,
};

/// What may be excused, because of what the run did to the system.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// I19: from the acknowledgement to the answer.
    pub answer: Duration,
    /// I25: sends of a message that had been sent before.
    pub redundant: usize,
}

/// One invariant and how it fared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in `docs/invariants.md`.
    pub id: &'static str,
    /// What must hold.
    pub title: String,
    /// How many things were looked at.
    pub examined: usize,
    /// How many times it did not hold.
    pub violations: usize,
    /// One of those times.
    pub sample: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One line per invariant.
    pub lines: Vec<Line>,
    /// Messages that were sent more than once.
    pub redundant: usize,
    /// Model calls beyond the first of a turn.
    pub redos: usize,
    /// The longest that a message waited for its answer, with the database up.
    pub slowest: Duration,
}

impl Verdict {
    /// The invariants that did not hold.
    pub fn violated(&self) -> Vec<&'static str> {
        let bad = self.lines.iter().filter(|line| 0 < line.violations);
        bad.map(|line| line.id).collect()
    }

    /// Adds another run to this one.
    pub fn merge(&mut self, other: Self) {
        self.redundant += other.redundant;
        self.redos += other.redos;
        self.slowest = self.slowest.max(other.slowest);
        for line in other.lines {
            match self.lines.iter_mut().find(|known| known.id == line.id) {
                Some(known) => {
                    known.examined += line.examined;
                    known.violations += line.violations;
                    known.sample = known.sample.take().or(line.sample);
                }
                None => self.lines.push(line),
            }
        }
    }
}

/// Judges a run that is over.
///
/// # Errors
/// If the database does not answer.
pub async fn judge(stage: &Stage, bounds: Bounds) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    for finding in stage.store.check().await? {
        verdict.lines.push(Line {
            id: finding.id,
            title: finding.title.to_owned(),
            examined: usize::try_from(finding.examined)?,
            violations: usize::try_from(finding.violations)?,
            sample: finding.sample,
        });
    }
    let witness = Witness::read(stage);
    verdict.redundant = witness.redundant();
    verdict.redos = stage
        .sql("SELECT count(*) - count(DISTINCT turn_id) FROM model_attempts")
        .parse()
        .unwrap_or_default();
    let (in_time, slowest) = witness.in_time(&stage.record, bounds.answer);
    verdict.slowest = slowest;
    let lines = [
        in_time,
        witness.nothing_lost(),
        witness.in_order(),
        witness.all_arrived(),
        witness.one_reply_per_turn(),
        witness.few_redundant(bounds.redundant),
        witness.calls_settled(),
        witness.nothing_made_up(),
    ];
    verdict.lines.extend(lines);
    verdict.lines.sort_by_key(|line| line.id[1..].parse::<u32>().unwrap_or(u32::MAX));
    Ok(verdict)
}

/// The longest that a message waited whose id begins like this and that was answered.
pub fn slowest_answer(stage: &Stage, prefix: &str) -> Duration {
    let witness = Witness::read(stage);
    let waits = witness.waits().filter(|(id, _, _)| id.starts_with(prefix));
    waits.filter_map(|(_, asked, answered)| Some(answered? - asked)).max().unwrap_or_default()
}

/// The record beside what the database says.
struct Witness {
    entries: Vec<Entry>,
    /// The platform's id of a message, its conversation and its place there; all rows.
    inbox: Vec<(String, (String, i64))>,
    /// Outbound messages that are not buried: id and conversation.
    outbox: Vec<(String, String)>,
    /// Per tenant: API calls that ended whole, and all of them.
    calls: HashMap<String, (usize, usize)>,
}

impl Witness {
    fn read(stage: &Stage) -> Self {
        let rows = |sql: &str| -> Vec<Vec<String>> {
            let text = stage.sql(sql);
            text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
        };
        let number = |text: &str| text.parse::<i64>().unwrap_or_default();
        // Who wrote it stands before an id that is unique to them alone.
        let inbox = rows(
            "SELECT COALESCE(NULLIF(split_part(external_id, ':', 2), ''), external_id), \
                    conversation_id, seq FROM inbox",
        );
        let outbox = rows("SELECT outbox_id, conversation_id FROM outbox WHERE state <> 'dead'");
        let calls = rows(
            "SELECT tenant_id, count(*) FILTER (WHERE end_reason IN ('stop', 'length')), count(*) \
             FROM usage_events WHERE api_key_id IS NOT NULL GROUP BY tenant_id",
        );
        let count = |text: &str| usize::try_from(number(text)).unwrap_or_default();
        Self {
            entries: resolved(stage.record.entries(), &rows(SENT)),
            inbox: inbox.iter().map(|r| (r[0].clone(), (r[1].clone(), number(&r[2])))).collect(),
            outbox: outbox.iter().map(|r| (r[0].clone(), r[1].clone())).collect(),
            calls: calls.iter().map(|r| (r[0].clone(), (count(&r[1]), count(&r[2])))).collect(),
        }
    }

    fn acknowledged(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.entries.iter().filter_map(|entry| match &entry.seen {
            Seen::Acknowledged { id } => Some((id.as_str(), entry.at)),
            _ => None,
        })
    }

    fn delivered(&self) -> impl Iterator<Item = (&Delivery, Duration)> {
        self.entries.iter().filter_map(|entry| match &entry.seen {
            Seen::Delivered(delivery) => Some((delivery, entry.at)),
            _ => None,
        })
    }

    /// Deliveries without those that came before.
    fn first_deliveries(&self) -> Vec<(&Delivery, Duration)> {
        let mut known = HashSet::new();
        self.delivered().filter(|(delivery, _)| known.insert(&delivery.outbox_id)).collect()
    }

    fn redundant(&self) -> usize {
        self.delivered().count() - self.first_deliveries().len()
    }

    fn nothing_lost(&self) -> Line {
        let stored: HashSet<&str> = self.inbox.iter().map(|(id, _)| id.as_str()).collect();
        let acknowledged: HashSet<&str> = self.acknowledged().map(|(id, _)| id).collect();
        let lost = acknowledged.iter().filter(|id| !stored.contains(**id));
        let lost: Vec<String> = lost.map(|id| (*id).to_owned()).collect();
        line("I1", "every acknowledged message is in the inbox", acknowledged.len(), lost)
    }

    fn in_order(&self) -> Line {
        let mut last: HashMap<&str, i64> = HashMap::new();
        let mut early = Vec::new();
        let first = self.first_deliveries();
        for (delivery, _) in &first {
            let last = last.entry(&delivery.conversation_id).or_default();
            if delivery.out_seq <= *last {
                early.push(format!("{} came after {last}", delivery.out_seq));
            }
            *last = delivery.out_seq.max(*last);
        }
        line("I14", "first deliveries arrive in the order of out_seq", first.len(), early)
    }

    fn all_arrived(&self) -> Line {
        let arrived: HashSet<&str> =
            self.delivered().map(|(delivery, _)| delivery.outbox_id.as_str()).collect();
        let missing = self.outbox.iter().filter(|(id, _)| !arrived.contains(id.as_str()));
        let missing = missing.map(|(id, _)| id.clone()).collect();
        line("I15", "every reply reached the other side", self.outbox.len(), missing)
    }

    fn one_reply_per_turn(&self) -> Line {
        let mut replies: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for (delivery, _) in self.delivered() {
            if let (Some(turn), "reply") = (&delivery.turn_id, delivery.kind.as_str()) {
                replies.entry(turn).or_default().insert(&delivery.outbox_id);
            }
        }
        let twice = replies.iter().filter(|(_, ids)| 1 < ids.len());
        let twice = twice.map(|(turn, _)| (*turn).to_owned()).collect();
        line("I16", "one turn, one reply id on the other side", replies.len(), twice)
    }

    /// The acknowledged messages, and when each was acknowledged and first answered. A message
    /// that is not in the inbox is left to I1.
    fn waits(&self) -> impl Iterator<Item = (&str, Duration, Option<Duration>)> {
        let places: HashMap<&str, &(String, i64)> =
            self.inbox.iter().map(|(id, place)| (id.as_str(), place)).collect();
        let mut known = HashSet::new();
        let mut answers: HashMap<&str, Vec<(i64, Duration)>> = HashMap::new();
        for (delivery, at) in self.delivered() {
            answers.entry(&delivery.conversation_id).or_default().push((delivery.to_seq, at));
        }
        self.acknowledged().filter(move |(id, _)| known.insert(*id)).filter_map(
            move |(id, asked)| {
                let (conversation, seq) = places.get(id)?;
                let answers = answers.get(conversation.as_str()).into_iter().flatten();
                let answer = answers.filter(|(to, _)| seq <= to).map(|(_, at)| *at).min();
                Some((id, asked, answer))
            },
        )
    }

    fn in_time(&self, record: &Record, bound: Duration) -> (Line, Duration) {
        let (mut examined, mut longest, mut late) = (0, Duration::ZERO, Vec::new());
        for (id, asked, answered) in self.waits() {
            examined += 1;
            let Some(answered) = answered else {
                late.push(format!("{id} was never answered"));
                continue;
            };
            let waited = answered.saturating_sub(asked);
            let waited = waited.saturating_sub(record.outage_within(asked, answered));
            longest = longest.max(waited);
            if bound < waited {
                late.push(format!("{id} waited {waited:.1?}"));
            }
        }
        let title = format!("an answer within {bound:.0?}");
        (line("I19", &title, examined, late), longest)
    }

    fn few_redundant(&self, bound: usize) -> Line {
        let redundant = self.redundant();
        let beyond = (bound < redundant).then(|| format!("{redundant}, not {bound}"));
        let title = "redundant sends are at most disturbances times messages in flight";
        line("I25", title, self.delivered().count(), beyond.into_iter().collect())
    }

    fn nothing_made_up(&self) -> Line {
        let taken = self.entries.iter().filter_map(|entry| match &entry.seen {
            Seen::Taken { peer, outbox } => Some(format!("{outbox:?} in {peer}")),
            _ => None,
        });
        let title = "whatever the other side received lies in the outbox";
        line("I28", title, self.delivered().count(), taken.collect())
    }

    fn calls_settled(&self) -> Line {
        let mut seen: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for entry in &self.entries {
            match &entry.seen {
                Seen::Called { tenant } => seen.entry(tenant).or_default().0 += 1,
                Seen::Confirmed { tenant } => seen.entry(tenant).or_default().1 += 1,
                _ => {}
            }
        }
        let mut wrong = Vec::new();
        for (tenant, (called, confirmed)) in &seen {
            let (whole, booked) = self.calls.get(*tenant).copied().unwrap_or_default();
            if whole < *confirmed || *called < booked {
                wrong.push(format!(
                    "{called} calls, {confirmed} confirmed, {booked} booked, {whole} of them whole"
                ));
            }
        }
        let confirmed = seen.values().map(|(_, confirmed)| confirmed).sum();
        line("I26", "a call whose end its caller read is settled, and none twice", confirmed, wrong)
    }
}

/// What was to be sent, beside what the other side calls the conversation.
const SENT: &str = "SELECT c.peer, o.outbox_id, o.conversation_id, o.turn_id, o.kind, o.out_seq, \
    o.to_seq FROM outbox o JOIN conversations c USING (tenant_id, conversation_id)";

/// What messaging platforms and partners took, as deliveries of the outbox's messages. Where the wire
/// does not name the message, the conversation has but one.
fn resolved(entries: Vec<Entry>, sent: &[Vec<String>]) -> Vec<Entry> {
    let plain = |id: &str| id.replace('-', "");
    let delivery = |row: &Vec<String>| Delivery {
        outbox_id: row[1].clone(),
        conversation_id: row[2].clone(),
        turn_id: Some(row[3].clone()).filter(|id| !id.is_empty()),
        kind: row[4].clone(),
        out_seq: row[5].parse().unwrap_or_default(),
        to_seq: row[6].parse().unwrap_or_default(),
    };
    let resolve = |entry: Entry| {
        let Seen::Taken { peer, outbox } = &entry.seen else { return entry };
        let row = sent.iter().find(|row| match outbox {
            Some(outbox) => plain(&row[1]) == *outbox,
            None => row[0] == *peer,
        });
        match row {
            Some(row) => Entry { seen: Seen::Delivered(delivery(row)), ..entry },
            None => entry,
        }
    };
    entries.into_iter().map(resolve).collect()
}

fn line(id: &'static str, title: &str, examined: usize, violations: Vec<String>) -> Line {
    let (count, sample) = (violations.len(), violations.into_iter().next());
    Line { id, title: title.to_owned(), examined, violations: count, sample }
}
