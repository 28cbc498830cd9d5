-- What was answered to a request that carried an Idempotency-Key, for 24 hours. A row is written in
-- the transaction of the request's effect, so one is never there without the other.
--
-- A request whose work cannot stand in one transaction (a call of a model) claims its key first:
-- `status` is NULL then, and the claim is good while its node renews `lease_until`. Whoever takes a
-- lapsed claim over raises the epoch and keeps claim_id, which is also the id of the call's usage:
-- a node that was only slow cannot charge the call a second time.
--
-- No foreign key to tenants: what an operator does for no tenant, such as making one, is kept under
-- the nil id.
CREATE TABLE idempotency_records (
    tenant_id       uuid        NOT NULL,
    endpoint        text        NOT NULL,
    idempotency_key text        NOT NULL,
    fingerprint     bytea       NOT NULL,
    claim_id        uuid,
    epoch           bigint      NOT NULL DEFAULT 0,
    lease_until     timestamptz,
    status          smallint,
    location        text,
    body            bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_records_pk PRIMARY KEY (tenant_id, endpoint, idempotency_key),
    CONSTRAINT idempotency_records_endpoint_length CHECK (char_length(endpoint) BETWEEN 1 AND 1000),
    CONSTRAINT idempotency_records_key_length
        CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
    CONSTRAINT idempotency_records_fingerprint_length CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT idempotency_records_claimed_or_done
        CHECK (status IS NOT NULL OR (claim_id IS NOT NULL AND lease_until IS NOT NULL))
);
CREATE INDEX idempotency_records_age ON idempotency_records (created_at);

ALTER TABLE idempotency_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_records FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON idempotency_records
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_records TO qudao_app;

-- What is known of a request. 'fresh' leaves the key locked until the transaction ends, so of two
-- requests at the same moment one finds the other under way instead of waiting for it.
--
-- p_scope is the tenant of the record. It differs from the transaction's where an operator makes a
-- tenant; the setting is put back before the caller goes on.
CREATE FUNCTION app.find_once(p_scope uuid, p_endpoint text, p_key text, p_fingerprint bytea)
RETURNS TABLE (outcome text, status smallint, location text, body bytea)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_before text := current_setting('app.tenant_id', true);
    v_record record;
BEGIN
    PERFORM set_config('app.tenant_id', p_scope::text, true);
    outcome := 'fresh';
    FOR v_try IN 1..2 LOOP
        SELECT r.fingerprint, r.status, r.location, r.body, r.lease_until INTO v_record
        FROM idempotency_records r
        WHERE r.tenant_id = p_scope AND r.endpoint = p_endpoint AND r.idempotency_key = p_key
          AND (r.created_at > now() - interval '24 hours' OR r.lease_until > now());
        IF FOUND THEN
            IF v_record.fingerprint <> p_fingerprint THEN
                outcome := 'other_body';
            ELSIF v_record.status IS NOT NULL THEN
                outcome := 'kept';
                status := v_record.status;
                location := v_record.location;
                body := v_record.body;
            ELSIF v_record.lease_until > now() THEN
                outcome := 'under_way';
            END IF;
        END IF;
        EXIT WHEN outcome <> 'fresh';
        -- The record is looked for before the lock, so that repetitions of what is done do not
        -- find each other under way, and again under it, for what was committed in between.
        IF v_try = 1 AND NOT pg_try_advisory_xact_lock(hashtextextended(
            concat_ws(' ', 'qudao.once', p_scope, p_endpoint, p_key), 0)) THEN
            outcome := 'under_way';
            EXIT;
        END IF;
    END LOOP;
    PERFORM set_config('app.tenant_id', v_before, true);
    RETURN NEXT;
END $$;

-- Keeps the answer of a request that app.find_once called fresh, in the same transaction.
CREATE FUNCTION app.keep_once(
    p_scope uuid, p_endpoint text, p_key text, p_fingerprint bytea, p_status smallint,
    p_location text, p_body bytea
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_before text := current_setting('app.tenant_id', true);
BEGIN
    PERFORM set_config('app.tenant_id', p_scope::text, true);
    INSERT INTO idempotency_records AS r (
        tenant_id, endpoint, idempotency_key, fingerprint, status, location, body)
    VALUES (p_scope, p_endpoint, p_key, p_fingerprint, p_status, p_location, p_body)
    ON CONFLICT ON CONSTRAINT idempotency_records_pk DO UPDATE
    SET fingerprint = excluded.fingerprint, status = excluded.status,
        location = excluded.location, body = excluded.body, created_at = now(),
        claim_id = NULL, lease_until = NULL;
    PERFORM set_config('app.tenant_id', v_before, true);
END $$;

-- Claims the key of a request whose work stands in more than one transaction. A claim that lapsed
-- is taken over with its id; what is older than a day begins anew with p_claim.
CREATE FUNCTION app.claim_once(
    p_scope uuid, p_endpoint text, p_key text, p_fingerprint bytea, p_claim uuid, p_lease_ms bigint
) RETURNS TABLE (
    outcome text, status smallint, location text, body bytea, claim_id uuid, epoch bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    SELECT f.outcome, f.status, f.location, f.body INTO outcome, status, location, body
    FROM app.find_once(p_scope, p_endpoint, p_key, p_fingerprint) f;
    IF outcome = 'fresh' THEN
        INSERT INTO idempotency_records AS r (
            tenant_id, endpoint, idempotency_key, fingerprint, claim_id, lease_until)
        VALUES (p_scope, p_endpoint, p_key, p_fingerprint, p_claim,
                now() + p_lease_ms * interval '1 millisecond')
        ON CONFLICT ON CONSTRAINT idempotency_records_pk DO UPDATE
        SET claim_id = CASE WHEN r.created_at > now() - interval '24 hours'
                THEN COALESCE(r.claim_id, excluded.claim_id) ELSE excluded.claim_id END,
            fingerprint = excluded.fingerprint, epoch = r.epoch + 1,
            lease_until = excluded.lease_until, status = NULL, location = NULL, body = NULL,
            created_at = now()
        RETURNING r.claim_id, r.epoch INTO claim_id, epoch;
    END IF;
    RETURN NEXT;
END $$;

-- Forgets what is older than a day.
CREATE FUNCTION app.forget_once(p_limit int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_forgotten bigint;
BEGIN
    DELETE FROM public.idempotency_records r
    USING (
        SELECT o.tenant_id, o.endpoint, o.idempotency_key
        FROM public.idempotency_records o
        WHERE o.created_at <= now() - interval '24 hours'
          AND (o.lease_until IS NULL OR o.lease_until <= now())
        ORDER BY o.created_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) old
    WHERE (r.tenant_id, r.endpoint, r.idempotency_key)
        = (old.tenant_id, old.endpoint, old.idempotency_key);
    GET DIAGNOSTICS v_forgotten = ROW_COUNT;
    RETURN v_forgotten;
END $$;

GRANT EXECUTE ON FUNCTION app.find_once, app.keep_once, app.claim_once TO qudao_app;
GRANT EXECUTE ON FUNCTION app.forget_once TO qudao_claim;
