//! What the catalogue of the database has to say for tenants to be apart, rule by rule. Each rule is
//! put to the test as well: a fault is planted, and the rule has to find it.

use qudao_testkit::TestDb;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// What has no tenant, and why that is right: the list of migrations, the prices of the platform, and
/// whatever belongs to the platform itself.
const PLATFORM_TABLES: &[&str] = &["_sqlx_migrations", "master_keys", "price_books"];
/// Functions that see all tenants' rows. Each was looked at: it returns one row for one exact key, ids
/// for work to be done inside each tenant, or counts.
const DEFINERS: &[&str] = &[
    "add_signed_head",
    "add_tenant_key",
    "backlog",
    "claim_conversations",
    "claim_outbox",
    "claim_mails",
    "claim_partner_events",
    "claim_polls",
    "claim_turns",
    "count_tenant_keys",
    "find_api_key",
    "find_channel_by_public_key",
    "find_door",
    "find_key_holder",
    "forget_channel_events",
    "forget_once",
    "forget_mails",
    "forget_partner_events",
    "forget_route_decisions",
    "list_signed_heads",
    "list_tenant_keys_of_others",
    "list_tenants",
    "page_of_tenants",
    "queue_depths",
    "record_audit",
    "sweep",
    "tenants_with_retention",
    "unfinished_erasures",
    "unsigned_audit_heads",
];

struct Rule {
    name: &'static str,
    /// Names what breaks the rule; no row is good. `$platform` and `$definers` are the lists above.
    finds: &'static str,
    /// Breaks it. `None` where the catalogue cannot be brought to.
    fault: &'static str,
}

/// All tables of tenants, as `c`.
macro_rules! tenant_tables {
    () => {
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
          WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace "
    };
}

const RULES: &[Rule] = &[
    Rule {
        name: "every table has a tenant, or is on the list of the platform's own",
        finds: "SELECT c.relname::text FROM pg_class c WHERE c.relkind IN ('r', 'p') \
                AND c.relnamespace = 'public'::regnamespace AND NOT c.relname = ANY ($platform) \
                AND NOT EXISTS (SELECT 1 FROM pg_attribute a \
                                WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')",
        fault: "CREATE TABLE stray (id int PRIMARY KEY)",
    },
    Rule {
        name: "row-level security is on",
        finds: concat!("SELECT c.relname::text", tenant_tables!(), "AND NOT c.relrowsecurity"),
        fault: "ALTER TABLE channels DISABLE ROW LEVEL SECURITY",
    },
    Rule {
        name: "row-level security holds for the owner too",
        finds: concat!("SELECT c.relname::text", tenant_tables!(), "AND NOT c.relforcerowsecurity"),
        fault: "ALTER TABLE channels NO FORCE ROW LEVEL SECURITY",
    },
    Rule {
        name: "there is one policy, it is the one, and it is for all commands",
        finds: concat!(
            "SELECT c.relname::text",
            tenant_tables!(),
            "AND (1 <> (SELECT count(*) FROM pg_policy q WHERE q.polrelid = c.oid) \
              OR NOT EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid AND p.polcmd = '*' \
                AND p.polpermissive AND p.polroles = '{0}' \
                AND pg_get_expr(p.polqual, c.oid) = pg_get_expr(p.polwithcheck, c.oid) \
                AND pg_get_expr(p.polqual, c.oid) \
                    = '(tenant_id = ( SELECT app.tenant() AS tenant))'))"
        ),
        fault: "CREATE POLICY more ON channels USING (true)",
    },
    Rule {
        name: "the policy checks what is written as well",
        finds: concat!(
            "SELECT c.relname::text",
            tenant_tables!(),
            "AND EXISTS (SELECT 1 FROM pg_policy p \
                         WHERE p.polrelid = c.oid AND p.polwithcheck IS NULL)"
        ),
        fault: "DROP POLICY tenant_rows ON channels; \
                CREATE POLICY tenant_rows ON channels USING (tenant_id = (SELECT app.tenant()))",
    },
    Rule {
        name: "no row is without a tenant",
        finds: concat!("SELECT c.relname::text", tenant_tables!(), "AND NOT a.attnotnull"),
        fault: "CREATE TABLE loose (tenant_id uuid, id int)",
    },
    Rule {
        name: "every table has a primary key, and it leads with the tenant",
        finds: concat!(
            "SELECT c.relname::text",
            tenant_tables!(),
            "AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid \
                             AND i.indisprimary AND i.indkey[0] = a.attnum)"
        ),
        fault: "CREATE TABLE loose (tenant_id uuid NOT NULL, id int PRIMARY KEY)",
    },
    Rule {
        name: "every unique key leads with the tenant",
        finds: "SELECT i.indexrelid::regclass::text FROM pg_index i \
                JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace \
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
                WHERE i.indisunique AND i.indkey[0] <> a.attnum",
        fault: "CREATE UNIQUE INDEX telling ON members (email)",
    },
    Rule {
        name: "every foreign key carries the tenant, on both sides in front",
        finds: "SELECT f.conname::text FROM pg_constraint f \
                JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attname = 'tenant_id' \
                JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attname = 'tenant_id' \
                WHERE f.contype = 'f' AND (f.conkey[1] <> a.attnum OR f.confkey[1] <> b.attnum)",
        fault: "CREATE UNIQUE INDEX one ON routes (route_id); \
                ALTER TABLE assistants ADD CONSTRAINT loose FOREIGN KEY (route_id) \
                REFERENCES routes (route_id)",
    },
    Rule {
        name: "nothing of the platform refers to a tenant's row",
        finds: "SELECT f.conname::text FROM pg_constraint f \
                JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attname = 'tenant_id' \
                WHERE f.contype = 'f' AND NOT EXISTS ( \
                    SELECT 1 FROM pg_attribute a \
                    WHERE a.attrelid = f.conrelid AND a.attname = 'tenant_id')",
        fault: "CREATE TABLE price_owners (owner uuid REFERENCES tenants (tenant_id))",
    },
    Rule {
        name: "every foreign key to a tenant's row can be followed backwards by an index",
        finds: "SELECT f.conname::text FROM pg_constraint f \
                JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attname = 'tenant_id' \
                WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace \
                  AND f.confdeltype = 'c' \
                  AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = f.conrelid \
                      AND (i.indkey::int2[])[0:array_length(f.conkey, 1) - 1] @> f.conkey)",
        fault: "DROP INDEX sessions_by_member",
    },
    Rule {
        name: "a view sees with the eyes of whoever asks",
        finds: "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'v' \
                AND c.relnamespace IN ('public'::regnamespace, 'app'::regnamespace) \
                AND NOT COALESCE(c.reloptions @> ARRAY['security_invoker=true'], false)",
        fault: "CREATE VIEW all_channels AS SELECT * FROM channels",
    },
    Rule {
        name: "nothing is kept ready across tenants",
        finds: "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'm'",
        fault: "CREATE MATERIALIZED VIEW all_channels AS SELECT * FROM channels",
    },
    Rule {
        name: "functions with their owner's rights are on the list",
        finds: "SELECT p.proname::text FROM pg_proc p \
                WHERE p.pronamespace IN ('app'::regnamespace, 'public'::regnamespace) \
                  AND p.prosecdef AND NOT p.proname = ANY ($definers)",
        fault: "CREATE FUNCTION app.peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER \
                SET search_path = pg_catalog, public, pg_temp AS 'SELECT count(*) FROM members'",
    },
    Rule {
        name: "functions with their owner's rights pin their search path",
        finds: "SELECT p.proname::text FROM pg_proc p \
                WHERE p.pronamespace = 'app'::regnamespace AND p.prosecdef \
                  AND NOT 'search_path=pg_catalog, public, pg_temp' \
                      = ANY (COALESCE(p.proconfig, '{}'))",
        fault: "ALTER FUNCTION app.backlog RESET search_path",
    },
    Rule {
        name: "no function is for everybody",
        finds: "SELECT p.proname::text FROM pg_proc p \
                WHERE p.pronamespace = 'app'::regnamespace \
                  AND (p.proacl IS NULL OR EXISTS ( \
                      SELECT 1 FROM aclexplode(p.proacl) x WHERE x.grantee = 0))",
        fault: "GRANT EXECUTE ON FUNCTION app.tenant() TO PUBLIC",
    },
    Rule {
        name: "no table is for everybody",
        finds: "SELECT c.relname::text FROM pg_class c, aclexplode(c.relacl) x \
                WHERE c.relnamespace = 'public'::regnamespace AND x.grantee = 0",
        fault: "GRANT SELECT ON members TO PUBLIC",
    },
    Rule {
        name: "the roles that serve are weak",
        finds: "SELECT r.rolname::text FROM pg_roles r WHERE r.rolname LIKE 'qudao\\_%' \
                AND (r.rolsuper OR r.rolbypassrls OR r.rolcanlogin OR r.rolcreaterole \
                     OR r.rolcreatedb OR r.rolreplication)",
        // Roles belong to the whole cluster; a role of this name exists for as long as the transaction.
        fault: "CREATE ROLE qudao_strong BYPASSRLS",
    },
    Rule {
        name: "the roles that serve own nothing",
        finds: "SELECT c.relname::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner \
                WHERE r.rolname LIKE 'qudao\\_%'",
        fault: "ALTER TABLE channels OWNER TO qudao_app",
    },
    Rule {
        name: "the roles that serve neither empty tables nor look through references or triggers",
        finds: "SELECT c.relname || ': ' || x.privilege_type FROM pg_class c, aclexplode(c.relacl) x \
                JOIN pg_roles r ON r.oid = x.grantee AND r.rolname LIKE 'qudao\\_%' \
                WHERE x.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')",
        fault: "GRANT TRUNCATE ON channels TO qudao_app",
    },
    Rule {
        name: "whoever claims work, or runs the platform, reaches no tenant's table",
        finds: concat!(
            "SELECT DISTINCT r.rolname || ' on ' || c.relname",
            " FROM pg_class c \
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
              CROSS JOIN LATERAL aclexplode(c.relacl) x \
              JOIN pg_roles r ON r.oid = x.grantee AND r.rolname IN ('qudao_claim', 'qudao_admin') \
              WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
        ),
        fault: "GRANT SELECT ON members TO qudao_claim",
    },
    Rule {
        name: "what is only ever added to refuses changes twice",
        finds: "SELECT t.name FROM unnest(ARRAY['ledger_entries', 'usage_events', 'credits', \
                    'credit_reversals', 'model_attempts', 'audit_events']) AS t (name) \
                WHERE NOT EXISTS (SELECT 1 FROM pg_trigger g \
                                  WHERE g.tgrelid = t.name::regclass \
                                    AND g.tgname = t.name || '_only_added' AND g.tgenabled = 'O') \
                   OR has_table_privilege('qudao_app', t.name, 'UPDATE, DELETE')",
        fault: "GRANT DELETE ON ledger_entries TO qudao_app",
    },
];

fn list(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("ARRAY[{}]", quoted.join(", "))
}

async fn found(connection: &mut PgConnection, rule: &Rule) -> Vec<String> {
    let sql = rule.finds.replace("$platform", &list(PLATFORM_TABLES));
    let sql = sql.replace("$definers", &list(DEFINERS));
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn the_catalogue_keeps_tenants_apart() {
    let db = TestDb::new().await;
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    let mut broken = Vec::new();
    for rule in RULES {
        let names = found(&mut connection, rule).await;
        broken.extend(names.into_iter().map(|name| format!("{}: {name}", rule.name)));
    }
    eprintln!("{} rules of the catalogue, {} broken", RULES.len(), broken.len());
    assert_eq!(broken, Vec::<String>::new());
    // A name that is on a list and not in the catalogue would hide the next of that name.
    for name in DEFINERS {
        let known = "SELECT count(*) FROM pg_proc WHERE proname = $1 AND prosecdef";
        let count: i64 =
            sqlx::query_scalar(known).bind(*name).fetch_one(&mut connection).await.unwrap();
        assert_eq!(count, 1, "{name}");
    }
}

#[tokio::test]
async fn every_rule_of_the_catalogue_finds_its_fault() {
    let db = TestDb::new().await;
    let mut connection = PgConnection::connect(db.url()).await.unwrap();
    for rule in RULES {
        connection.execute("BEGIN").await.unwrap();
        connection.execute(AssertSqlSafe(rule.fault.to_owned())).await.unwrap();
        let names = found(&mut connection, rule).await;
        connection.execute("ROLLBACK").await.unwrap();
        assert!(!names.is_empty(), "does not find its fault: {}", rule.name);
    }
    eprintln!("{} planted faults found", RULES.len());
}
