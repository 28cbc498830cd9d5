//! Rows as they are, table by table.

use std::time::Duration;

use qudao_domain::{ContactId, TenantId};
use serde_json::Value;
use sqlx::{AssertSqlSafe, types::Json};

use super::{TABLES, TableRule};
use crate::{Result, Store, Tx};

/// Rows that are read at a time.
const PAGE: i64 = 500;
/// A page may have to look through many rows of others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportOf {
    /// What concerns one contact.
    Contact(ContactId),
    /// All of a tenant's.
    Tenant,
}

/// Some rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedRows {
    /// The table.
    pub table: &'static str,
    /// The rows, a JSON object each.
    pub rows: Vec<Value>,
}

/// The way through the tables.
#[derive(Debug)]
pub struct Export {
    store: Store,
    tenant_id: TenantId,
    of: ExportOf,
    table: usize,
    after: Option<Value>,
}

impl Store {
    /// Begins to read all rows of a tenant or of one of its contacts. Each page is a transaction of
    /// its own, so that a slow reader holds nothing up; what is written meanwhile may be in it.
    pub fn export(&self, tenant_id: TenantId, of: ExportOf) -> Export {
        Export { store: self.clone(), tenant_id, of, table: 0, after: None }
    }
}

impl Export {
    /// The next rows; `None` when all have been read.
    ///
    /// # Errors
    /// [`StorageError`](crate::StorageError).
    pub async fn next(&mut self) -> Result<Option<ExportedRows>> {
        while let Some(rule) = TABLES.get(self.table) {
            let wanted = match self.of {
                ExportOf::Contact(_) => rule.exported && rule.contact.is_some(),
                ExportOf::Tenant => rule.exported,
            };
            let mut rows = Vec::new();
            if wanted {
                let mut tx = self.store.begin(self.tenant_id).await?;
                rows = tx.export_page(rule, self.of, self.after.as_ref()).await?;
                tx.commit().await?;
            }
            self.after = rows.last().cloned();
            if self.after.is_none() {
                self.table += 1;
                continue;
            }
            for row in &mut rows {
                if let Value::Object(columns) = row {
                    columns.retain(|column, _| !rule.hidden.contains(&column.as_str()));
                }
            }
            return Ok(Some(ExportedRows { table: rule.table, rows }));
        }
        Ok(None)
    }
}

impl Tx {
    /// The last row of the page before is the cursor: it is compared by the primary key.
    async fn export_page(
        &mut self,
        rule: &TableRule,
        of: ExportOf,
        after: Option<&Value>,
    ) -> Result<Vec<Value>> {
        let table = rule.table;
        let patience = format!("SET LOCAL statement_timeout = '{}ms'", PATIENCE.as_millis());
        sqlx::query(AssertSqlSafe(patience)).execute(self.connection()).await?;
        let keys: Vec<String> = sqlx::query_scalar(
            "SELECT quote_ident(a.attname) FROM pg_index i \
             CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, place) \
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = $1::regclass AND i.indisprimary ORDER BY k.place",
        )
        .bind(table)
        .fetch_all(self.connection())
        .await?;
        let columns = |of: &str| {
            let named: Vec<_> = keys.iter().map(|key| format!("{of}.{key}")).collect();
            named.join(", ")
        };
        let contact = match (of, rule.contact) {
            (ExportOf::Contact(id), Some(_)) => Some(id.as_uuid()),
            _ => None,
        };
        let concerns = match (contact, rule.contact) {
            (Some(_), Some(link)) => rule.of(link),
            // The parameter has to have a type.
            _ => "$2::uuid IS NULL",
        };
        // Made of names in this program and of names quoted by the database.
        let sql = format!(
            "SELECT to_jsonb(t) FROM {table} t WHERE t.tenant_id = $1 AND {concerns} \
               AND ($3::jsonb IS NULL OR ({}) > \
                   (SELECT {} FROM jsonb_populate_record(NULL::{table}, $3) r)) \
             ORDER BY {} LIMIT {PAGE}",
            columns("t"),
            columns("r"),
            columns("t"),
        );
        let rows: Vec<Json<Value>> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.tenant_id().as_uuid())
            .bind(contact)
            .bind(after.map(Json))
            .fetch_all(self.connection())
            .await?;
        Ok(rows.into_iter().map(|Json(row)| row).collect())
    }
}
