//! A node of the last version serves while a new one brings the schema up to date. So every
//! migration must leave what the version before it uses: its functions, its columns, its rights,
//! and the meaning of both.
//!
//! `releases/<migration>.sql` is what a node of that schema says to the database. A migration that
//! adds a function which nodes call comes with a new such file; the old ones stay as they are.

use std::{collections::BTreeSet, fs, path::Path};

use qudao_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

/// The last migration of the first release: no older node has ever served on what came before.
const FIRST_RELEASE: &str = "20261101090700";

struct Migration {
    version: String,
    sql: String,
}

fn files(dir: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sql"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn migrations() -> Vec<Migration> {
    let named = |(name, sql): (String, String)| Migration {
        version: name.split('_').next().unwrap().to_owned(),
        sql,
    };
    files("../../migrations").into_iter().map(named).collect()
}

/// What the newest nodes that know this schema say.
fn release(version: &str) -> String {
    let known = files("tests/it/releases");
    let newest = known.into_iter().rfind(|(release, _)| release.as_str() <= version);
    newest.expect("there is a file for the first release").1
}

async fn run(db: &mut PgConnection, sql: &str) -> Result<(), String> {
    let outcome = db.execute(AssertSqlSafe(sql.to_owned())).await;
    outcome.map(|_| ()).map_err(|error| error.to_string())
}

/// What a node relies on, a line for each thing.
async fn surface(db: &mut PgConnection) -> BTreeSet<String> {
    let things = [
        "SELECT format('function app.%s(%s) returns %s', p.proname, \
                       pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)) \
         FROM pg_proc p WHERE p.pronamespace = 'app'::regnamespace AND p.prorettype <> 'trigger'::regtype",
        "SELECT format('%s may call app.%s(%s)', r.rolname, p.proname, \
                       pg_get_function_identity_arguments(p.oid)) \
         FROM pg_proc p, pg_roles r WHERE p.pronamespace = 'app'::regnamespace \
           AND r.rolname LIKE 'qudao\\_%' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')",
        "SELECT format('column %s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod)) \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v') \
         WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped \
           AND c.relname <> '_sqlx_migrations'",
        "SELECT format('%s may %s %s', r.rolname, x.privilege_type, c.relname) \
         FROM pg_class c, aclexplode(c.relacl) x JOIN pg_roles r ON r.oid = x.grantee \
         WHERE c.relnamespace = 'public'::regnamespace AND r.rolname LIKE 'qudao\\_%'",
        "SELECT format('constraint %s on %s', n.conname, c.relname) FROM pg_constraint n \
         JOIN pg_class c ON c.oid = n.conrelid WHERE n.contype IN ('p', 'u') \
           AND c.relnamespace = 'public'::regnamespace AND c.relname <> '_sqlx_migrations'",
    ];
    let mut surface = BTreeSet::new();
    for sql in things {
        let rows = sqlx::query(sql).fetch_all(&mut *db).await.unwrap();
        surface.extend(rows.iter().map(|row| row.get::<String, _>(0)));
    }
    surface
}

/// What is wrong with a migration for nodes of the schema before it; empty if nothing.
async fn faults(before: &[Migration], migration: &str, release: &str) -> Vec<String> {
    let empty = TestDb::empty().await;
    let mut db = PgConnection::connect(empty.url()).await.unwrap();
    for step in before {
        run(&mut db, &step.sql).await.unwrap();
    }
    let had = surface(&mut db).await;
    run(&mut db, &release.replace("<n>", "1")).await.expect("the release works on its own schema");
    if let Err(error) = run(&mut db, migration).await {
        return vec![format!("it fails on a database with rows: {error}")];
    }
    let has = surface(&mut db).await;
    let mut faults: Vec<_> = had.difference(&has).map(|thing| format!("gone: {thing}")).collect();
    if let Err(error) = run(&mut db, &release.replace("<n>", "2")).await {
        faults.push(format!("an old node fails: {error}"));
    }
    faults
}

#[tokio::test]
async fn every_migration_leaves_what_the_version_before_it_uses() {
    let migrations = migrations();
    let served = migrations.iter().position(|step| step.version == FIRST_RELEASE).unwrap();
    for index in served + 1..migrations.len() {
        let (before, step) = (&migrations[..index], &migrations[index]);
        let release = release(&before[index - 1].version);
        let found = faults(before, &step.sql, &release).await;
        assert_eq!(found, Vec::<String>::new(), "migration {}", step.version);
    }
}

#[tokio::test]
async fn the_newest_release_calls_every_function_that_nodes_may_call() {
    let migrations = migrations();
    let newest = release(&migrations.last().unwrap().version);
    let empty = TestDb::empty().await;
    let mut db = PgConnection::connect(empty.url()).await.unwrap();
    for step in &migrations {
        run(&mut db, &step.sql).await.unwrap();
    }
    run(&mut db, &newest.replace("<n>", "1")).await.unwrap();
    // What only other functions call is called through them.
    let inner = ["book_usage"];
    let functions: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT p.proname::text FROM pg_proc p, pg_roles r \
         WHERE p.pronamespace = 'app'::regnamespace AND r.rolname LIKE 'qudao\\_%' \
           AND has_function_privilege(r.oid, p.oid, 'EXECUTE') ORDER BY 1",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    assert!(20 <= functions.len(), "{functions:?}");
    let silent = functions.iter().filter(|name| {
        !inner.contains(&name.as_str()) && !newest.contains(&format!("app.{name}("))
    });
    assert_eq!(silent.collect::<Vec<_>>(), Vec::<&String>::new(), "add a file to releases/");
}

#[tokio::test]
async fn a_migration_that_breaks_the_version_before_it_is_found() {
    let migrations = migrations();
    let served = migrations.iter().position(|step| step.version == FIRST_RELEASE).unwrap();
    let before = &migrations[..=served];
    let release = release(FIRST_RELEASE);
    let harmless = "ALTER TABLE routes ADD COLUMN weight int NOT NULL DEFAULT 1";
    assert_eq!(faults(before, harmless, &release).await, Vec::<String>::new());
    for (migration, fault) in [
        ("ALTER TABLE channels RENAME COLUMN name TO title", "gone: column channels.name text"),
        ("ALTER TABLE routes ADD COLUMN weight int NOT NULL", "it fails on a database with rows"),
        ("ALTER TABLE outbox DROP COLUMN last_error", "gone: column outbox.last_error text"),
        (
            "DROP FUNCTION app.close_block(uuid); \
             CREATE FUNCTION app.close_block(p_block uuid, p_why text) RETURNS boolean \
             LANGUAGE sql AS 'SELECT true'",
            "gone: function app.close_block(p_block uuid)",
        ),
        ("REVOKE UPDATE ON outbox FROM qudao_app", "gone: qudao_app may UPDATE outbox"),
        (
            "ALTER TABLE api_keys ADD CONSTRAINT named CHECK (name <> 'k') NOT VALID",
            "an old node fails",
        ),
        (
            "CREATE OR REPLACE FUNCTION app.extend_block(p_block uuid, p_more bigint, \
             p_lease_ms bigint) RETURNS text LANGUAGE sql AS 'SELECT NULL'",
            "an old node fails",
        ),
    ] {
        let found = faults(before, migration, &release).await;
        assert!(found.iter().any(|one| one.starts_with(fault)), "{migration}: {found:?}");
    }
}
