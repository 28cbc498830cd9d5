use super::*;

#[test]
fn the_database_of_a_url_is_replaced_and_nothing_else() {
    let replaced = |url| with_database(url, "other");
    assert_eq!(replaced("postgres://u@h/db?host=/run/x"), "postgres://u@h/other?host=/run/x");
    assert_eq!(replaced("postgres://u:p@h:5432/db"), "postgres://u:p@h:5432/other");
    assert_eq!(replaced("postgres://h"), "postgres://h/other");
    assert_eq!(replaced("postgres:///db?host=/run/x"), "postgres:///other?host=/run/x");
}

#[tokio::test]
async fn two_databases_share_a_schema_and_no_rows() {
    let (one, two) = (TestDb::new().await, TestDb::new().await);
    let tables = "SELECT count(*) > 0 FROM pg_tables WHERE tablename = '_sqlx_migrations'";
    assert_eq!(one.psql(tables), "t");
    one.psql("CREATE TABLE mine AS SELECT 1");
    assert_eq!(two.psql("SELECT to_regclass('mine') IS NULL"), "t");
}

#[tokio::test]
async fn a_database_is_dropped_with_its_value() {
    let db = TestDb::new().await;
    let (admin_url, name) = (db.admin_url.clone(), db.name.clone());
    drop(db);
    let find = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
    assert_eq!(psql(&admin_url, &[&find]).as_deref(), Ok("0"));
}
