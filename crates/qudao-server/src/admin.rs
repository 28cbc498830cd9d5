//! The admin API: what an operator and a tenant manage. A handler reads, calls one thing, answers.

use actix_web::web;
use futures_util::future::BoxFuture;
use qudao_domain::{Currency, Micros, TenantId};
use qudao_storage::{Listing, Page, StorageError, Tx};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{error::ApiError, extract::PageQuery, state::AppState};

pub(crate) mod api_keys;
pub(crate) mod assistants;
pub(crate) mod audit;
pub(crate) mod books;
pub(crate) mod channel_kinds;
pub(crate) mod channels;
pub(crate) mod conversations;
pub(crate) mod decisions;
pub(crate) mod identity_providers;
pub(crate) mod members;
pub(crate) mod merges;
pub(crate) mod offers;
pub(crate) mod partners;
pub(crate) mod people;
pub(crate) mod plugins;
pub(crate) mod ratings;
pub(crate) mod roles;
pub(crate) mod routes;
pub(crate) mod sessions;
pub(crate) mod tenants;
pub(crate) mod traffic;

/// An amount of money. Never a float.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Money {
    /// A decimal number with at most six places.
    #[schema(example = "12.5")]
    amount: String,
    /// Three capital letters, ISO 4217.
    #[schema(example = "CNY")]
    currency: String,
}

impl Money {
    fn new(amount: Micros, currency: Currency) -> Self {
        Self { amount: amount.to_string(), currency: currency.to_string() }
    }
}

/// A part of a list, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The items.
    data: Vec<T>,
    /// Pass it as `cursor` for the next part; `null` after the last.
    next_cursor: Option<String>,
    /// Whether there is a next part.
    has_more: bool,
}

impl<T> List<T> {
    fn of<S: Into<T>>(listing: Listing<S>) -> Self {
        Self {
            data: listing.items.into_iter().map(Into::into).collect(),
            has_more: listing.next.is_some(),
            next_cursor: listing.next,
        }
    }
}

fn page(query: &PageQuery) -> Result<Page, ApiError> {
    Ok(Page { limit: query.limit()?, cursor: query.cursor().map(str::to_owned) })
}

/// What a transaction's work returns.
pub(crate) type Work<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// Runs `work`, which reads, in one transaction of an existing tenant. The database refuses to
/// change anything in it: what changes something goes through [`crate::act::change`] or
/// [`crate::once::commit_once`], which write it down.
///
/// # Errors
/// `not_found` if there is no such tenant, else what `work` says.
async fn in_tenant<T, F>(
    state: &web::Data<AppState>,
    tenant_id: TenantId,
    work: F,
) -> Result<T, ApiError>
where
    F: for<'a> FnOnce(&'a mut Tx) -> Work<'a, T> + Send + 'static,
    T: Send + 'static,
{
    let core = state.core.clone();
    state
        .on_runtime(async move {
            let mut tx = of_existing(core.store.begin_reading(tenant_id).await?).await?;
            let done = work(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, ApiError>(done)
        })
        .await
}

/// The transaction, if its tenant exists.
///
/// # Errors
/// `not_found`.
pub(crate) async fn of_existing(mut tx: Tx) -> Result<Tx, ApiError> {
    match tx.tenant().await? {
        Some(_) => Ok(tx),
        None => Err(ApiError::not_found("tenant")),
    }
}

/// A reference to a thing that does not exist is a wrong field, and not a missing page.
fn dangling(pointer: &'static str, noun: &'static str) -> impl FnOnce(StorageError) -> ApiError {
    move |error| match error {
        StorageError::MissingParent { .. } => {
            ApiError::field(pointer, format_args!("there is no such {noun}"))
        }
        error => error.into(),
    }
}

/// A language tag such as `zh` or `en-GB`.
pub(crate) fn parse_locale(text: &str) -> Result<String, &'static str> {
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    let letters = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphabetic());
    let named = (2..=3).contains(&language.len()) && letters(language);
    let rest = parts.all(|part| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if named && rest && text.len() <= 35 {
        return Ok(text.to_owned());
    }
    Err("has to be a language tag such as zh or en-GB")
}

/// A text that may be empty and is kept as it is.
fn parse_optional_text(text: &str, max_chars: usize) -> Result<String, String> {
    let chars = text.chars().count();
    if max_chars < chars {
        return Err(format!("is {chars} characters long; at most {max_chars} are allowed"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn language_tags_are_told_from_other_texts() {
        for tag in ["zh", "en", "zh-CN", "zh-Hant-TW", "fil"] {
            assert_eq!(parse_locale(tag).as_deref(), Ok(tag));
        }
        for text in ["", "z", "1h", "zh_", "zh-", "zh CN", "chinese", "zh-<script>"] {
            assert!(parse_locale(text).is_err(), "{text}");
        }
    }
}
