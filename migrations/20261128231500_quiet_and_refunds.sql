-- Messages that belong together and come one by one wait for each other; payments that are given back
-- leave the wallet.

-- Until when an answer waits for what may follow. It holds whoever lets go of the conversation, so it
-- is kept in one place.
ALTER TABLE conversations ADD COLUMN quiet_until timestamptz;

CREATE FUNCTION app.keep_quiet() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.ready_at := NEW.quiet_until;
    RETURN NEW;
END $$;

CREATE TRIGGER conversations_keep_quiet
    BEFORE UPDATE ON conversations
    FOR EACH ROW
    WHEN (NEW.quiet_until > NEW.ready_at AND NEW.lease_until IS NULL)
    EXECUTE FUNCTION app.keep_quiet();

-- Credits that were taken back, and by which transaction of the ledger.
CREATE TABLE credit_reversals (
    tenant_id   uuid        NOT NULL,
    credit_txn  uuid        NOT NULL,
    txn_id      uuid        NOT NULL,
    -- How much of it the wallet still had.
    taken       bigint      NOT NULL,
    reversed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT credit_reversals_pk PRIMARY KEY (tenant_id, credit_txn),
    CONSTRAINT credit_reversals_txn_once UNIQUE (tenant_id, txn_id),
    CONSTRAINT credit_reversals_credit_fk
        FOREIGN KEY (tenant_id, credit_txn) REFERENCES credits (tenant_id, txn_id),
    CONSTRAINT credit_reversals_taken_not_negative CHECK (taken >= 0)
);
ALTER TABLE credit_reversals ENABLE ROW LEVEL SECURITY;
ALTER TABLE credit_reversals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON credit_reversals USING (tenant_id = (SELECT app.tenant()))
    WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT ON credit_reversals TO qudao_app;
CREATE TRIGGER credit_reversals_only_added BEFORE UPDATE OR DELETE ON credit_reversals
    FOR EACH ROW EXECUTE FUNCTION app.refuse_change();
CREATE TRIGGER credit_reversals_never_emptied BEFORE TRUNCATE ON credit_reversals
    FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change();

-- Takes a credit back, once: from the wallet as much as is there and not set aside, the rest is borne
-- by the platform. 'reversed', 'repeated' or 'unknown', and how much of it the wallet paid.
CREATE FUNCTION app.reverse_credit(p_key text, p_txn uuid)
RETURNS TABLE (outcome text, taken bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant uuid := app.tenant();
    v_credit record;
    v_taken  bigint;
BEGIN
    -- The wallet's lock makes all who add or take back wait for each other.
    SELECT w.posted - w.held INTO v_taken
    FROM wallets w
    JOIN credits c ON c.tenant_id = w.tenant_id AND c.currency = w.currency
    WHERE c.tenant_id = v_tenant AND c.idempotency_key = p_key
    FOR UPDATE OF w;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0::bigint;
        RETURN;
    END IF;
    SELECT c.txn_id, c.amount, c.currency, c.source INTO v_credit
    FROM credits c
    WHERE c.tenant_id = v_tenant AND c.idempotency_key = p_key;
    PERFORM 1 FROM credit_reversals r
    WHERE r.tenant_id = v_tenant AND r.credit_txn = v_credit.txn_id;
    IF FOUND THEN
        RETURN QUERY SELECT 'repeated', 0::bigint;
        RETURN;
    END IF;

    v_taken := LEAST(v_credit.amount, v_taken);
    INSERT INTO credit_reversals (tenant_id, credit_txn, txn_id, taken)
    VALUES (v_tenant, v_credit.txn_id, p_txn, v_taken);
    UPDATE wallets w
    SET posted = w.posted - v_taken
    WHERE w.tenant_id = v_tenant AND w.currency = v_credit.currency AND v_taken > 0;
    INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency)
    SELECT v_tenant, p_txn, leg, account, amount, v_credit.currency
    FROM (VALUES
        (0::smallint, 'wallet', -v_taken),
        (1::smallint, v_credit.source, v_credit.amount),
        (2::smallint, 'platform_absorbed', v_taken - v_credit.amount)
    ) AS legs (leg, account, amount)
    WHERE amount <> 0;
    RETURN QUERY SELECT 'reversed', v_taken;
END $$;

GRANT EXECUTE ON FUNCTION app.reverse_credit TO qudao_app;
