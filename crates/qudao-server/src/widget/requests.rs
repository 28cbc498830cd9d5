//! What a widget asks beside the conversation: its token, and how the conversation was.

use actix_web::{HttpRequest, HttpResponse, web};
use qudao_channels::web::{Side, WidgetSettings};
use qudao_core::Sender;
use qudao_domain::key;
use qudao_storage::ChannelDoor;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{entrance::entrance, token};
use crate::{
    access::VisitorCaller,
    chat::{
        door::Visit,
        files::Takes,
        requests::{ChannelFace, visit},
    },
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    state::AppState,
};

/// Who comes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskToken {
    /// The secret that an earlier answer gave this browser; left out by somebody new.
    #[schema(min_length = 46, max_length = 46, pattern = "^vw_[A-Za-z0-9_-]{43}$")]
    visitor: Option<String>,
}

/// A way in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WidgetToken {
    /// For all requests of this page.
    #[schema(example = "qw_…")]
    token: String,
    /// Seconds for which it is good.
    #[schema(example = 900)]
    expires_in: u64,
    /// Under which the conversation is kept. It buys the next token.
    #[schema(example = "vw_…")]
    visitor: String,
    channel: ChannelFace,
    widget: WidgetFace,
}

/// How the widget looks and what it offers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WidgetFace {
    /// What its head says.
    title: String,
    /// Words below the greeting; may be empty.
    intro: String,
    /// Words on the button; may be empty.
    launcher: String,
    /// `#rrggbb`; may be empty.
    color: String,
    /// `auto`, `light` or `dark`.
    theme: &'static str,
    /// The corner at the `start` or at the `end` of a line.
    #[schema(value_type = String, example = "end")]
    position: Side,
    /// A language tag; that of the page if empty.
    language: String,
    /// `auto`, `ltr` or `rtl`.
    direction: &'static str,
    /// What can be pressed instead of writing.
    quick_replies: Vec<String>,
    /// It says that an AI answers.
    ai_disclosure: bool,
    /// It asks how the conversation was.
    csat: bool,
    /// It takes files.
    uploads: bool,
    /// The conversation can be saved.
    transcript: bool,
    /// It can also be sent by mail.
    transcript_mail: bool,
}

impl WidgetFace {
    fn of(settings: &WidgetSettings, door: &ChannelDoor, sends_mail: bool) -> Self {
        let settings = settings.clone();
        let named = if settings.title.is_empty() { &door.assistant_name } else { &settings.title };
        Self {
            title: named.clone(),
            intro: settings.intro,
            launcher: settings.launcher,
            color: settings.color,
            theme: settings.theme,
            position: settings.position,
            language: settings.language,
            direction: settings.direction,
            quick_replies: settings.quick_replies,
            ai_disclosure: settings.ai_disclosure,
            csat: settings.csat,
            uploads: settings.uploads,
            transcript: settings.transcript,
            transcript_mail: settings.transcript && sends_mail,
        }
    }
}

/// How a conversation was.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    /// 1 is bad, 5 is good.
    #[schema(minimum = 1, maximum = 5)]
    score: u8,
}

/// Gives a page of a listed site a token. Nothing is stored.
pub(crate) async fn token(
    state: web::Data<AppState>,
    request: HttpRequest,
    _: Query<NoQuery>,
    Body(AskToken { visitor }): Body<AskToken>,
) -> Result<HttpResponse, ApiError> {
    let entrance = entrance(&request)?;
    // Who was here before may read on when the channel has closed.
    if !entrance.door.open && visitor.is_none() {
        return Err(ApiError::new(Code::ChannelClosed, "the channel is closed"));
    }
    let visitor = visitor.unwrap_or_else(|| format!("vw_{}", key::random_secret()));
    let peer = token::peer_of(&visitor).ok_or_else(|| {
        ApiError::field("/visitor", "has to be a secret that this endpoint gave: vw_…")
    })?;
    let token = token::issue(&state, &entrance, peer).await?;
    let takes = Takes::of(&state, &entrance.door, &entrance.settings).await?;
    Ok(HttpResponse::Ok().json(WidgetToken {
        token,
        expires_in: token::GOOD_FOR.as_secs(),
        visitor,
        channel: ChannelFace::of(&entrance.door, takes),
        widget: WidgetFace::of(&entrance.settings, &entrance.door, state.core.sends_mail()),
    }))
}

/// Notes how the conversation was.
pub(crate) async fn rate(
    state: web::Data<AppState>,
    request: HttpRequest,
    caller: VisitorCaller,
    _: Query<NoQuery>,
    Body(Rate { score }): Body<Rate>,
) -> Result<HttpResponse, ApiError> {
    if !(1..=5).contains(&score) {
        return Err(ApiError::field("/score", "has to be 1 to 5"));
    }
    if !entrance(&request)?.settings.csat {
        return Err(ApiError::new(Code::Conflict, "this channel does not ask how it was"));
    }
    let visit = visit(&state, &request, &caller).await?;
    state.within(state.core.may_write(sender(&visit))).await?;
    let core = state.core.clone();
    let rate = async move {
        let mut tx = core.store.begin(visit.door.tenant_id).await?;
        let channel = visit.door.channel_id;
        let found = tx.find_conversation_of(channel, &visit.peer).await?;
        if let Some(conversation) = &found {
            tx.rate_conversation(channel, conversation.id, score).await?;
        }
        tx.commit().await?;
        found.map(|_| ()).ok_or_else(|| ApiError::not_found("conversation"))
    };
    state.on_runtime(rate).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Whose allowances are asked.
pub(crate) fn sender(visit: &Visit) -> Sender<'_> {
    Sender {
        tenant_id: visit.door.tenant_id,
        channel_id: visit.door.channel_id,
        assistant_id: visit.door.assistant_id,
        peer: &visit.peer,
        address: Some(visit.address),
    }
}
