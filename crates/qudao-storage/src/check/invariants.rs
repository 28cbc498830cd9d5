//! The invariants as SQL. Each lists its violations as one text per violation and counts what it
//! looked at. Numbers are those of `docs/invariants.md`.

use super::Scope;

pub(super) struct Invariant {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) scope: Scope,
    pub(super) violations: &'static str,
    pub(super) examined: &'static str,
}

pub(super) const INVARIANTS: &[Invariant] = &[
    Invariant {
        id: "I2",
        title: "a message of a channel is in the inbox once",
        scope: Scope::Always,
        violations: "SELECT channel_id || ' ' || external_id FROM inbox \
                     GROUP BY tenant_id, channel_id, external_id HAVING count(*) > 1",
        examined: "SELECT count(*) FROM inbox",
    },
    Invariant {
        id: "I3",
        title: "messages of a conversation are numbered without a gap",
        scope: Scope::Always,
        violations: "SELECT c.conversation_id::text FROM conversations c \
                     LEFT JOIN inbox i USING (tenant_id, conversation_id) \
                     GROUP BY c.tenant_id, c.conversation_id, c.last_seq \
                     HAVING count(i.seq) <> c.last_seq OR count(DISTINCT i.seq) <> c.last_seq \
                         OR (c.last_seq > 0 AND (min(i.seq) <> 1 OR max(i.seq) <> c.last_seq))",
        examined: "SELECT count(*) FROM conversations",
    },
    Invariant {
        id: "I4",
        title: "no message is left without an answer",
        scope: Scope::AfterDrain,
        violations: "SELECT conversation_id || ' ' || seq FROM inbox WHERE state = 'accepted'",
        examined: "SELECT count(*) FROM inbox",
    },
    Invariant {
        id: "I5",
        title: "every answered message has exactly one reply, and every reply answers messages",
        scope: Scope::Always,
        violations: "SELECT 'message ' || i.conversation_id || ' ' || i.seq FROM inbox i \
                     WHERE i.state = 'answered' AND 1 <> ( \
                         SELECT count(*) FROM outbox o \
                         WHERE o.tenant_id = i.tenant_id AND o.conversation_id = i.conversation_id \
                           AND o.turn_id = i.turn_id AND o.kind = 'reply' AND o.to_seq >= i.seq) \
                     UNION ALL \
                     SELECT 'reply ' || o.outbox_id FROM outbox o \
                     WHERE o.kind = 'reply' AND o.to_seq IS DISTINCT FROM ( \
                         SELECT max(i.seq) FROM inbox i \
                         WHERE i.tenant_id = o.tenant_id AND i.conversation_id = o.conversation_id \
                           AND i.turn_id = o.turn_id AND i.state = 'answered')",
        examined: "SELECT (SELECT count(*) FROM inbox WHERE state = 'answered') \
                        + (SELECT count(*) FROM outbox WHERE kind = 'reply')",
    },
    Invariant {
        id: "I6",
        title: "every reply has exactly one usage row, and the other way round",
        scope: Scope::Always,
        violations: "SELECT 'reply ' || o.outbox_id FROM outbox o \
                     WHERE o.kind = 'reply' AND 1 <> ( \
                         SELECT count(*) FROM usage_events u \
                         WHERE u.tenant_id = o.tenant_id AND u.turn_id = o.turn_id \
                           AND u.conversation_id = o.conversation_id) \
                     UNION ALL \
                     SELECT 'usage ' || u.turn_id FROM usage_events u \
                     WHERE u.conversation_id IS NOT NULL AND 1 <> ( \
                         SELECT count(*) FROM outbox o \
                         WHERE o.tenant_id = u.tenant_id AND o.turn_id = u.turn_id \
                           AND o.conversation_id = u.conversation_id AND o.kind = 'reply')",
        examined: "SELECT (SELECT count(*) FROM outbox WHERE kind = 'reply') \
                        + (SELECT count(*) FROM usage_events WHERE conversation_id IS NOT NULL)",
    },
    Invariant {
        id: "I7",
        title: "every ledger transaction sums to zero in each currency",
        scope: Scope::Always,
        violations: "SELECT txn_id || ' ' || currency || ' ' || sum(amount) FROM ledger_entries \
                     GROUP BY tenant_id, txn_id, currency HAVING sum(amount) <> 0",
        examined: "SELECT count(*) FROM ledger_entries",
    },
    Invariant {
        id: "I8",
        title: "a wallet's balance is the sum of its ledger entries",
        scope: Scope::Always,
        violations: "SELECT tenant_id || ' ' || currency FROM wallets \
                     FULL JOIN ( \
                         SELECT tenant_id, currency, sum(amount) AS booked FROM ledger_entries \
                         WHERE account = 'wallet' GROUP BY tenant_id, currency \
                     ) l USING (tenant_id, currency) \
                     WHERE posted IS NULL OR posted <> COALESCE(booked, 0)",
        examined: "SELECT count(*) FROM wallets",
    },
    Invariant {
        id: "I9",
        title: "what a wallet holds is the sum of its open holds less what they settled",
        scope: Scope::Always,
        violations: "SELECT tenant_id || ' ' || currency FROM wallets \
                     FULL JOIN ( \
                         SELECT tenant_id, currency, sum(amount - settled) AS open FROM holds \
                         WHERE state = 'held' GROUP BY tenant_id, currency \
                     ) h USING (tenant_id, currency) \
                     WHERE held IS NULL OR held <> COALESCE(open, 0)",
        examined: "SELECT count(*) FROM wallets",
    },
    Invariant {
        id: "I10",
        title: "usage and revenue agree, row by row",
        scope: Scope::Always,
        violations: "SELECT COALESCE(u.turn_id, l.txn_id)::text \
                     FROM usage_events u \
                     FULL JOIN ( \
                         SELECT tenant_id, txn_id, currency, \
                             COALESCE(sum(amount) FILTER (WHERE account = 'wallet'), 0) AS paid, \
                             COALESCE(sum(amount) FILTER (WHERE account = 'revenue'), 0) AS earned, \
                             COALESCE(sum(amount) FILTER (WHERE account = 'platform_absorbed'), 0) \
                                 AS borne \
                         FROM ledger_entries e \
                         WHERE NOT EXISTS ( \
                             SELECT 1 FROM credit_reversals r \
                             WHERE r.tenant_id = e.tenant_id AND r.txn_id = e.txn_id) \
                         GROUP BY tenant_id, txn_id, currency \
                         HAVING bool_or(account IN ('revenue', 'platform_absorbed')) \
                     ) l ON l.tenant_id = u.tenant_id AND l.txn_id = u.turn_id \
                         AND l.currency = u.currency \
                     WHERE COALESCE(u.charge + u.absorbed, 0) <> COALESCE(l.earned, 0) \
                        OR COALESCE(u.charge, 0) <> -COALESCE(l.paid, 0) \
                        OR COALESCE(u.absorbed, 0) <> -COALESCE(l.borne, 0) \
                        OR u.turn_id IS NULL",
        examined: "SELECT count(*) FROM usage_events",
    },
    Invariant {
        id: "I11",
        title: "no wallet is overdrawn",
        scope: Scope::Always,
        violations: "SELECT tenant_id || ' ' || currency FROM wallets \
                     WHERE posted < 0 OR held < 0 OR posted - held < 0",
        examined: "SELECT count(*) FROM wallets",
    },
    Invariant {
        id: "I12",
        title: "nothing is left on hold",
        scope: Scope::AfterDrain,
        violations: "SELECT hold_id::text FROM holds WHERE state = 'held'",
        examined: "SELECT count(*) FROM holds",
    },
    Invariant {
        id: "I13",
        title: "no message is left to send",
        scope: Scope::AfterDrain,
        violations: "SELECT outbox_id::text FROM outbox WHERE state IN ('queued', 'sending')",
        examined: "SELECT count(*) FROM outbox",
    },
    Invariant {
        id: "I17",
        title: "no more was settled than was held, and a turn's hold settled what was charged",
        scope: Scope::Always,
        violations: "SELECT h.hold_id::text FROM holds h \
                     LEFT JOIN usage_events u \
                         ON u.tenant_id = h.tenant_id AND u.turn_id = h.turn_id \
                     WHERE h.settled > h.amount \
                        OR (h.kind = 'turn' AND h.state = 'settled' \
                            AND h.settled IS DISTINCT FROM u.charge)",
        examined: "SELECT count(*) FROM holds",
    },
    Invariant {
        id: "I18",
        title: "replies stand in the order of what they answer",
        scope: Scope::Always,
        violations: "SELECT outbox_id::text FROM ( \
                         SELECT o.outbox_id, o.out_seq, o.to_seq, c.done_seq, \
                             lag(o.to_seq, 1, 0::bigint) OVER w AS before, row_number() OVER w AS place \
                         FROM outbox o JOIN conversations c USING (tenant_id, conversation_id) \
                         WINDOW w AS (PARTITION BY o.tenant_id, o.conversation_id \
                                      ORDER BY o.out_seq) \
                     ) placed \
                     WHERE to_seq <= before OR to_seq > done_seq OR out_seq <> place",
        examined: "SELECT count(*) FROM outbox",
    },
    Invariant {
        id: "I22",
        title: "a top-up is credited once, with its amount, and taken back at most once",
        scope: Scope::Always,
        violations: "SELECT 'credit ' || c.txn_id FROM credits c \
                     WHERE c.amount IS DISTINCT FROM ( \
                         SELECT sum(l.amount) FROM ledger_entries l \
                         WHERE l.tenant_id = c.tenant_id AND l.txn_id = c.txn_id \
                           AND l.currency = c.currency AND l.account = 'wallet') \
                     UNION ALL \
                     SELECT 'entry ' || l.txn_id FROM ledger_entries l \
                     WHERE l.account IN ('cash', 'bonus') AND NOT EXISTS ( \
                         SELECT 1 FROM credits c \
                         WHERE c.tenant_id = l.tenant_id AND c.txn_id = l.txn_id \
                         UNION ALL \
                         SELECT 1 FROM credit_reversals r \
                         WHERE r.tenant_id = l.tenant_id AND r.txn_id = l.txn_id) \
                     UNION ALL \
                     SELECT 'reversal ' || c.txn_id FROM credit_reversals r \
                     JOIN credits c ON c.tenant_id = r.tenant_id AND c.txn_id = r.credit_txn \
                     WHERE c.amount IS DISTINCT FROM ( \
                         SELECT sum(l.amount) FROM ledger_entries l \
                         WHERE l.tenant_id = r.tenant_id AND l.txn_id = r.txn_id \
                           AND l.currency = c.currency AND l.account = c.source) \
                     UNION ALL \
                     SELECT 'key ' || idempotency_key FROM credits \
                     GROUP BY tenant_id, idempotency_key HAVING count(*) > 1",
        examined: "SELECT count(*) FROM credits",
    },
    Invariant {
        id: "I27",
        title: "what was erased says nothing, and nobody is found by it",
        scope: Scope::Always,
        violations: "SELECT 'message ' || i.conversation_id || ' ' || i.seq \
                     FROM conversations c JOIN inbox i USING (tenant_id, conversation_id) \
                     WHERE i.seq <= c.erased_in AND (i.body ->> 'text' <> '' \
                         OR i.external_id <> 'erased:' || i.conversation_id || ':' || i.seq) \
                     UNION ALL \
                     SELECT 'reply ' || o.outbox_id \
                     FROM conversations c JOIN outbox o USING (tenant_id, conversation_id) \
                     WHERE o.out_seq <= c.erased_out \
                       AND (o.body ->> 'text' <> '' OR o.last_error IS NOT NULL) \
                     UNION ALL \
                     SELECT 'conversation ' || c.conversation_id \
                     FROM contacts p JOIN conversations c USING (tenant_id, contact_id) \
                     WHERE p.erased_at IS NOT NULL \
                       AND (c.peer <> 'erased:' || c.conversation_id OR c.erased_in < c.last_seq \
                            OR c.erased_out < c.out_seq OR c.ready_at IS NOT NULL) \
                     UNION ALL \
                     SELECT 'identity ' || p.contact_id \
                     FROM contacts p JOIN identities d USING (tenant_id, contact_id) \
                     WHERE p.erased_at IS NOT NULL",
        examined: "SELECT count(*) FROM conversations",
    },
];

/// Its SQL comes from [`FOREIGN_KEYS`].
pub(super) const SAME_TENANT: Invariant = Invariant {
    id: "I24",
    title: "no row belongs to a row of another tenant",
    scope: Scope::Always,
    violations: "",
    examined: "",
};

/// One row per foreign key of a table that has a `tenant_id`, to a table that has one: a query
/// for its violations, and one that counts what it looked at. A key that leaves the tenant out
/// is a violation by itself.
pub(super) const FOREIGN_KEYS: &str = "
    SELECT
        CASE WHEN k.names_tenant THEN format(
            'SELECT %L || '' '' || c.tenant_id FROM %s c WHERE %s AND NOT EXISTS '
            '(SELECT 1 FROM %s p WHERE %s)',
            k.name, k.child, k.present, k.parent, k.matches)
        ELSE format('SELECT %L', k.name || ' leaves the tenant out') END,
        format('(SELECT count(*) FROM %s c WHERE %s)', k.child, k.present)
    FROM (
        SELECT f.conname AS name, f.conrelid::regclass::text AS child,
               f.confrelid::regclass::text AS parent,
               string_agg(format('c.%I IS NOT NULL', a.attname), ' AND ') AS present,
               string_agg(format('p.%I = c.%I', b.attname, a.attname), ' AND ') AS matches,
               bool_or(a.attname = 'tenant_id' AND b.attname = 'tenant_id') AS names_tenant
        FROM pg_constraint f
        CROSS JOIN LATERAL unnest(f.conkey, f.confkey) AS u (child_no, parent_no)
        JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = u.child_no
        JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = u.parent_no
        WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace
          AND EXISTS (SELECT 1 FROM pg_attribute t
                      WHERE t.attrelid = f.conrelid AND t.attname = 'tenant_id')
          AND EXISTS (SELECT 1 FROM pg_attribute t
                      WHERE t.attrelid = f.confrelid AND t.attname = 'tenant_id')
        GROUP BY f.oid, f.conname, f.conrelid, f.confrelid
    ) k
    ORDER BY k.name";
