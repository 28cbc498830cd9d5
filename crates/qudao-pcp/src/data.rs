//! What the kinds of events from the platform carry, beside messages.

use serde::{Deserialize, Serialize};

use crate::WireMessage;

/// `typing.started`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerTyping))]
pub struct TypingData {
    /// For how many seconds it is shown.
    pub ttl_s: u64,
}

/// `message.updated`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerUpdate))]
pub struct UpdateData {
    /// What the message says now.
    pub message: WireMessage,
    /// It says no more.
    #[serde(default, rename = "final")]
    pub is_final: bool,
}

/// `delivery.gap`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerGap))]
pub struct GapData {
    /// The first number of the conversation that is missing.
    pub from_seq: i64,
    /// The last.
    pub to_seq: i64,
    /// `refused`, `expired`, `attempts_exhausted` or `unsendable`.
    pub reason: String,
}

/// `endpoint.verify`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerChallenge))]
pub struct VerifyData {
    /// Answer with it.
    pub challenge: String,
}

/// `endpoint.key_rotated`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerKeyRotated))]
pub struct RotatedData {
    /// The new key.
    pub key_id: String,
    /// Until when the keys before are valid.
    pub old_keys_valid_until: String,
    /// The new secret, in the sandbox alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// `channel.error`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerChannelError))]
pub struct ErrorData {
    /// `auth`: the endpoint turns events away.
    pub reason: String,
    /// What it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// `handoff.requested`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerHandoff))]
pub struct HandoffData {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `ping`: nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = PartnerPing))]
pub struct PingData {}
