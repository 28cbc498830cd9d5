//! What is declared of people's data is what the catalogue has.

use std::collections::BTreeSet;

use qudao_storage::{Erase, Link, TABLES};
use qudao_testkit::TestDb;

fn lines(db: &TestDb, sql: &str) -> BTreeSet<String> {
    db.psql(sql).lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

const TENANT_TABLES: &str = "SELECT c.relname FROM pg_class c \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace";

#[tokio::test]
async fn every_table_of_a_tenant_says_what_becomes_of_its_rows() {
    let db = TestDb::new().await;
    let declared: BTreeSet<String> = TABLES.iter().map(|rule| rule.table.to_owned()).collect();
    assert_eq!(declared.len(), TABLES.len(), "a table is declared twice");
    assert_eq!(
        declared,
        lines(&db, TENANT_TABLES),
        "declare it in crates/qudao-storage/src/people/map.rs"
    );
}

#[tokio::test]
async fn every_column_that_may_hold_words_is_erased_or_said_to_be_plain() {
    let db = TestDb::new().await;
    let mut declared = BTreeSet::new();
    for rule in TABLES {
        let columns = rule.erased_columns().into_iter().chain(rule.plain.iter().copied());
        let columns: BTreeSet<&str> = columns.collect();
        declared.extend(columns.into_iter().map(|column| format!("{}.{column}", rule.table)));
    }
    let emptied: Vec<_> =
        TABLES.iter().filter(|rule| rule.is_emptied()).map(|rule| rule.table).collect();
    let worded = format!(
        "SELECT c.relname || '.' || a.attname FROM pg_class c \
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE c.relname IN ({TENANT_TABLES}) AND c.relnamespace = 'public'::regnamespace \
           AND c.relname <> ALL ('{{{}}}') \
           AND a.atttypid NOT IN ('uuid'::regtype, 'bigint'::regtype, 'int'::regtype, \
               'smallint'::regtype, 'boolean'::regtype, 'timestamptz'::regtype)",
        emptied.join(",")
    );
    assert_eq!(declared, lines(&db, &worded));
}

#[tokio::test]
async fn every_table_that_names_a_contact_or_a_conversation_is_linked_to_it() {
    let db = TestDb::new().await;
    for (column, link) in [("contact_id", Link::Contact), ("conversation_id", Link::Conversation)] {
        let having = format!(
            "{TENANT_TABLES} AND EXISTS (SELECT FROM pg_attribute b \
             WHERE b.attrelid = c.oid AND b.attname = '{column}')"
        );
        let linked: BTreeSet<String> = TABLES
            .iter()
            .filter(|rule| rule.contact == Some(link))
            .map(|rule| rule.table.to_owned())
            .collect();
        let mut having = lines(&db, &having);
        // It names both, and is its own.
        if link == Link::Conversation {
            having.remove("conversations");
        }
        assert_eq!(linked, having, "{column}");
    }
    // A reason is a sentence, and not a word to get past this test.
    for rule in TABLES {
        for erase in [rule.of_contact, rule.of_tenant] {
            if let Erase::Keep(reason) = erase {
                assert!(12 < reason.len(), "{}: {reason}", rule.table);
            }
        }
    }
}
