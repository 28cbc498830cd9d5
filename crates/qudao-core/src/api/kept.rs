//! Calls with an idempotency key. The answer is kept with its settlement, and repeating the
//! request gives it again: no model is called, and nothing is charged.
//!
//! The caller of such a call may hang up and come back, so the model is not cancelled then: the
//! answer is made to its end, charged as a whole one, and kept.

use std::sync::Arc;

use qudao_domain::{Micros, TurnId};
use qudao_plugin_api::wire::{FinishReason, Usage};
use qudao_storage::{Found, KeptCall, KeptReply, Once, StorageError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApiError, ApiEvent, ApiReply, ApiRequest, Served};
use crate::{Core, Principal, once::Claim};

/// The status under which a call is kept that broke off after a part of it was charged.
const BROKEN_OFF: u16 = 502;

/// What comes of a call with an idempotency key.
#[derive(Debug)]
pub enum Answered {
    /// It is served now.
    Now(Box<ApiReply>),
    /// It was served before.
    Before(KeptAnswer),
    /// It was served before and broke off after a part of it had been charged.
    BrokenOff,
    /// The key was used for another request.
    OtherBody,
    /// It is being served at this moment.
    UnderWay,
}

/// A whole answer, as it is given again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The call, in the usage.
    pub turn_id: TurnId,
    /// When it began, in seconds since 1970.
    pub created: i64,
    /// The model's name, as the caller gave it.
    pub model: String,
    /// Who served it; absent in answers of older versions.
    #[serde(default)]
    pub served: Option<Served>,
    pieces: Vec<Piece>,
    finish_reason: FinishReason,
    usage: Usage,
    charge: Micros,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Text(String),
    Reasoning(String),
    Data(Value),
}

impl KeptAnswer {
    /// The events of the call, the end included.
    pub fn into_events(self) -> impl Iterator<Item = ApiEvent> {
        let Self { pieces, finish_reason, usage, charge, .. } = self;
        let pieces = pieces.into_iter().map(|piece| match piece {
            Piece::Text(text) => ApiEvent::Delta { text, reasoning: false },
            Piece::Reasoning(text) => ApiEvent::Delta { text, reasoning: true },
            Piece::Data(delta) => ApiEvent::Data(delta),
        });
        pieces.chain([ApiEvent::End { finish_reason, usage, charge }])
    }
}

/// An answer while it is made, to be kept.
pub(super) struct Keeping {
    claim: Claim,
    pieces: Vec<Piece>,
}

/// How a call ended, for whoever repeats it.
pub(super) enum Ending {
    Whole {
        created: i64,
        model: String,
        served: Served,
        finish_reason: FinishReason,
        usage: Usage,
        charge: Micros,
    },
    BrokenOff {
        charge: Micros,
    },
}

impl Keeping {
    pub(super) fn new(claim: Claim) -> Self {
        Self { claim, pieces: Vec::new() }
    }

    pub(super) fn turn_id(&self) -> Option<TurnId> {
        self.claim.turn_id()
    }

    /// Notes a piece that is handed out.
    pub(super) fn note(&mut self, event: &ApiEvent) {
        match (event, self.pieces.last_mut()) {
            (ApiEvent::Delta { text, reasoning: false }, Some(Piece::Text(known)))
            | (ApiEvent::Delta { text, reasoning: true }, Some(Piece::Reasoning(known))) => {
                known.push_str(text);
            }
            (ApiEvent::Delta { text, reasoning }, _) => {
                let make = if *reasoning { Piece::Reasoning } else { Piece::Text };
                self.pieces.push(make(text.clone()));
            }
            (ApiEvent::Data(delta), _) => self.pieces.push(Piece::Data(delta.clone())),
            (ApiEvent::End { .. }, _) => {}
        }
    }

    /// What the settlement keeps.
    pub(super) fn finish(self, turn_id: TurnId, ending: Ending) -> Option<KeptCall> {
        let reply = match ending {
            Ending::Whole { created, model, served, finish_reason, usage, charge } => {
                let (pieces, served) = (self.pieces, Some(served));
                let answer = KeptAnswer {
                    turn_id,
                    created,
                    model,
                    served,
                    pieces,
                    finish_reason,
                    usage,
                    charge,
                };
                // Texts, numbers and JSON values can always be written.
                let body = serde_json::to_vec(&answer).unwrap_or_default();
                Some(KeptReply { status: 200, location: None, body })
            }
            // Nothing was paid, so the request may be tried again under its key.
            Ending::BrokenOff { charge: Micros::ZERO } => None,
            Ending::BrokenOff { .. } => {
                Some(KeptReply { status: BROKEN_OFF, location: None, body: Vec::new() })
            }
        };
        self.claim.with_settlement(reply)
    }

    /// Nothing was served.
    pub(super) async fn let_go(self) {
        self.claim.let_go().await;
    }
}

impl Core {
    /// As [`Core::api_call`], for a request that may be repeated: it is served and charged once.
    ///
    /// # Errors
    /// [`ApiError`]. Nothing is charged and nothing is kept then.
    pub async fn api_call_once(
        self: &Arc<Self>,
        principal: &Principal,
        mut request: ApiRequest,
        once: Once,
    ) -> Result<Answered, ApiError> {
        let entry = self.let_in(principal, &mut request).await?;
        let claim = match self.claim(once).await? {
            Found::Fresh(claim) => claim,
            Found::Kept(reply) if reply.status == BROKEN_OFF => return Ok(Answered::BrokenOff),
            Found::Kept(reply) => {
                let answer = serde_json::from_slice(&reply.body).map_err(|error| {
                    let detail = format!("a kept answer cannot be read: {error}");
                    ApiError::from(StorageError::Inconsistent { detail })
                })?;
                return Ok(Answered::Before(answer));
            }
            Found::OtherBody => return Ok(Answered::OtherBody),
            Found::UnderWay => return Ok(Answered::UnderWay),
        };
        let reply = self.serve(principal, request, entry, Some(Keeping::new(claim))).await?;
        Ok(Answered::Now(Box::new(reply)))
    }
}
