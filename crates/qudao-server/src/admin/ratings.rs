//! How conversations were, in the words of those who had them.

use actix_web::{HttpResponse, web};
use jiff::Timestamp;
use qudao_domain::{ChannelId, ContactId, ConversationId};
use qudao_storage::{Rating, RatingCount};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::in_tenant;
use crate::{
    access::TenantScope,
    code::Code,
    error::ApiError,
    extract::{MAX_PAGE, Query},
    state::AppState,
};

const DEFAULT_DAYS: u32 = 30;
const MAX_DAYS: u32 = 366;
const DEFAULT_LATEST: u32 = 20;

/// Over how long, and how many one by one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RatingQuery {
    days: Option<u32>,
    limit: Option<u32>,
}

/// How conversations were.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ratings {
    /// Over so many days.
    days: u32,
    /// For each channel that has a rating.
    data: Vec<ChannelRatings>,
    /// The last ones, the newest first.
    latest: Vec<RatingBody>,
}

/// How conversations of a channel were.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChannelRatings {
    #[schema(value_type = String)]
    channel_id: ChannelId,
    /// How many there are.
    count: i64,
    /// How many of them are good: 4 or 5.
    good: i64,
    /// How often each score was given: 1 first, 5 last.
    #[schema(min_items = 5, max_items = 5)]
    scores: [i64; 5],
}

/// How a conversation was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(title = "Rating", as = Rating)]
pub(crate) struct RatingBody {
    #[schema(value_type = String)]
    conversation_id: ConversationId,
    #[schema(value_type = String)]
    channel_id: ChannelId,
    #[schema(value_type = String)]
    contact_id: ContactId,
    /// 1 to 5.
    #[schema(minimum = 1, maximum = 5)]
    score: u8,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
}

impl From<RatingCount> for ChannelRatings {
    fn from(RatingCount { channel_id, scores }: RatingCount) -> Self {
        let [_, _, _, good, best] = scores;
        Self { channel_id, count: scores.iter().sum(), good: good + best, scores }
    }
}

impl From<Rating> for RatingBody {
    fn from(rating: Rating) -> Self {
        let Rating { conversation_id, channel_id, contact_id, score, at } = rating;
        Self { conversation_id, channel_id, contact_id, score, at }
    }
}

pub(crate) async fn read(
    state: web::Data<AppState>,
    TenantScope(tenant_id): TenantScope,
    Query(RatingQuery { days, limit }): Query<RatingQuery>,
) -> Result<HttpResponse, ApiError> {
    let (days, limit) = (days.unwrap_or(DEFAULT_DAYS), limit.unwrap_or(DEFAULT_LATEST));
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(ApiError::new(Code::InvalidQuery, "days has to be between 1 and 366"));
    }
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::new(Code::InvalidQuery, "limit has to be between 1 and 200"));
    }
    let found = in_tenant(&state, tenant_id, move |tx| {
        Box::pin(async move {
            Ok((tx.count_ratings(days).await?, tx.latest_ratings(days, limit).await?))
        })
    });
    let (counts, latest) = found.await?;
    Ok(HttpResponse::Ok().json(Ratings {
        days,
        data: counts.into_iter().map(Into::into).collect(),
        latest: latest.into_iter().map(Into::into).collect(),
    }))
}
