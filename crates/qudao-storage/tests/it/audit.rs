//! The audit log: gap-free under load, and no change of it goes unseen.

use qudao_domain::TenantId;
use qudao_storage::{AuditEvent, AuditFault, AuditHead, KnownHead, Page, StorageError, Store};
use qudao_testkit::{TestDb, connect};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::accept::join_all;

pub(crate) fn act(action: &str, number: i64) -> AuditEvent {
    AuditEvent {
        actor: "operator".to_owned(),
        action: action.to_owned(),
        target: format!("chn_{number}"),
        detail: json!({ "number": number, "name": "Zürich, 漢字 and \u{1f600}", "share": 0.1 }),
        request_id: (number % 2 == 0).then(|| format!("req_{number}")),
        address: (number % 3 == 0).then(|| "2001:db8::1".to_owned()),
    }
}

async fn record(store: &Store, tenant_id: TenantId, count: i64) {
    let mut tx = store.begin(tenant_id).await.unwrap();
    for number in 1..=count {
        assert_eq!(tx.record_audit(&act("channel.update", number)).await.unwrap(), number);
    }
    tx.commit().await.unwrap();
}

async fn faults(store: &Store, known: &[KnownHead]) -> Vec<(TenantId, AuditFault)> {
    let reports = store.verify_audit(None, known).await.unwrap();
    reports.into_iter().filter_map(|report| Some((report.tenant_id, report.fault?))).collect()
}

#[tokio::test]
async fn an_act_is_recorded_with_its_transaction_or_not_at_all() {
    let db = TestDb::new().await;
    let store = db.store();
    let tenant_id = TenantId::new();
    record(&store, tenant_id, 3).await;
    let mut tx = store.begin(tenant_id).await.unwrap();
    assert_eq!(tx.record_audit(&act("lost.act", 4)).await.unwrap(), 4);
    tx.rollback().await.unwrap();
    let mut tx = store.begin(tenant_id).await.unwrap();
    assert_eq!(tx.record_audit(&act("kept.act", 4)).await.unwrap(), 4);
    let page = tx.list_audit(&Page::first(2)).await.unwrap();
    let listed: Vec<_> = page.items.iter().map(|item| (item.seq, &*item.event.action)).collect();
    assert_eq!(listed, [(4, "kept.act"), (3, "channel.update")]);
    assert_eq!(page.items[1].event, act("channel.update", 3));
    let rest = tx.list_audit(&Page { limit: 10, cursor: page.next }).await.unwrap();
    assert_eq!(rest.items.iter().map(|item| item.seq).collect::<Vec<_>>(), [2, 1]);
    tx.commit().await.unwrap();
    for bad in [
        AuditEvent { action: "Not An Action".to_owned(), ..act("x", 1) },
        AuditEvent { actor: String::new(), ..act("x", 1) },
        AuditEvent { detail: json!([]), ..act("x", 1) },
    ] {
        let mut tx = store.begin(tenant_id).await.unwrap();
        let refused = tx.record_audit(&bad).await.unwrap_err();
        assert!(matches!(refused, StorageError::Refused { .. }), "{refused:?}");
    }
    assert_eq!(faults(&store, &[]).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_writers_leave_no_gap() {
    let db = TestDb::new().await;
    let stores = join_all((0..4).map(|_| {
        let settings = qudao_storage::StoreSettings {
            max_connections: 4,
            ..qudao_storage::StoreSettings::new(db.url())
        };
        connect(settings)
    }))
    .await;
    let tenants = [TenantId::new(), TenantId::new()];
    let writers = (0..16_usize).map(|writer| {
        let (store, tenant_id) = (stores[writer % 4].clone(), tenants[writer % 2]);
        async move {
            for number in 0..25 {
                let mut tx = store.begin(tenant_id).await.unwrap();
                tx.record_audit(&act("channel.update", number)).await.unwrap();
                // One in five is undone.
                if number % 5 == 0 { tx.rollback().await } else { tx.commit().await }.unwrap();
            }
        }
    });
    join_all(writers).await;
    let reports = db.store().verify_audit(None, &[]).await.unwrap();
    let found: Vec<_> = reports.iter().map(|report| (report.rows, &report.fault)).collect();
    assert_eq!(found, [(160, &None), (160, &None)]);
    let disorder = "SELECT count(*) FROM audit_events a JOIN audit_events b \
                    ON b.tenant_id = a.tenant_id AND b.seq = a.seq + 1 WHERE b.at < a.at";
    assert_eq!(db.psql(disorder).trim(), "0", "times follow the numbers");
}

/// Chooses without a generator that could not be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        i64::try_from((self.0 >> 33) % u64::try_from(most).unwrap()).unwrap()
    }

    fn within(&mut self, from: i64, to: i64) -> i64 {
        from + self.below(to - from + 1)
    }
}

const ROWS: i64 = 24;
/// The last row that was signed.
const SIGNED: i64 = 18;

/// Somebody with all rights over the database.
struct Intruder {
    db: PgConnection,
    victim: TenantId,
    other: TenantId,
    dice: Dice,
}

impl Intruder {
    async fn run(&mut self, sql: &str) {
        let sql = sql.replace("$v", &format!("'{}'", self.victim.as_uuid()));
        let sql = sql.replace("$o", &format!("'{}'", self.other.as_uuid()));
        let sql = format!("SET session_replication_role = replica; {sql}");
        self.db.execute(AssertSqlSafe(sql.clone())).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Makes the hashes fit again from a row on, and the head with them.
    async fn cover_up(&mut self, from: i64) {
        self.run(&format!(
            "DO $$ DECLARE r record; v_prev bytea; BEGIN \
               SELECT hash INTO v_prev FROM audit_events WHERE tenant_id = $v AND seq = {from} - 1; \
               v_prev := COALESCE(v_prev, decode(repeat('00', 32), 'hex')); \
               FOR r IN SELECT * FROM audit_events WHERE tenant_id = $v AND seq >= {from} \
                        ORDER BY seq LOOP \
                 UPDATE audit_events e SET prev_hash = v_prev, hash = sha256( \
                     v_prev || uuid_send(e.tenant_id) || int8send(e.seq) \
                     || int8send(app.micros(e.at)) || app.audit_part(actor) \
                     || app.audit_part(action) || app.audit_part(target) \
                     || app.audit_part(detail::text) || app.audit_part(request_id) \
                     || app.audit_part(address)) \
                 WHERE e.tenant_id = r.tenant_id AND e.seq = r.seq RETURNING hash INTO v_prev; \
               END LOOP; \
               UPDATE audit_heads SET hash = v_prev, \
                   seq = (SELECT max(seq) FROM audit_events WHERE tenant_id = $v) \
               WHERE tenant_id = $v; \
             END $$"
        ))
        .await;
    }

    /// Tampers at random, and returns what was done with the rows of which one must be named.
    async fn tamper(&mut self) -> (String, i64, i64) {
        let row = self.dice.within(1, ROWS);
        match self.dice.below(8) {
            0 => {
                let change = [
                    "actor = 'mallory'",
                    "action = 'nothing.happened'",
                    "target = target || '0'",
                    "detail = detail || '{\"number\": 99}'",
                    "request_id = COALESCE(request_id || '1', 'x')",
                    "address = NULL, target = target || ' '",
                    "at = at + interval '1 microsecond'",
                    "hash = sha256(hash)",
                ][usize::try_from(self.dice.below(8)).unwrap()];
                self.run(&format!(
                    "UPDATE audit_events SET {change} WHERE tenant_id = $v AND seq = {row}"
                ))
                .await;
                (format!("edit: {change}"), row, row)
            }
            1 => {
                let row = self.dice.within(1, ROWS - 1);
                self.run(&format!("DELETE FROM audit_events WHERE tenant_id = $v AND seq = {row}"))
                    .await;
                ("delete".to_owned(), row, row)
            }
            2 => {
                let first = self.dice.within(1, ROWS - 1);
                let second = self.dice.within(first + 1, ROWS);
                self.run(&format!(
                    "UPDATE audit_events SET seq = CASE seq WHEN {first} THEN -1 ELSE -2 END \
                         WHERE tenant_id = $v AND seq IN ({first}, {second}); \
                     UPDATE audit_events SET seq = CASE seq WHEN -1 THEN {second} ELSE {first} END \
                         WHERE tenant_id = $v AND seq < 0"
                ))
                .await;
                ("reorder".to_owned(), first, first)
            }
            3 => {
                self.run(&format!(
                    "UPDATE audit_events SET seq = -seq WHERE tenant_id = $v AND seq >= {row}; \
                     UPDATE audit_events SET seq = 1 - seq WHERE tenant_id = $v AND seq < 0; \
                     INSERT INTO audit_events SELECT tenant_id, {row}, at, 'mallory', action, target, \
                         detail, request_id, address, prev_hash, sha256('x') \
                     FROM audit_events WHERE tenant_id = $v ORDER BY seq DESC LIMIT 1"
                ))
                .await;
                ("insert".to_owned(), row, row)
            }
            4 => {
                self.run(&format!(
                    "DELETE FROM audit_events WHERE tenant_id = $v AND seq >= {row}"
                ))
                .await;
                ("truncate the tail".to_owned(), row, row)
            }
            5 => {
                self.run(&format!(
                    "UPDATE audit_events SET tenant_id = '00000000-0000-0000-0000-000000000001' \
                         WHERE tenant_id = $v AND seq = {row}; \
                     UPDATE audit_events SET tenant_id = $v WHERE tenant_id = $o AND seq = {row}; \
                     UPDATE audit_events SET tenant_id = $o \
                         WHERE tenant_id = '00000000-0000-0000-0000-000000000001'"
                ))
                .await;
                ("swap between tenants".to_owned(), row, row)
            }
            // With everything covered up, the signed head tells.
            6 => {
                let row = self.dice.within(1, SIGNED);
                self.run(&format!(
                    "UPDATE audit_events SET actor = 'mallory' WHERE tenant_id = $v AND seq = {row}"
                ))
                .await;
                self.cover_up(row).await;
                ("edit, covered up".to_owned(), 1, SIGNED)
            }
            _ => {
                let row = self.dice.within(1, SIGNED);
                self.run(&format!(
                    "DELETE FROM audit_events WHERE tenant_id = $v AND seq >= {row}; \
                     DELETE FROM audit_heads WHERE tenant_id = $v"
                ))
                .await;
                if self.dice.below(2) == 0 && 1 < row {
                    let head = "INSERT INTO audit_heads SELECT tenant_id, seq, hash \
                                FROM audit_events WHERE tenant_id = $v ORDER BY seq DESC LIMIT 1";
                    self.run(head).await;
                }
                ("truncate the tail, covered up".to_owned(), row, row)
            }
        }
    }
}

#[tokio::test]
async fn each_of_a_thousand_tampers_is_found_and_the_first_bad_row_named() {
    let db = TestDb::new().await;
    let store = db.store();
    let (victim, other) = (TenantId::new(), TenantId::new());
    for tenant_id in [victim, other] {
        record(&store, tenant_id, ROWS).await;
    }
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    let row = sqlx::query("SELECT hash FROM audit_events WHERE tenant_id = $1 AND seq = $2")
        .bind(victim.as_uuid())
        .bind(SIGNED)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let head = AuditHead { tenant_id: victim, seq: SIGNED, hash: row.get("hash") };
    let known = [KnownHead { head, source: "the signed head".to_owned() }];
    let keep = "CREATE TABLE kept_events AS SELECT * FROM audit_events; \
                CREATE TABLE kept_heads AS SELECT * FROM audit_heads";
    connection.execute(keep).await.unwrap();
    let mut intruder = Intruder { db: connection, victim, other, dice: Dice(20_261_128) };
    let mut kinds = std::collections::BTreeMap::new();
    for round in 0..1000 {
        assert_eq!(faults(&store, &known).await, [], "round {round} begins with an intact log");
        let (what, from, to) = intruder.tamper().await;
        let found = faults(&store, &known).await;
        let fault = found.iter().find(|(tenant_id, _)| *tenant_id == victim);
        let named = fault.is_some_and(|(_, fault)| (from..=to).contains(&fault.seq));
        assert!(named, "round {round}, {what} of {from} to {to}: {found:?}");
        if what.starts_with("swap") {
            assert_eq!(found.len(), 2, "both chains are bad: {found:?}");
        }
        *kinds.entry(what.split(':').next().unwrap().to_owned()).or_insert(0) += 1;
        let restore = "DELETE FROM audit_events; INSERT INTO audit_events SELECT * FROM kept_events; \
                       DELETE FROM audit_heads; INSERT INTO audit_heads SELECT * FROM kept_heads";
        intruder.run(restore).await;
    }
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    assert!(kinds.values().all(|count| 50 <= *count), "{kinds:?}");
    println!("{kinds:?}");
}
