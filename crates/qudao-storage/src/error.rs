//! What can go wrong, by what the caller can do about it.

use std::{fmt, sync::Arc};

use metrics::counter;
use qudao_telemetry::Redacted;
use sqlx::postgres::PgDatabaseError;

/// A failure of the database, sorted by what the caller can do.
///
/// `Debug` is fit for a log line: what Postgres adds to a refusal may be the whole row, a person's
/// message included, and is left out.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The database is not reachable, shuts down, or the connection was lost half way. Whether
    /// the last commit happened is unknown then: repeat the same step, all of them are safe to
    /// repeat.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A statement or the connection pool took too long. Nothing was changed; try later.
    #[error("the database took too long")]
    Timeout(#[source] sqlx::Error),
    /// Another transaction held a lock for too long, mostly that of a row. Nothing was changed; try
    /// later.
    #[error("another transaction holds a lock")]
    Locked(#[source] sqlx::Error),
    /// Another transaction got in the way. Nothing was changed; try again at once.
    #[error("another transaction got in the way")]
    Contended(#[source] sqlx::Error),
    /// Something with the same key exists already.
    #[error("it exists already ({constraint})")]
    Conflict {
        /// The unique constraint.
        constraint: String,
    },
    /// A row that this one refers to does not exist in this tenant.
    #[error("what it refers to does not exist ({constraint})")]
    MissingParent {
        /// The foreign key.
        constraint: String,
    },
    /// The value breaks a rule of the schema. The rules that callers can break by accident are
    /// checked before; this one is a defect of the caller.
    #[error("the value breaks a rule ({constraint})")]
    Refused {
        /// The check constraint.
        constraint: String,
    },
    /// The cursor of a page was not made by the list it was given to.
    #[error("not a cursor of this list")]
    BadCursor,
    /// A stored value cannot be read, or the database contradicts itself. An operator must look.
    #[error("the database holds what it must not: {detail}")]
    Inconsistent {
        /// What was found.
        detail: String,
    },
    /// The role of the URL may not do this, such as create roles or bypass row-level security.
    #[error("the database role lacks a right: {detail}")]
    Forbidden {
        /// What was refused.
        detail: String,
    },
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The URL cannot be read.
    #[error("not a database URL")]
    BadUrl(#[source] sqlx::Error),
    /// The URL of the bus cannot be read.
    #[error(
        "not a Redis URL: write redis://host:port, redis-cluster://one:port,two:port or redis+unix:///path"
    )]
    BadBusUrl(#[source] BusUrlError),
    /// What all who shared a statement met.
    #[error(transparent)]
    Shared(Arc<StorageError>),
    /// A statement failed in a way that no caller can mend: a defect.
    #[error("a database statement failed")]
    Defect(#[source] sqlx::Error),
}

impl fmt::Debug for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Shared(error) = self {
            return fmt::Debug::fmt(error, f);
        }
        write!(f, "{self}")?;
        let cause = match self {
            Self::Unavailable(error)
            | Self::Timeout(error)
            | Self::Locked(error)
            | Self::Contended(error)
            | Self::BadUrl(error)
            | Self::Defect(error) => error,
            Self::Migration(error) => return write!(f, ": {error}"),
            _ => return Ok(()),
        };
        let refusal =
            cause.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
        match refusal {
            Some(refusal) => {
                let (code, table) = (refusal.code(), refusal.table().unwrap_or_default());
                // A message quotes values that cannot be read, and a line of them is enough.
                write!(f, " ({code} {table}): {}", Redacted(refusal.message()))
            }
            None => write!(f, ": {cause}"),
        }
    }
}

/// Why a Redis URL was refused.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BusUrlError(pub(crate) redis::RedisError);

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        let error = Self::classify(error);
        error.count();
        error
    }
}

impl StorageError {
    /// What the caller can do about it decides the variant.
    fn classify(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut => Self::Timeout(error),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Self::Unavailable(error),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Inconsistent { detail: error.to_string() }
            }
            sqlx::Error::Database(_) => Self::from_database(error),
            _ => Self::Defect(error),
        }
    }

    /// Failures of the database are counted; refusals are answers.
    fn count(&self) {
        let class = match self {
            Self::Unavailable(_) => "unavailable",
            Self::Timeout(_) => "timeout",
            Self::Locked(_) => "locked",
            Self::Contended(_) => "contended",
            Self::Defect(_) => "defect",
            _ => return,
        };
        counter!("qudao_db_errors_total", "class" => class).increment(1);
    }

    fn from_database(error: sqlx::Error) -> Self {
        let Some(refusal) =
            error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>())
        else {
            return Self::Defect(error);
        };
        let constraint = refusal.constraint().unwrap_or_default().to_owned();
        let detail = refusal.message().to_owned();
        // The classes of appendix A of the Postgres manual, "PostgreSQL Error Codes".
        match refusal.code() {
            "23505" => Self::Conflict { constraint },
            "23503" => Self::MissingParent { constraint },
            "23514" | "23502" => Self::Refused { constraint },
            "40001" | "40P01" => Self::Contended(error),
            "57014" => Self::Timeout(error),
            "55P03" => Self::Locked(error),
            "42501" => Self::Forbidden { detail },
            "QD001" => Self::Inconsistent { detail },
            code if code.starts_with("08")
                || code.starts_with("57P")
                || code.starts_with("53")
                // 25006: a server that is, or has just become, a standby.
                || matches!(code, "25P03" | "3D000" | "25006") =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Defect(error),
        }
    }

    /// Nobody finished the step: whether it happened is unknown.
    pub fn unfinished() -> Self {
        Self::Unavailable(sqlx::Error::WorkerCrashed)
    }

    /// Whether one of several that shared a statement may be to blame, so that each is worth a try for
    /// itself. What all of them met, such as a database that takes too long, would be met again by each.
    pub fn concerns_one(&self) -> bool {
        !self.is_transient() || matches!(self, Self::Contended(_) | Self::Locked(_))
    }

    /// Whether the same step may succeed when it is repeated unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Timeout(_) | Self::Locked(_) | Self::Contended(_) => true,
            Self::Shared(error) => error.is_transient(),
            _ => false,
        }
    }
}

impl StorageError {
    /// A function of the schema answered with a word that this version does not know.
    pub(crate) fn unknown_outcome(function: &str, outcome: &str) -> Self {
        Self::Inconsistent { detail: format!("{function} answered {outcome:?}") }
    }
}
