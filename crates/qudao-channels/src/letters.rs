//! The loop that sends the platform's own letters: mails by the operator's server, and codes over a
//! channel of the tenant.

use std::{sync::Arc, time::Duration};

use mail_builder::{
    MessageBuilder,
    headers::{address::Address, date::Date, raw::Raw},
};
use metrics::counter;
use qudao_core::{
    Core, DeliverError,
    channel::{
        adapter::Outcome,
        plan::{MailPlan, MailSecurity, Plan},
    },
    letter::{Letter, Mail},
};
use qudao_domain::MailId;
use qudao_storage::{MailClaim, StorageError};
use qudao_telemetry::{Label, Metric};
use tokio::{sync::Semaphore, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Host,
    email::{Dialer, smtp},
};

/// How long a claim is good: longer than a mail server may think.
const LEASE: Duration = Duration::from_secs(120);
/// How often the letters are looked at without a hint.
const POLL: Duration = Duration::from_secs(2);
/// Letters at one time.
const IN_FLIGHT: usize = 8;
/// The waits before the second, third, … try, in seconds. One that is of no use by then is given up.
const BACKOFF: [u64; 6] = [2, 10, 60, 300, 900, 3600];
const FORGET_EVERY: Duration = Duration::from_secs(600);
const FORGOTTEN: u32 = 1000;

/// All metrics of this module.
pub const METRICS: &[Metric] = &[Metric::counter(
    "qudao_letters_total",
    "Tries to send a mail or a code of the platform itself: `failed` is tried again, `refused` and \
     `expired` are not",
)
.by(&[Label { name: "outcome", values: &["sent", "failed", "refused", "expired"] }])];

/// The operator's mail server.
#[derive(Clone)]
pub struct MailServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: MailSecurity,
    /// Name and password, where the server asks for them.
    pub credentials: Option<(String, String)>,
    /// The address that mails come from.
    pub from: String,
}

impl std::fmt::Debug for MailServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailServer").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Sends letters.
#[derive(Debug, Clone, Copy)]
pub struct Letters;

/// The running loop. Dropping it lets it run on.
#[must_use = "the loop is ended through its handle"]
pub struct LettersHandle {
    stop: CancellationToken,
    main: JoinHandle<()>,
    jobs: TaskTracker,
}

struct Shared {
    core: Arc<Core>,
    host: Arc<Host>,
    mail: Option<(Dialer, MailServer)>,
    slots: Arc<Semaphore>,
    jobs: TaskTracker,
}

impl Letters {
    /// Starts the loop on the present runtime. Mails wait in the database where `server` is `None`.
    pub fn start(core: Arc<Core>, host: Arc<Host>, server: Option<MailServer>) -> LettersHandle {
        let dialer = server.and_then(|server| match Dialer::of_operator() {
            Ok(dialer) => Some((dialer, server)),
            Err(error) => {
                tracing::warn!(%error, "no mail can be sent");
                None
            }
        });
        let (stop, jobs) = (CancellationToken::new(), TaskTracker::new());
        let slots = Arc::new(Semaphore::new(IN_FLIGHT));
        let shared = Arc::new(Shared { core, host, mail: dialer, slots, jobs: jobs.clone() });
        let main = shared.core.tasks.spawn(run(Arc::clone(&shared), stop.clone()));
        LettersHandle { stop, main, jobs }
    }
}

impl LettersHandle {
    /// Claims nothing more and waits for what is on its way, until `deadline` has passed. What is
    /// not through by then is sent again, under the same id.
    pub async fn drain(self, deadline: Duration) {
        self.stop.cancel();
        let _ = self.main.await;
        self.jobs.close();
        let _ = time::timeout(deadline, self.jobs.wait()).await;
    }
}

async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut forgot = time::Instant::now();
    loop {
        let more = claim(&shared).await;
        if FORGET_EVERY <= forgot.elapsed() {
            forgot = time::Instant::now();
            if let Err(error) = shared.core.store.forget_mails(FORGOTTEN).await {
                tracing::warn!(%error, "old letters are not forgotten");
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.core.wake.letters.notified() => {}
            () = time::sleep(POLL) => {}
        }
    }
}

/// Claims as many letters as there are free slots. Whether there may be more.
async fn claim(shared: &Arc<Shared>) -> bool {
    let free = u32::try_from(shared.slots.available_permits()).unwrap_or(u32::MAX);
    if free == 0 {
        return false;
    }
    let claims = match shared.core.store.claim_mails(free, LEASE).await {
        Ok(claims) => claims,
        Err(error) => {
            tracing::warn!(%error, "cannot claim letters");
            return false;
        }
    };
    let any = !claims.is_empty();
    for claim in claims {
        let shared = Arc::clone(shared);
        let Ok(slot) = Arc::clone(&shared.slots).acquire_owned().await else { return false };
        shared.jobs.clone().spawn(async move {
            let _slot = slot;
            let sent = if claim.expired {
                Err(DeliverError::refused("of no use any more"))
            } else {
                shared.send(&claim).await
            };
            if let Err(error) = shared.record(&claim, sent).await {
                // The lease runs out and it is sent again, under the same id.
                tracing::warn!(%error, mail = %claim.id, "a letter is not written down");
            }
            shared.core.wake.letters.notify_one();
        });
    }
    any
}

impl Shared {
    async fn send(&self, claim: &MailClaim) -> Result<(), DeliverError> {
        let opened = self.core.open_letter(claim.tenant_id, claim.id, &claim.sealed).await;
        let letter = opened.map_err(|error| DeliverError::retry(error.to_string()))?;
        match letter.ok_or_else(|| DeliverError::refused("it cannot be read"))? {
            Letter::Mail(mail) => self.send_mail(claim.id, &mail).await,
            Letter::Channel { channel_id, peer, code, text } => {
                let place = (claim.tenant_id, channel_id);
                self.host.send_code(place, &peer, claim.id, (&code, &text)).await
            }
        }
    }

    async fn send_mail(&self, id: MailId, mail: &Mail) -> Result<(), DeliverError> {
        let Some((dialer, server)) = &self.mail else {
            return Err(DeliverError::retry("this node has no mail server"));
        };
        let now = self.core.clock.now().as_second();
        let plan =
            server.plan(id, mail, now).map_err(|error| DeliverError::refused(error.to_string()))?;
        let answer = smtp::send(dialer, &plan).await;
        outcome(smtp::classify(&Plan::Mail(plan), &answer))
    }

    async fn record(
        &self,
        claim: &MailClaim,
        sent: Result<(), DeliverError>,
    ) -> Result<(), StorageError> {
        let (id, attempts) = (claim.id, claim.attempts);
        let step = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut tx = self.core.store.begin(claim.tenant_id).await?;
        let outcome = match sent {
            Ok(()) => {
                tx.end_mail(id, attempts, None).await?;
                "sent"
            }
            Err(error) if error.retryable && step < BACKOFF.len() => {
                let wait = Duration::from_secs(BACKOFF[step]).max(error.after.unwrap_or_default());
                tx.retry_mail(id, attempts, wait, &without_addresses(&error.detail)).await?;
                "failed"
            }
            Err(error) => {
                tx.end_mail(id, attempts, Some(&without_addresses(&error.detail))).await?;
                if claim.expired { "expired" } else { "refused" }
            }
        };
        tx.commit().await?;
        counter!("qudao_letters_total", "outcome" => outcome).increment(1);
        if outcome == "refused" {
            // What the server said is in the row.
            tracing::warn!(mail = %id, "a letter is given up");
        }
        Ok(())
    }
}

/// What an outcome means for a letter, which has one plan.
pub(crate) fn outcome(outcome: Outcome) -> Result<(), DeliverError> {
    match outcome {
        Outcome::Sent { .. } => Ok(()),
        Outcome::Retry { after: Some(after), detail } => Err(DeliverError::wait(after, detail)),
        Outcome::Retry { after: None, detail } => Err(DeliverError::retry(detail)),
        Outcome::Then(_) => Err(DeliverError::refused("the platform asks for more steps")),
        Outcome::TokenExpired => Err(DeliverError::retry("the access token is not accepted")),
        // An operator may mend a password.
        Outcome::Failed(failure) if failure.reason.as_str() == "auth" => {
            Err(DeliverError::retry(failure.to_string()))
        }
        Outcome::Failed(failure) => Err(DeliverError::refused(failure.to_string())),
    }
}

/// Servers repeat the recipient in what they say.
fn without_addresses(words: &str) -> String {
    let hide = |word: &str| if word.contains('@') { "…".to_owned() } else { word.to_owned() };
    words.split(' ').map(hide).collect::<Vec<_>>().join(" ")
}

impl MailServer {
    /// The mail as it goes out. Its id stays the same for every try.
    fn plan(&self, id: MailId, mail: &Mail, now: i64) -> std::io::Result<MailPlan> {
        let domain = self.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
        let message_id = format!("{}@{domain}", id.as_uuid().simple());
        let name = Some(mail.from_name.as_str()).filter(|name| !name.trim().is_empty());
        let message = MessageBuilder::new()
            .from(Address::new_address(name, self.from.as_str()))
            .to(Address::new_address(None::<&str>, mail.to.as_str()))
            .subject(mail.subject.as_str())
            .date(Date::new(now))
            .message_id(message_id.as_str())
            .header("Auto-Submitted", Raw::new("auto-generated"))
            .header("X-Auto-Response-Suppress", Raw::new("All"))
            .text_body(mail.text.as_str())
            .html_body(mail.html.as_str())
            .write_to_vec()?;
        Ok(MailPlan {
            host: self.host.clone(),
            port: self.port,
            security: self.security,
            credentials: self.credentials.clone(),
            from: self.from.clone(),
            to: vec![mail.to.clone()],
            message,
            message_id: format!("<{message_id}>"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_kept_without_whom_it_was_for() {
        let said = "550 5.1.1 <ann@example.com>: no such user";
        assert_eq!(without_addresses(said), "550 5.1.1 … no such user");
    }

    #[test]
    fn a_mail_cannot_grow_headers() {
        let server = MailServer {
            host: "h".to_owned(),
            port: 25,
            security: MailSecurity::Plain,
            credentials: None,
            from: "no-reply@example.com".to_owned(),
        };
        let mail = Mail {
            to: "ann@example.com".to_owned(),
            from_name: "店 \"A\"".to_owned(),
            subject: "你好\r\nBcc: eve@example.com".to_owned(),
            text: "t".to_owned(),
            html: "<p>t</p>".to_owned(),
        };
        let plan = server.plan(MailId::new(), &mail, 1_800_000_000).unwrap();
        let text = String::from_utf8(plan.message.clone()).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        assert!(head.contains(plan.message_id.as_str()), "{head}");
        assert_eq!(plan.to, ["ann@example.com"]);
    }
}
