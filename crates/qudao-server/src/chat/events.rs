//! The web chat as server-sent events, for networks that do not let a WebSocket through. The
//! client writes by plain requests meanwhile.

use std::{convert::Infallible, future::pending};

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::header::{CACHE_CONTROL, HeaderName},
    rt,
    web::{self, Bytes},
};
use futures_util::stream;
use qudao_storage::TimelineCursor;
use tokio::sync::mpsc;

use super::{
    door::{self, Visit},
    drive::{Gone, Wire, drive},
    frame::ServerFrame,
    requests::AfterQuery,
    session::{Farewell, Input},
};
use crate::{
    access::VisitorCaller, address::client_address, code::Code, error::ApiError, extract::Query,
    state::AppState, widget::token::Pass,
};

pub(crate) async fn open(
    state: web::Data<AppState>,
    request: HttpRequest,
    VisitorCaller(peer): VisitorCaller,
    Query(query): Query<AfterQuery>,
) -> Result<HttpResponse, ApiError> {
    let after = match request.headers().get("last-event-id").and_then(|id| id.to_str().ok()) {
        // What the browser has seen is newer than what the address says.
        Some(seen) if !seen.is_empty() => seen.parse()?,
        _ => query.cursor()?,
    };
    let door = door::find_door(&state, &request).await?;
    if state.is_draining() {
        return Err(ApiError::new(Code::Draining, "this node is shutting down"));
    }
    let address = client_address(&request);
    let until = request.extensions().get::<Pass>().map(|pass| pass.until);
    let visit = Visit { door, peer: (&*peer).into(), address, until };
    let places = (
        door::take_tenant_chat(&state, visit.door.tenant_id)?,
        door::take_visitor_chat(&state, &visit.peer)?,
    );
    let (outgoing, incoming) = mpsc::channel(state.settings.limits.outgoing_frames);
    rt::spawn(async move {
        let _places = places;
        drive(state, visit, after, None, EventWire { outgoing }).await;
    });
    let body = stream::unfold(incoming, |mut incoming| async move {
        let bytes: Bytes = incoming.recv().await?;
        Some((Ok::<_, Infallible>(bytes), incoming))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
        .streaming(body))
}

struct EventWire {
    outgoing: mpsc::Sender<Bytes>,
}

impl Wire for EventWire {
    async fn send(&mut self, frame: &ServerFrame, cursor: TimelineCursor) -> Result<(), Gone> {
        // Only stored messages move the cursor; the browser repeats the last id by itself.
        let id = match frame {
            ServerFrame::Message(message) => format!("id: {}\n", message.cursor),
            ServerFrame::Ready { .. } => format!("id: {cursor}\n"),
            _ => String::new(),
        };
        let event = format!("{id}data: {}\n\n", frame.to_json());
        self.outgoing.send(event.into()).await.map_err(|_| Gone)
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        self.outgoing.send(Bytes::from_static(b": ping\n\n")).await.map_err(|_| Gone)
    }

    async fn receive(&mut self) -> Option<Input> {
        tokio::select! {
            () = self.outgoing.closed() => None,
            never = pending() => never,
        }
    }

    /// The end of the stream says it all: the client comes back with its cursor.
    async fn close(self, _: Option<Farewell>) {}
}
