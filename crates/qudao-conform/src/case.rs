//! The cases, and how they are run one after the other.

use std::{future::Future, time::Duration};

use qudao_pcp::{CaseReport, Outcome};
use tokio::time::{Instant, timeout};

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name: the level (S security, T text, R rich, P the rest) and a number.
    pub id: &'static str,
    /// What is expected.
    pub title: &'static str,
}

const fn case(id: &'static str, title: &'static str) -> Case {
    Case { id, title }
}

/// All cases.
pub const CASES: [Case; 40] = [
    case("S01", "a good v1 signature is accepted"),
    case("S02", "a signature of the second secret alone is accepted"),
    case("S03", "an ed25519 signature (v1a) alone is accepted"),
    case("S04", "a changed byte is refused"),
    case("S05", "the same JSON in other bytes is refused"),
    case("S06", "a timestamp 301 s in the past is refused"),
    case("S07", "a timestamp 360 s in the future is refused"),
    case("S08", "a request without a signature is refused"),
    case("S09", "a malformed list refuses nothing good and lets in nothing bad"),
    case("S10", "an event that comes again takes effect once"),
    case("S11", "another body under the same id is refused with 409"),
    case("S12", "words of every script arrive as they were"),
    case("S13", "a signature with the empty secret is refused"),
    case("S14", "the endpoint shows that it is its owner's"),
    case("S15", "no redirect is followed"),
    case("T01", "a text arrives"),
    case("T02", "texts keep to the declared length"),
    case("T03", "50 messages of a conversation arrive in their order"),
    case("T04", "a slow conversation holds back no other"),
    case("T05", "after a 500 it comes again under the same id"),
    case("T06", "after a silence it comes again under the same id"),
    case("T07", "Retry-After is kept to"),
    case("T08", "what is refused with 422 does not come again and blocks nothing"),
    case("T09", "an unknown event is acknowledged"),
    case("T10", "an unknown part is shown by its fallback"),
    case("T11", "what has expired is never shown"),
    case("T12", "after a 410 nothing comes any more"),
    case("R01", "a picture arrives byte by byte"),
    case("R02", "an address of a file that has expired is renewed"),
    case("R03", "a pressed button comes back"),
    case("R04", "a list becomes words where there are no lists"),
    case("R05", "a reply says what it answers"),
    case("P01", "typing lasts as long as it says and blocks nothing"),
    case("P02", "a later receipt is never taken back"),
    case("P03", "edits keep to their interval"),
    case("P04", "an event stream is resumed without loss"),
    case("P05", "what grew is what was said"),
    case("P06", "a rotation under load refuses nothing"),
    case("P07", "what was given up is replayed under its id"),
    case("P08", "a conversation is handed over and back"),
];

/// Why a case did not pass.
#[derive(Debug)]
pub enum Miss {
    /// It failed: what was seen.
    Failed(String),
    /// The other side does not have what it is about.
    Skipped(String),
}

/// What a case comes to.
pub type Verdict = Result<(), Miss>;

/// It failed.
pub fn failed<T>(words: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Failed(words.into()))
}

/// It failed unless this holds.
///
/// # Errors
/// [`Miss::Failed`] with these words.
pub fn ensure(holds: bool, words: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Miss::Failed(words())) }
}

impl From<anyhow::Error> for Miss {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// The longest that a case may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs the cases that `only` names, or all, one after the other.
pub async fn run<F, Fut>(only: &[String], told: impl Fn(&CaseReport), each: F) -> Vec<CaseReport>
where
    F: Fn(&'static str) -> Fut,
    Fut: Future<Output = Verdict>,
{
    let mut reports = Vec::new();
    let chosen = |id: &str| only.is_empty() || only.iter().any(|one| id.starts_with(one.as_str()));
    for Case { id, title } in CASES.into_iter().filter(|case| chosen(case.id)) {
        let began = Instant::now();
        let verdict = timeout(PATIENCE, each(id)).await;
        let verdict = verdict.unwrap_or_else(|_| failed("it took longer than 90 s"));
        let (outcome, detail) = match verdict {
            Ok(()) => (Outcome::Passed, String::new()),
            Err(Miss::Failed(words)) => (Outcome::Failed, words),
            Err(Miss::Skipped(words)) => (Outcome::Skipped, words),
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (id, title) = (id.to_owned(), title.to_owned());
        let report = CaseReport { id, title, outcome, detail, took_ms };
        told(&report);
        reports.push(report);
    }
    reports
}
