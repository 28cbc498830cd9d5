-- Every key of a tenant's table leads with tenant_id, and so does every foreign key: foreign keys
-- do not see row-level security, and a key without the tenant would tell one tenant which ids
-- another one uses. The same keying lets the schema be sharded by tenant.

CREATE TABLE tenants (
    tenant_id     uuid        NOT NULL,
    name          text        NOT NULL,
    currency      text        NOT NULL,
    locale        text        NOT NULL DEFAULT 'zh',
    fair_charging text        NOT NULL DEFAULT 'bill_delivered',
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_pk PRIMARY KEY (tenant_id),
    CONSTRAINT tenants_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT tenants_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT tenants_fair_charging_known
        CHECK (fair_charging IN ('bill_delivered', 'bill_generated', 'free_if_nothing_delivered'))
);

-- posted is the balance of the ledger; held is what is set aside for turns and blocks under way.
-- The checks are the last guard: the statements that spend have their own condition, so that a
-- lack of funds is an answer and not an error.
CREATE TABLE wallets (
    tenant_id uuid   NOT NULL,
    currency  text   NOT NULL,
    posted    bigint NOT NULL DEFAULT 0,
    held      bigint NOT NULL DEFAULT 0,
    CONSTRAINT wallets_pk PRIMARY KEY (tenant_id, currency),
    CONSTRAINT wallets_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT wallets_held_not_negative CHECK (held >= 0),
    CONSTRAINT wallets_not_overdrawn CHECK (posted - held >= 0)
) WITH (
    -- One hot row per tenant, changed several times per turn: room for new versions on the page
    -- keeps the updates off the index, and dead versions must go early.
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
);

-- Versioned prices, only ever added to: every usage row names the version it was charged by.
-- The platform's own table: it belongs to no tenant.
CREATE TABLE price_books (
    price_version   bigint      GENERATED ALWAYS AS IDENTITY,
    model           text        NOT NULL,
    currency        text        NOT NULL,
    input_per_mtok  bigint      NOT NULL,
    output_per_mtok bigint      NOT NULL,
    per_call        bigint      NOT NULL,
    effective_from  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT price_books_pk PRIMARY KEY (price_version),
    CONSTRAINT price_books_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT price_books_not_negative
        CHECK (input_per_mtok >= 0 AND output_per_mtok >= 0 AND per_call >= 0)
);
CREATE INDEX price_books_present
    ON price_books (model, currency, effective_from DESC, price_version DESC);

-- Credits that came in. The key makes a payment that is reported twice count once.
CREATE TABLE credits (
    tenant_id       uuid        NOT NULL,
    txn_id          uuid        NOT NULL,
    idempotency_key text        NOT NULL,
    amount          bigint      NOT NULL,
    currency        text        NOT NULL,
    source          text        NOT NULL,
    note            text        NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credits_pk PRIMARY KEY (tenant_id, txn_id),
    CONSTRAINT credits_once UNIQUE (tenant_id, idempotency_key),
    CONSTRAINT credits_wallet_fk
        FOREIGN KEY (tenant_id, currency) REFERENCES wallets (tenant_id, currency),
    CONSTRAINT credits_amount_positive CHECK (amount > 0),
    CONSTRAINT credits_source_known CHECK (source IN ('cash', 'bonus')),
    CONSTRAINT credits_note_length CHECK (char_length(note) <= 1000)
);

-- Double entry. A group (txn_id) is inserted by one statement and sums to zero per currency;
-- nothing is ever changed, a correction is another group.
CREATE TABLE ledger_entries (
    tenant_id uuid        NOT NULL,
    txn_id    uuid        NOT NULL,
    leg       smallint    NOT NULL,
    account   text        NOT NULL,
    amount    bigint      NOT NULL,
    currency  text        NOT NULL,
    entry_no  bigint      GENERATED ALWAYS AS IDENTITY,
    at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ledger_entries_pk PRIMARY KEY (tenant_id, txn_id, leg),
    CONSTRAINT ledger_entries_no UNIQUE (tenant_id, entry_no),
    CONSTRAINT ledger_entries_wallet_fk
        FOREIGN KEY (tenant_id, currency) REFERENCES wallets (tenant_id, currency),
    CONSTRAINT ledger_entries_amount_not_zero CHECK (amount <> 0),
    CONSTRAINT ledger_entries_account_known
        CHECK (account IN ('wallet', 'revenue', 'cash', 'bonus', 'platform_absorbed'))
);

CREATE FUNCTION app.check_balanced() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_txn uuid;
BEGIN
    SELECT n.txn_id INTO v_txn
    FROM added n
    GROUP BY n.tenant_id, n.txn_id, n.currency
    HAVING sum(n.amount) <> 0
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to zero', v_txn USING ERRCODE = 'QD001';
    END IF;
    RETURN NULL;
END $$;

-- Per statement and not per row: a group comes in one statement, and the check costs once.
CREATE TRIGGER ledger_entries_balanced
    AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION app.check_balanced();
