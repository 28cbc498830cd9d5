//! The report of the conformance kit: what lifts a channel out of the sandbox.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use qudao_channels::partner::Keys;
use qudao_pcp::{Outcome, Report, SignedReport};
use qudao_storage::StorageError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PartnerCaller, PartnerDoor};
use crate::{
    code::Code,
    error::ApiError,
    extract::{Body, NoQuery, Query},
    state::AppState,
};

/// How old a report may be.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
/// What every report has to have passed: security and text. `S03` is for those with a key pair.
const REQUIRED: &[&str] = &[
    "S01", "S02", "S04", "S05", "S06", "S07", "S08", "S09", "S10", "S11", "S12", "S13", "S14",
    "S15", "T01", "T02", "T03", "T04", "T05", "T06", "T07", "T08", "T09", "T10", "T11", "T12",
];

/// A signed report of `qudao-conform`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReportBody {
    /// The report's JSON, as it was signed.
    report: String,
    /// Who signed.
    #[schema(example = "whpk_…")]
    public_key: String,
    /// ed25519 over `report`, in base64.
    signature: String,
}

/// The channel takes real conversations.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lifted {
    sandbox: bool,
    /// It had been lifted before.
    already: bool,
}

pub(crate) async fn submit(
    state: web::Data<AppState>,
    PartnerCaller(door): PartnerCaller,
    _: Query<NoQuery>,
    Body(body): Body<ReportBody>,
) -> Result<HttpResponse, ApiError> {
    let ReportBody { report, public_key, signature } = body;
    let signed = SignedReport { report, public_key, signature };
    let refused = |words: String| ApiError::new(Code::ReportRefused, words);
    let (report, key) = signed.verify().map_err(|error| refused(error.to_string()))?;
    let trusted = &state.settings.partner.report_keys;
    let known = if trusted.is_empty() {
        Keys::of(&door.setup.config).verifier.public_keys.contains(&key)
    } else {
        trusted.contains(&key)
    };
    if !known {
        let words = "the report is signed with a key that this platform does not believe";
        return Err(refused(words.to_owned()));
    }
    judge(&report, &door, state.core.clock.now()).map_err(refused)?;
    let (core, tenant_id, channel_id) = (state.core.clone(), door.tenant_id, door.channel_id);
    let lifting = async move {
        let mut tx = core.store.begin(tenant_id).await?;
        let lifted = tx.lift_partner_sandbox(channel_id).await?;
        tx.commit().await?;
        Ok::<_, StorageError>(lifted)
    };
    let lifted = state.on_runtime(lifting).await?;
    Ok(HttpResponse::Ok().json(Lifted { sandbox: false, already: !lifted }))
}

fn judge(report: &Report, door: &PartnerDoor, now: jiff::Timestamp) -> Result<(), String> {
    if report.channel != door.channel_id.to_string() {
        return Err("the report is of another channel".to_owned());
    }
    let age = now.duration_since(report.at).unsigned_abs();
    if FRESH < age {
        return Err("the report is older than seven days".to_owned());
    }
    if !report.is_green() {
        return Err("a case of the report failed".to_owned());
    }
    let passed = |id: &&str| {
        let case = report.cases.iter().find(|case| case.id == **id);
        case.is_some_and(|case| case.outcome == Outcome::Passed)
    };
    match REQUIRED.iter().find(|id| !passed(id)) {
        Some(id) => Err(format!("the report does not say that {id} passed")),
        None => Ok(()),
    }
}
