//! The web chat over a WebSocket.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, rt, web};
use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, ProtocolError,
    Session as Socket,
};
use qudao_storage::{ChannelDoor, TimelineCursor};
use tokio::time::{Instant, timeout};

use super::{
    door::{self, Visit},
    drive::{Gone, Wire, drive, part},
    frame::{ClientFrame, ServerFrame},
    session::{Farewell, Input},
};
use crate::{
    access::visitor_peer,
    address::client_address,
    code::Code,
    error::ApiError,
    extract::{NoQuery, Query},
    state::AppState,
    widget::{
        entrance::{Entrance, entrance},
        token,
    },
};

pub(crate) async fn open(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
    _: Query<NoQuery>,
) -> Result<HttpResponse, actix_web::Error> {
    door::check_origin(&request)?;
    let door = door::find_door(&state, &request).await?;
    serve(state, &request, payload, door, None)
}

/// The same for a page of another site, which has to be listed.
pub(crate) async fn open_widget(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
    _: Query<NoQuery>,
) -> Result<HttpResponse, actix_web::Error> {
    let entrance = entrance(&request)?;
    let door = Arc::clone(&entrance.door);
    serve(state, &request, payload, door, Some(entrance))
}

fn serve(
    state: web::Data<AppState>,
    request: &HttpRequest,
    payload: web::Payload,
    door: Arc<ChannelDoor>,
    entrance: Option<Rc<Entrance>>,
) -> Result<HttpResponse, actix_web::Error> {
    if state.is_draining() {
        return Err(ApiError::new(Code::Draining, "this node is shutting down").into());
    }
    let place = door::take_tenant_chat(&state, door.tenant_id)?;
    let (response, socket, stream) = actix_ws::handle(request, payload)
        .map_err(|error| ApiError::new(Code::BadRequest, error.to_string()))?;
    let address = client_address(request);
    let limit = state.settings.limits.socket_message_bytes;
    let stream =
        stream.max_frame_size(limit).aggregate_continuations().max_continuation_size(limit);
    let patience = state.settings.limits.slow_client_timeout;
    let mut wire = SocketWire { socket, stream, patience };
    rt::spawn(async move {
        let _place = place;
        let limits = &state.settings.limits;
        let hello = async {
            let (token, after) = wire.hello().await?;
            let (peer, until) = admit(&state, entrance.as_deref(), &token).await.map_err(Some)?;
            Ok::<_, Option<ApiError>>((peer, until, after))
        };
        match timeout(limits.request_head_timeout, hello).await {
            Ok(Ok((peer, until, after))) => {
                let visit = Visit { door, peer, address, until };
                match door::take_visitor_chat(&state, &visit.peer) {
                    Ok(_place) => {
                        let silence = Some(limits.socket_idle_timeout);
                        drive(state.clone(), visit, after, silence, wire).await;
                    }
                    Err(refusal) => wire.refuse(&refusal).await,
                }
            }
            Ok(Err(Some(refusal))) => wire.refuse(&refusal).await,
            Ok(Err(None)) | Err(_) => part(wire, Some(Farewell::Silence), patience).await,
        }
    });
    Ok(response)
}

/// Who shows this token, and until when they may.
async fn admit(
    state: &AppState,
    entrance: Option<&Entrance>,
    token: &str,
) -> Result<(Arc<str>, Option<Instant>), ApiError> {
    if let Some(entrance) = entrance {
        let pass = token::admit_to(state, entrance, token).await?;
        return Ok(((&*pass.peer).into(), Some(pass.until)));
    }
    let refusal = || ApiError::new(Code::InvalidCredentials, "the token is not valid");
    Ok((visitor_peer(token).ok_or_else(refusal)?.into(), None))
}

struct SocketWire {
    socket: Socket,
    stream: AggregatedMessageStream,
    /// How long a full queue is waited for.
    patience: Duration,
}

impl SocketWire {
    /// Waits for the first frame, which shows the visitor's token.
    async fn hello(&mut self) -> Result<(String, TimelineCursor), Option<ApiError>> {
        loop {
            match self.receive().await.ok_or(None)? {
                Input::Frame(ClientFrame::Hello { token, after }) => {
                    return Ok((token, after.parse().map_err(ApiError::from)?));
                }
                Input::Heard => {}
                Input::Unreadable(detail) => {
                    return Err(Some(ApiError::new(Code::BadRequest, detail)));
                }
                _ => {
                    let detail = "the first frame has to be hello";
                    return Err(Some(ApiError::new(Code::Unauthenticated, detail)));
                }
            }
        }
    }

    async fn refuse(mut self, refusal: &ApiError) {
        let frame = ServerFrame::Error {
            code: refusal.code().as_str(),
            detail: refusal.detail().to_owned(),
            id: None,
            retry_after: refusal.retry_after_secs(),
        };
        let patience = self.patience;
        let sent = timeout(patience, self.send(&frame, TimelineCursor::default())).await;
        if matches!(sent, Ok(Ok(()))) {
            part(self, Some(Farewell::Misuse), patience).await;
        }
    }
}

impl Wire for SocketWire {
    async fn send(&mut self, frame: &ServerFrame, _: TimelineCursor) -> Result<(), Gone> {
        self.socket.text(frame.to_json()).await.map_err(|_| Gone)
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.socket.ping(b"").await.map_err(|_| Gone)
    }

    async fn receive(&mut self) -> Option<Input> {
        let message = match self.stream.recv().await? {
            Ok(message) => message,
            Err(ProtocolError::Overflow) => return Some(Input::TooLarge),
            Err(_) => return None,
        };
        Some(match message {
            AggregatedMessage::Text(text) => match serde_json::from_str(&text) {
                Ok(frame) => Input::Frame(frame),
                Err(error) => Input::Unreadable(format!("not a frame: {error}")),
            },
            AggregatedMessage::Binary(_) => Input::Unreadable("frames are text".to_owned()),
            AggregatedMessage::Ping(bytes) => {
                timeout(self.patience, self.socket.pong(&bytes)).await.ok()?.ok()?;
                Input::Heard
            }
            AggregatedMessage::Pong(_) => Input::Heard,
            AggregatedMessage::Close(_) => return None,
        })
    }

    async fn close(self, farewell: Option<Farewell>) {
        let code = match farewell {
            Some(Farewell::Restart) => CloseCode::Restart,
            Some(Farewell::Silence) => CloseCode::Away,
            Some(Farewell::Misuse) => CloseCode::Policy,
            Some(Farewell::TooLarge) => CloseCode::Size,
            None => CloseCode::Normal,
        };
        // A client that is gone hears no farewell.
        let _ = self.socket.close(Some(CloseReason { code, description: None })).await;
    }
}
