//! Sending mails.

use std::time::Duration;

use lettre::{
    address::Envelope,
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        extension::ClientId,
    },
};
use qudao_core::channel::{
    adapter::{FailureReason, Outcome},
    config::ChannelConfig,
    plan::{MailPlan, MailSecurity, Plan, RawResponse},
};
use tokio::time::timeout;

use super::{
    dial::{DialError, Dialer},
    write,
};

/// Until the server has the mail. Servers may think about its last line for minutes (RFC 5321,
/// section 4.5.3.2); a lane does not wait that long.
const WHOLE: Duration = Duration::from_secs(60);
/// The status if the server said nothing that can be understood.
const NO_ANSWER: u16 = 0;
/// The status if the server may not be connected to.
const NOT_ALLOWED: u16 = 599;
/// Servers that do not know a sender yet want to be asked again after some minutes.
const GREYLISTED: Duration = Duration::from_secs(300);

/// Sends a mail and says what the server answered: its code and words.
pub async fn send(dialer: &Dialer, plan: &MailPlan) -> RawResponse {
    let answer = |status, words: String| RawResponse {
        status,
        body: words.into_bytes(),
        ..RawResponse::default()
    };
    match timeout(WHOLE, exchange(dialer, plan)).await {
        Ok(Ok(words)) => answer(250, words),
        Ok(Err(SendError::Dial(DialError::Refused))) => {
            answer(NOT_ALLOWED, DialError::Refused.to_string())
        }
        Ok(Err(SendError::Smtp(error))) => {
            let code = error.status().map_or(NO_ANSWER, u16::from);
            answer(code, words(&error))
        }
        Ok(Err(error)) => answer(NO_ANSWER, error.to_string()),
        Err(_) => answer(NO_ANSWER, "the mail server took too long".to_owned()),
    }
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Smtp(#[from] lettre::transport::smtp::Error),
    #[error("the mail names no address: {0}")]
    Address(String),
}

async fn exchange(dialer: &Dialer, plan: &MailPlan) -> Result<String, SendError> {
    let read = |address: &str| {
        address.parse().map_err(|error| SendError::Address(format!("{address}: {error}")))
    };
    let to = plan.to.iter().map(|address| read(address)).collect::<Result<_, _>>()?;
    let envelope = Envelope::new(Some(read(&plan.from)?), to)
        .map_err(|error| SendError::Address(error.to_string()))?;
    let mut server = sign_in(dialer, plan).await?;
    let response = server.send(&envelope, &plan.message).await?;
    // It has the mail, whatever becomes of the good-bye.
    let _ = server.quit().await;
    Ok(response.message().collect::<Vec<_>>().join(" "))
}

/// Whether the server takes the name and the password of a channel. Nothing is sent.
///
/// # Errors
/// What is wrong, in words for the tenant.
pub async fn probe(dialer: &Dialer, config: &ChannelConfig) -> Result<(), String> {
    let plan = write::envelope(config);
    let work = async {
        let mut server = sign_in(dialer, &plan).await?;
        let _ = server.quit().await;
        Ok(())
    };
    match timeout(WHOLE, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(SendError::Smtp(error))) => Err(format!("the SMTP server: {}", words(&error))),
        Ok(Err(error)) => Err(format!("the SMTP server: {error}")),
        Err(_) => Err("the SMTP server took too long".to_owned()),
    }
}

async fn sign_in(dialer: &Dialer, plan: &MailPlan) -> Result<AsyncSmtpConnection, SendError> {
    let mut wire = dialer.plain(&plan.host, plan.port).await?;
    if plan.security == MailSecurity::Tls {
        wire = dialer.secure(wire, &plan.host).await?;
    }
    let hello = ClientId::Domain(domain(&plan.from).to_owned());
    let mut server = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &hello).await?;
    if plan.security == MailSecurity::StartTls {
        server.starttls(TlsParameters::new(plan.host.clone())?, &hello).await?;
    }
    if let Some((user, password)) = &plan.credentials {
        let credentials = Credentials::new(user.clone(), password.clone());
        server.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await?;
    }
    Ok(server)
}

/// What the server said, which the library keeps beneath its own words.
fn words(error: &lettre::transport::smtp::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn domain(address: &str) -> &str {
    address.rsplit_once('@').map_or("localhost", |(_, domain)| domain)
}

/// What a server's answer means (RFC 5321, section 4.2; RFC 3463 for the codes in its words).
pub(crate) fn classify(plan: &Plan, response: &RawResponse) -> Outcome {
    let words = String::from_utf8_lossy(&response.body).into_owned();
    let detail = response.excerpt();
    let says = |codes: &[&str]| codes.iter().any(|code| words.contains(code));
    match response.status {
        200..=299 => {
            let id = match plan {
                Plan::Mail(mail) => Some(mail.message_id.trim_matches(['<', '>']).to_owned()),
                _ => None,
            };
            Outcome::Sent { external_id: id }
        }
        450 | 451 => Outcome::Retry { after: Some(GREYLISTED), detail },
        530 | 534 | 535 | 538 => Outcome::failed(FailureReason::Auth, detail),
        NOT_ALLOWED => Outcome::failed(FailureReason::Policy, detail),
        500..=599 if says(&["5.2.3", "5.3.4"]) => Outcome::failed(FailureReason::TooLong, detail),
        500..=599 if says(&["5.2.1"]) => Outcome::failed(FailureReason::Blocked, detail),
        500..=599 if says(&["5.1.1", "5.1.2", "5.1.3", "5.1.10"]) => {
            Outcome::failed(FailureReason::RecipientUnknown, detail)
        }
        500..=599 if says(&["5.7."]) => Outcome::failed(FailureReason::Policy, detail),
        550 | 551 | 553 => Outcome::failed(FailureReason::RecipientUnknown, detail),
        552 => Outcome::failed(FailureReason::TooLong, detail),
        554 => Outcome::failed(FailureReason::Policy, detail),
        500..=599 => Outcome::failed(FailureReason::ProviderError, detail),
        _ => Outcome::retry(detail),
    }
}
