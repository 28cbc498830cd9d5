//! A copy of the conversation by mail.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_core::{
    Core,
    letter::{
        Letter, Purpose,
        words::{Line, Voice, transcript_mail},
    },
};
use qudao_domain::address::Email;
use qudao_storage::TimelineCursor;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{entrance::entrance, requests::sender};
use crate::{
    access::VisitorCaller,
    chat::{
        claims::{locale_of, no_mail},
        door::{self, Visit},
        frame::Role,
        requests::visit,
    },
    code::Code,
    error::ApiError,
    extract::{Body, MAX_PAGE, NoQuery, Query},
    state::AppState,
};

/// The latest messages that a copy has, and the bytes of what they say.
const MESSAGES: usize = 1000;
const BYTES: usize = 512 * 1024;

/// Where the copy goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendTranscript {
    /// An e-mail address.
    #[schema(min_length = 1, max_length = 254, example = "ann@example.com")]
    to: String,
    /// The language of the mail; the channel's if left out.
    #[schema(max_length = 35, pattern = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")]
    locale: Option<String>,
}

/// Puts a copy on its way. The mail says who asked for it, so that whoever gets it by mistake knows.
pub(crate) async fn send(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
    Body(SendTranscript { to, locale }): Body<SendTranscript>,
) -> Result<HttpResponse, ApiError> {
    if !entrance(&request)?.settings.transcript {
        return Err(ApiError::new(Code::Conflict, "this channel gives no copies of conversations"));
    }
    if !state.core.sends_mail() {
        return Err(no_mail());
    }
    let visit = visit(&state, &request, &caller).await?;
    let to = Email::parse(&to).map_err(|error| ApiError::field("/to", error))?;
    let locale = locale_of(locale.as_deref(), &visit)?;
    state.within(state.core.may_mail(sender(&visit), to.as_str())).await?;
    let core = state.core.clone();
    state.on_runtime(async move { post(&core, &visit, &to, &locale).await }).await?;
    Ok(HttpResponse::Accepted().finish())
}

async fn post(core: &Core, visit: &Visit, to: &Email, locale: &str) -> Result<(), ApiError> {
    let lines = read(core, visit).await?;
    if lines.is_empty() {
        return Err(ApiError::not_found("conversation"));
    }
    let door = &visit.door;
    let mail = transcript_mail(locale, &door.name, &door.assistant_name, to.as_str(), &lines);
    let letter = Letter::Mail(mail);
    let sealed = core.seal_letter(door.tenant_id, Purpose::Transcript, &letter).await;
    let letter = sealed.map_err(|error| {
        tracing::error!(%error, "a letter could not be sealed");
        ApiError::new(Code::Internal, "the copy could not be sent")
    })?;
    let mut tx = core.store.begin(door.tenant_id).await?;
    // So that an erasure finds it while it waits.
    let contact = tx.contact_at(door.channel_id, &visit.peer).await?;
    letter.send(&mut tx, contact).await?;
    tx.commit().await?;
    core.wake.letters.notify_one();
    Ok(())
}

/// The latest of what was said, the oldest first.
async fn read(core: &Core, visit: &Visit) -> Result<Vec<Line>, ApiError> {
    let (mut lines, mut after) = (Vec::new(), TimelineCursor::default());
    loop {
        let page = door::read_page(core, visit, after, MAX_PAGE).await?;
        let Some(last) = page.messages.last() else { break };
        after = last.cursor;
        lines.extend(page.messages.into_iter().map(|message| Line {
            voice: if message.role == Role::User { Voice::Person } else { Voice::Assistant },
            text: message.text,
            at: message.at,
        }));
        if MESSAGES < lines.len() {
            lines.drain(..lines.len() - MESSAGES);
        }
        if !page.more {
            break;
        }
    }
    let mut bytes = 0;
    let fits = |line: &&Line| {
        bytes += line.text.len();
        bytes <= BYTES
    };
    let kept = lines.iter().rev().take_while(fits).count();
    Ok(lines.split_off(lines.len() - kept))
}
