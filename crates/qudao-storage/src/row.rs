//! From columns to domain values.

use jiff::Timestamp;
use qudao_domain::{Currency, Micros, access::Scopes, key::SecretHash};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

type Read<T> = Result<T, sqlx::Error>;

/// A stored text that is none of the values it may have.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of the values of this column")]
struct UnknownValue(String);

fn unreadable(column: &str, value: impl Into<String>) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(UnknownValue(value.into())),
    }
}

pub(crate) fn id<T>(row: &PgRow, column: &str, make: fn(Uuid) -> T) -> Read<T> {
    row.try_get(column).map(make)
}

pub(crate) fn optional_id<T>(row: &PgRow, column: &str, make: fn(Uuid) -> T) -> Read<Option<T>> {
    row.try_get::<Option<Uuid>, _>(column).map(|id| id.map(make))
}

pub(crate) fn micros(row: &PgRow, column: &str) -> Read<Micros> {
    row.try_get(column).map(Micros::new)
}

pub(crate) fn currency(row: &PgRow, column: &str) -> Read<Currency> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| unreadable(column, text))
}

/// A count, which the schema keeps within 32 bits.
pub(crate) fn count(row: &PgRow, column: &str) -> Read<u32> {
    let number: i32 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| unreadable(column, number.to_string()))
}

/// A time, which queries select as microseconds since 1970 (`app.micros(…)`).
pub(crate) fn time(row: &PgRow, column: &str) -> Read<Timestamp> {
    time_of(row.try_get(column)?)
}

/// The same outside of a row.
pub(crate) fn time_of(micros: i64) -> Read<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|_| unreadable("a time", micros.to_string()))
}

pub(crate) fn optional_time(row: &PgRow, column: &str) -> Read<Option<Timestamp>> {
    let micros: Option<i64> = row.try_get(column)?;
    micros
        .map(|micros| {
            Timestamp::from_microsecond(micros).map_err(|_| unreadable(column, micros.to_string()))
        })
        .transpose()
}

/// A value of a closed set, such as `InboxState::find`.
pub(crate) fn state<T>(row: &PgRow, column: &str, find: fn(&str) -> Option<T>) -> Read<T> {
    let text: String = row.try_get(column)?;
    find(&text).ok_or_else(|| unreadable(column, text))
}

/// What somebody may do.
pub(crate) fn scopes(row: &PgRow) -> Read<Scopes> {
    row.try_get::<Vec<String>, _>("scopes").map(|words| Scopes::stored(&words))
}

/// A hash of a secret.
pub(crate) fn secret_hash(row: &PgRow) -> Read<SecretHash> {
    let bytes: Vec<u8> = row.try_get("secret_hash")?;
    SecretHash::from_slice(&bytes)
        .ok_or_else(|| unreadable("secret_hash", format!("a hash of {} bytes", bytes.len())))
}

/// A number of tokens, which the schema keeps between zero and `u32::MAX`.
pub(crate) fn tokens(row: &PgRow, column: &str) -> Read<u32> {
    let number: i64 = row.try_get(column)?;
    u32::try_from(number).map_err(|_| unreadable(column, number.to_string()))
}
