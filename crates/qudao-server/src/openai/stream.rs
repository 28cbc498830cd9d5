//! Answers that are sent while they are made, as server-sent events.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{CACHE_CONTROL, HeaderName},
    web::{Bytes, BytesMut},
};
use futures_util::{FutureExt as _, Stream, future::LocalBoxFuture};
use qudao_core::{ApiEvent, ApiReply, KeptAnswer};

use super::completions::{accepted, cut_off};
use crate::error::ApiError;

/// Writes what the events of a call become.
pub(super) trait Writer {
    /// Appends what one event becomes.
    fn write(&mut self, event: &ApiEvent, out: &mut BytesMut);
}

/// The head waits for the first event, so that a refusal of the model still gets its status.
pub(super) async fn streamed(
    mut reply: ApiReply,
    mut writer: impl Writer + Unpin + 'static,
) -> Result<HttpResponse, ApiError> {
    let mut response = accepted(&reply);
    let first = reply.next().await.ok_or_else(cut_off)??;
    let mut head = BytesMut::with_capacity(1024);
    writer.write(&first, &mut head);
    let ended = matches!(first, ApiEvent::End { .. });
    let body = Events { writer, buffer: head, reply: Waiting::Idle(Box::new(reply)), ended };
    Ok(event_stream(&mut response).streaming(body))
}

/// A stream that was sent before, whole.
pub(super) fn streamed_again(
    response: &mut HttpResponseBuilder,
    answer: KeptAnswer,
    mut writer: impl Writer,
) -> HttpResponse {
    let mut body = BytesMut::new();
    for event in answer.into_events() {
        writer.write(&event, &mut body);
    }
    event_stream(response).body(body.freeze())
}

fn event_stream(response: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
    response
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((HeaderName::from_static("x-accel-buffering"), "no"))
}

/// An error in the middle of a stream, as OpenAI's clients expect it. Nothing follows.
fn fail(error: &ApiError, out: &mut BytesMut) {
    out.extend_from_slice(b"data: ");
    write_json(&error.openai(), out);
    out.extend_from_slice(b"\n\n");
}

pub(super) fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut BytesMut) {
    use actix_web::web::BufMut as _;
    // Neither a text nor a JSON value can fail to be written into memory.
    let written = serde_json::to_writer(out.writer(), value);
    debug_assert!(written.is_ok());
}

type NextEvent =
    LocalBoxFuture<'static, (Box<ApiReply>, Option<Result<ApiEvent, qudao_core::ApiError>>)>;

enum Waiting {
    Idle(Box<ApiReply>),
    Busy(NextEvent),
    Done,
}

/// The body of a stream. All events that are ready at one time are written at one time.
struct Events<W> {
    writer: W,
    buffer: BytesMut,
    reply: Waiting,
    ended: bool,
}

impl<W: Writer> Events<W> {
    /// Writes one event; `false` when it was the last.
    fn write(&mut self, event: Option<Result<ApiEvent, qudao_core::ApiError>>) -> bool {
        match event {
            Some(Ok(event)) => {
                self.writer.write(&event, &mut self.buffer);
                !matches!(event, ApiEvent::End { .. })
            }
            Some(Err(failure)) => {
                fail(&failure.into(), &mut self.buffer);
                false
            }
            None => {
                fail(&cut_off(), &mut self.buffer);
                false
            }
        }
    }
}

impl<W: Writer + Unpin> Stream for Events<W> {
    type Item = Result<Bytes, actix_web::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            let mut next = match std::mem::replace(&mut this.reply, Waiting::Done) {
                Waiting::Idle(mut reply) => async move {
                    let event = reply.next().await;
                    (reply, event)
                }
                .boxed_local(),
                Waiting::Busy(next) => next,
                Waiting::Done => break,
            };
            match next.poll_unpin(cx) {
                Poll::Ready((reply, event)) => {
                    this.ended = !this.write(event);
                    this.reply = Waiting::Idle(reply);
                }
                Poll::Pending => {
                    this.reply = Waiting::Busy(next);
                    break;
                }
            }
        }
        if !this.buffer.is_empty() {
            return Poll::Ready(Some(Ok(this.buffer.split().freeze())));
        }
        if this.ended { Poll::Ready(None) } else { Poll::Pending }
    }
}
