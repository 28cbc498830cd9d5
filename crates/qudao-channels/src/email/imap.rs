//! Fetching mails from a mailbox. It is only read: no mail is marked, moved or deleted, so people
//! can go on working in it.

use std::time::Duration;

use async_imap::{Client, Session, types::Fetch};
use futures_util::TryStreamExt as _;
use jiff::{Timestamp, ToSpan as _};
use qudao_core::channel::{
    adapter::Polled,
    config::ChannelConfig,
    event::{Event, EventBody, Person, Thread},
    plan::MailSecurity,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{MAIL_BYTES_MAX, dial::Dialer, dial::Wire, read, write::security};
use crate::lenient;

/// Until the mails are here.
const WHOLE: Duration = Duration::from_secs(120);
/// Mails of one fetch; the rest come with the next.
const MAILS_MAX: usize = 20;
/// Bytes of one fetch, so that its events fit in memory: a first mail always comes.
const BYTES_MAX: usize = 40 << 20;

/// Fetches mails over IMAP.
#[derive(Debug, Clone)]
pub struct MailPoller {
    dialer: Dialer,
}

/// Where a mailbox was left: its numbers count for as long as its `UIDVALIDITY` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    validity: u32,
    uid: u32,
}

impl MailPoller {
    /// A poller that dials so.
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    /// The mails that have come since `cursor`, at most twenty. Without a cursor there are none:
    /// a mailbox that is connected is answered from that moment on, not from its beginning. If the
    /// server has numbered the mailbox anew, those of the last two days come; whoever keeps the
    /// events knows which they had.
    ///
    /// # Errors
    /// What is wrong, in words for the tenant.
    pub async fn fetch(
        &self,
        config: &ChannelConfig,
        cursor: Option<&Value>,
        now: Timestamp,
    ) -> Result<Polled, String> {
        let work = async {
            let mut session = self.sign_in(config).await?;
            let polled = read_new(&mut session, config, cursor, now).await;
            // The mails are here, whatever becomes of the good-bye.
            let _ = session.logout().await;
            polled
        };
        timeout(WHOLE, work).await.map_err(|_| "the IMAP server took too long".to_owned())?
    }

    /// Whether the server takes the name and the password and has the folder.
    ///
    /// # Errors
    /// What is wrong, in words for the tenant.
    pub async fn probe(&self, config: &ChannelConfig) -> Result<(), String> {
        let work = async {
            let mut session = self.sign_in(config).await?;
            let folder = config.setting("imap_folder").unwrap_or("INBOX");
            let opened = session.examine(folder).await.map(|_| ());
            let _ = session.logout().await;
            opened.map_err(|error| format!("the folder {folder} cannot be opened: {error}"))
        };
        timeout(WHOLE, work).await.map_err(|_| "the IMAP server took too long".to_owned())?
    }

    /// Whether a mailbox of these settings may be fetched at all.
    pub fn is_set_up(config: &ChannelConfig) -> bool {
        config.setting("imap_host").is_some()
    }

    async fn sign_in(&self, config: &ChannelConfig) -> Result<Session<Wire>, String> {
        let host = config.setting("imap_host").ok_or("no IMAP server is set")?;
        let security = security(config, "imap_security");
        let port = config.number("imap_port").and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or(if security == MailSecurity::Tls { 993 } else { 143 });
        let user = config.setting("imap_user").or_else(|| config.setting("address"));
        let password = config.secret("imap_password").or_else(|_| config.secret("smtp_password"));
        let (Some(user), Ok(password)) = (user, password) else {
            return Err("the IMAP user or password is not set".to_owned());
        };
        let failed = |error: super::dial::DialError| error.to_string();
        let mut wire = self.dialer.plain(host, port).await.map_err(failed)?;
        if security == MailSecurity::Tls {
            wire = self.dialer.secure(wire, host).await.map_err(failed)?;
        }
        let mut client = greeted(wire).await?;
        if security == MailSecurity::StartTls {
            let upgraded = client.run_command_and_check_ok("STARTTLS", None).await;
            upgraded.map_err(|error| format!("the server offers no STARTTLS: {error}"))?;
            let wire = self.dialer.secure(client.into_inner(), host).await.map_err(failed)?;
            client = Client::new(wire);
        }
        let signed_in = client.login(user, password).await;
        signed_in.map_err(|(error, _)| format!("the IMAP server refuses the password: {error}"))
    }
}

async fn greeted(wire: Wire) -> Result<Client<Wire>, String> {
    let mut client = Client::new(wire);
    let greeting = client.read_response().await.map_err(|error| error.to_string())?;
    greeting.map(|_| client).ok_or_else(|| "the IMAP server says nothing".to_owned())
}

async fn read_new(
    session: &mut Session<Wire>,
    config: &ChannelConfig,
    cursor: Option<&Value>,
    now: Timestamp,
) -> Result<Polled, String> {
    let failed = |error: async_imap::error::Error| format!("the IMAP server failed: {error}");
    let folder = config.setting("imap_folder").unwrap_or("INBOX");
    let mailbox = session.examine(folder).await.map_err(failed)?;
    let validity = mailbox.uid_validity.unwrap_or_default();
    let known = cursor.and_then(Cursor::read);
    let query = match known {
        Some(at) if at.validity == validity => format!("UID {}:*", at.uid.saturating_add(1)),
        Some(_) => format!("SINCE {}", two_days_before(now)),
        None => "ALL".to_owned(),
    };
    let last = match mailbox.uid_next {
        Some(next) if known.is_none() => Some(next.saturating_sub(1)),
        _ => None,
    };
    if let Some(uid) = last {
        return Ok(nothing(Cursor { validity, uid }));
    }
    let found = session.uid_search(&query).await.map_err(failed)?;
    let after = known.filter(|at| at.validity == validity).map_or(0, |at| at.uid);
    // `n:*` names the last mail also if its number is below n.
    let mut uids: Vec<u32> = found.into_iter().filter(|uid| after < *uid).collect();
    uids.sort_unstable();
    if known.is_none() {
        return Ok(nothing(Cursor { validity, uid: uids.last().copied().unwrap_or_default() }));
    }
    uids.truncate(MAILS_MAX);
    let mut cursor = Cursor { validity, uid: after };
    let mut events = Vec::new();
    let mut bytes = 0;
    for uid in uids {
        let size = size(session, uid).await.map_err(failed)?;
        if !events.is_empty() && BYTES_MAX < bytes + size {
            break;
        }
        let event = if size <= MAIL_BYTES_MAX {
            bytes += size;
            whole(session, uid).await.map_err(failed)?.map(|mail| {
                read::event(config, &mail, now).unwrap_or_else(|| odd(cursor, uid, "not_a_mail"))
            })
        } else {
            Some(odd(cursor, uid, "too_large"))
        };
        // A mail that went away meanwhile is none.
        events.extend(event);
        cursor.uid = uid;
    }
    Ok(Polled { events, cursor: Some(cursor.write()) })
}

fn nothing(cursor: Cursor) -> Polled {
    Polled { events: Vec::new(), cursor: Some(cursor.write()) }
}

async fn size(session: &mut Session<Wire>, uid: u32) -> async_imap::error::Result<usize> {
    let fetched = session.uid_fetch(uid.to_string(), "(UID RFC822.SIZE)").await?;
    let fetched: Vec<Fetch> = fetched.try_collect().await?;
    let size = fetched.iter().find_map(|fetch| fetch.size).unwrap_or_default();
    Ok(usize::try_from(size).unwrap_or(usize::MAX))
}

async fn whole(
    session: &mut Session<Wire>,
    uid: u32,
) -> async_imap::error::Result<Option<Vec<u8>>> {
    let fetched = session.uid_fetch(uid.to_string(), "(UID BODY.PEEK[])").await?;
    let fetched: Vec<Fetch> = fetched.try_collect().await?;
    Ok(fetched.iter().find_map(|fetch| fetch.body()).map(<[u8]>::to_vec))
}

/// A mail that cannot be read, so that it is counted and not asked for again.
fn odd(at: Cursor, uid: u32, kind: &str) -> Event {
    let name = format!("uid:{}:{uid}", at.validity);
    Event {
        id: name.clone(),
        thread: Thread { external_id: name.clone(), group: false },
        sender: Person { external_id: name, ..Person::default() },
        body: EventBody::Unknown { kind: kind.to_owned() },
        attribution: None,
        at: None,
        raw: json!({"uid": uid, "uid_validity": at.validity}),
    }
}

fn two_days_before(now: Timestamp) -> String {
    let day = now.checked_sub(48.hours()).unwrap_or(now);
    day.strftime("%d-%b-%Y").to_string()
}

impl Cursor {
    fn read(value: &Value) -> Option<Self> {
        let part = |name: &str| u32::try_from(lenient::number(value, name)?).ok();
        Some(Self { validity: part("/uid_validity")?, uid: part("/uid")? })
    }

    fn write(self) -> Value {
        json!({"uid_validity": self.validity, "uid": self.uid})
    }
}
