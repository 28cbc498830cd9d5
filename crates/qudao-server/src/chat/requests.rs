//! The web chat over plain requests: opening, reading, writing, stopping.

use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use qudao_domain::key;
use qudao_storage::{ChannelDoor, TimelineCursor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    door::{self, Visit},
    files::Takes,
    frame::{MessageFrame, MessageKey},
    session::check_message,
};
use crate::{
    access::VisitorCaller,
    address::client_address,
    code::Code,
    error::ApiError,
    extract::{Body, MAX_PAGE, NoQuery, Query},
    rate::Standings,
    scope::RequestContext,
    state::AppState,
    widget::entrance::web_settings,
};

/// What the chat page needs before anything was said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Opening {
    /// The visitor's token. Nothing is stored of a visitor who never writes.
    #[schema(example = "vt_…")]
    token: String,
    /// What is open to everybody of the channel.
    channel: ChannelFace,
    /// Whether visitors may send files.
    uploads: bool,
}

/// A channel as a visitor sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelFace {
    name: String,
    /// Who answers.
    assistant: String,
    locale: String,
    /// May be empty.
    greeting: String,
    /// Visitors may speak: it takes voice messages, and its assistant listens.
    voice: bool,
}

impl ChannelFace {
    pub(crate) fn of(door: &ChannelDoor, takes: Takes) -> Self {
        Self {
            voice: takes.voice,
            name: door.name.clone(),
            assistant: door.assistant_name.clone(),
            locale: door.locale.clone(),
            greeting: door.greeting.clone(),
        }
    }
}

/// A message of a visitor.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostMessage {
    /// Chosen by the client; the same id is the same message, however often it is sent.
    #[schema(min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    id: String,
    /// 1 to 16,000 characters.
    #[schema(min_length = 1, max_length = 16000, pattern = r"^[^\x00]*[^\s\x00\x85][^\x00]*$")]
    text: String,
}

/// A message that is durable.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Receipt {
    /// The client's id.
    pub(crate) id: String,
    /// Its place in the conversation, from 1.
    pub(crate) seq: i64,
    /// Names the message for ever.
    #[schema(value_type = String, example = "i:1")]
    pub(crate) key: MessageKey,
    /// Whether it had been stored before.
    pub(crate) duplicate: bool,
}

/// A part of a conversation, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    data: Vec<MessageFrame>,
    /// Pass it as `after` to read what follows.
    cursor: String,
    has_more: bool,
    /// Whether an answer is being made or owed.
    answer_due: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AfterQuery {
    #[serde(default)]
    after: String,
    limit: Option<u32>,
}

impl AfterQuery {
    pub(crate) fn cursor(&self) -> Result<TimelineCursor, ApiError> {
        Ok(self.after.parse()?)
    }
}

pub(crate) async fn open(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let door = door::find_door(&state, &request).await?;
    if !door.open {
        return Err(ApiError::new(Code::ChannelClosed, "the channel is closed"));
    }
    let settings = web_settings(&state, &door).await?;
    let takes = Takes::of(&state, &door, &settings).await?;
    Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(Opening {
        token: format!("vt_{}", key::random_secret()),
        channel: ChannelFace::of(&door, takes),
        uploads: takes.files,
    }))
}

/// The visitor whom the guard let in.
///
/// # Errors
/// As [`door::known_door`].
pub(crate) async fn visit(
    state: &AppState,
    request: &HttpRequest,
    VisitorCaller(peer): &VisitorCaller,
) -> Result<Visit, ApiError> {
    let door = door::known_door(state, request).await?;
    let address = client_address(request);
    Ok(Visit { door, peer: (&**peer).into(), address, until: None })
}

pub(crate) async fn messages(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    Query(query): Query<AfterQuery>,
) -> Result<HttpResponse, ApiError> {
    let after = query.cursor()?;
    let limit = query.limit.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::new(Code::InvalidQuery, "limit has to be between 1 and 200"));
    }
    let visit = visit(&state, &request, &caller).await?;
    let core = state.core.clone();
    let read = async move { door::read_page(&core, &visit, after, limit).await };
    let page = state.on_runtime(read).await?;
    let cursor = page.messages.last().map_or(after, |message| message.cursor);
    Ok(HttpResponse::Ok().json(History {
        data: page.messages,
        cursor: cursor.to_string(),
        has_more: page.more,
        answer_due: page.answer_due,
    }))
}

pub(crate) async fn post_message(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
    Body(PostMessage { id, text }): Body<PostMessage>,
) -> Result<HttpResponse, ApiError> {
    let (external_id, text) = check_message(&id, &text)
        .map_err(|wrong| ApiError::field(format!("/{}", wrong.field), wrong.detail))?;
    let visit = visit(&state, &request, &caller).await?;
    let origin = RequestContext::of(&request).trace;
    let (accepted, standings) =
        door::accept(&state, &visit, &external_id, text, Vec::new(), origin).await?;
    request.extensions_mut().insert(Standings(standings));
    Ok(HttpResponse::Accepted().json(Receipt {
        id,
        seq: accepted.seq,
        key: MessageKey::Inbound(accepted.seq),
        duplicate: accepted.duplicate,
    }))
}

/// Stops the answer that is being made, if there is one.
pub(crate) async fn stop(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let visit = visit(&state, &request, &caller).await?;
    let core = state.core.clone();
    let stop = async move {
        let page = door::read_page(&core, &visit, TimelineCursor::default(), 1).await?;
        if let Some(conversation) = page.conversation {
            core.cancel_turn(conversation).await;
        }
        Ok::<_, ApiError>(())
    };
    state.on_runtime(stop).await?;
    Ok(HttpResponse::NoContent().finish())
}
