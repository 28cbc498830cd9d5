-- Who did what: every administrative act, written in the transaction of the act. The rows of a
-- tenant are a chain: each holds the hash of the one before, so that nothing can be changed, removed
-- or put between without a trace. What is cut off at the end shows in the signed heads below.
--
-- No foreign key to tenants: acts that concern no tenant are under the nil id, and what was done to
-- a tenant is to be known after it is gone.
CREATE TABLE audit_events (
    tenant_id  uuid        NOT NULL,
    seq        bigint      NOT NULL,
    at         timestamptz NOT NULL,
    actor      text        NOT NULL,
    action     text        NOT NULL,
    target     text        NOT NULL,
    detail     jsonb       NOT NULL,
    request_id text,
    address    text,
    prev_hash  bytea       NOT NULL,
    hash       bytea       NOT NULL,
    CONSTRAINT audit_events_pk PRIMARY KEY (tenant_id, seq),
    CONSTRAINT audit_events_actor_length CHECK (char_length(actor) BETWEEN 1 AND 200),
    CONSTRAINT audit_events_action_form CHECK (action ~ '^[a-z0-9_.-]{1,100}$'),
    CONSTRAINT audit_events_target_length CHECK (char_length(target) <= 500),
    CONSTRAINT audit_events_detail_small
        CHECK (jsonb_typeof(detail) = 'object' AND octet_length(detail::text) <= 16384)
);

-- The end of each chain. Its row is what writers wait for, so that numbers have no gap.
CREATE TABLE audit_heads (
    tenant_id uuid   NOT NULL,
    seq       bigint NOT NULL,
    hash      bytea  NOT NULL,
    CONSTRAINT audit_heads_pk PRIMARY KEY (tenant_id)
) WITH (fillfactor = 50);

-- Who may sign heads: the platform's own keys, sealed, under the nil id.
CREATE TABLE audit_signers (
    tenant_id   uuid        NOT NULL,
    signer_id   uuid        NOT NULL,
    public_key  bytea       NOT NULL,
    sealed_seed bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_signers_pk PRIMARY KEY (tenant_id, signer_id),
    CONSTRAINT audit_signers_key_length CHECK (octet_length(public_key) = 32)
);

-- Heads as they were, signed every hour and at each stop. Nodes keep copies in files.
CREATE TABLE audit_heads_signed (
    tenant_id uuid        NOT NULL,
    seq       bigint      NOT NULL,
    hash      bytea       NOT NULL,
    signed_at timestamptz NOT NULL,
    signer_id uuid        NOT NULL,
    signature bytea       NOT NULL,
    signed_no bigint      GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT audit_heads_signed_pk PRIMARY KEY (tenant_id, seq),
    CONSTRAINT audit_heads_signed_once UNIQUE (tenant_id, signed_no)
);
CREATE INDEX audit_heads_signed_order ON audit_heads_signed (signed_no);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'audit_events', 'audit_heads', 'audit_signers', 'audit_heads_signed'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', v_table);
    END LOOP;
    FOREACH v_table IN ARRAY ARRAY['audit_events', 'audit_heads_signed'] LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %I FROM PUBLIC', v_table);
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I '
            'FOR EACH ROW EXECUTE FUNCTION app.refuse_change()', v_table || '_only_added', v_table);
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()',
            v_table || '_never_emptied', v_table);
    END LOOP;
END $$;
-- Rows are added by the functions below alone.
GRANT SELECT ON audit_events TO qudao_app;
GRANT SELECT, INSERT, UPDATE (sealed_seed) ON audit_signers TO qudao_app;

-- A text with its length before it, so that no two rows read the same; -1 stands for NULL.
CREATE FUNCTION app.audit_part(p_text text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_text IS NULL THEN int4send(-1)
    ELSE int4send(octet_length(p_text)) || convert_to(p_text, 'UTF8') END;

-- Adds an act of the transaction's tenant and returns its number. Whoever comes second waits for the
-- first's commit: the last thing to do in a transaction.
CREATE FUNCTION app.record_audit(
    p_actor text, p_action text, p_target text, p_detail jsonb, p_request_id text, p_address text
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    v_tenant uuid := app.tenant();
    v_at     timestamptz;
    v_seq    bigint;
    v_prev   bytea;
    v_hash   bytea;
BEGIN
    IF v_tenant IS NULL THEN
        RAISE EXCEPTION 'no tenant is set' USING ERRCODE = '42501';
    END IF;
    INSERT INTO public.audit_heads (tenant_id, seq, hash)
    VALUES (v_tenant, 0, decode(repeat('00', 32), 'hex'))
    ON CONFLICT ON CONSTRAINT audit_heads_pk DO NOTHING;
    SELECT h.seq + 1, h.hash INTO v_seq, v_prev
    FROM public.audit_heads h
    WHERE h.tenant_id = v_tenant
    FOR UPDATE;
    -- Not now(), which is when the transaction began: times follow the order of the numbers.
    v_at := clock_timestamp();
    v_hash := sha256(v_prev || uuid_send(v_tenant) || int8send(v_seq) || int8send(app.micros(v_at))
        || app.audit_part(p_actor) || app.audit_part(p_action) || app.audit_part(p_target)
        || app.audit_part(p_detail::text) || app.audit_part(p_request_id)
        || app.audit_part(p_address));
    INSERT INTO public.audit_events (
        tenant_id, seq, at, actor, action, target, detail, request_id, address, prev_hash, hash)
    VALUES (
        v_tenant, v_seq, v_at, p_actor, p_action, p_target, p_detail, p_request_id, p_address,
        v_prev, v_hash);
    UPDATE public.audit_heads h SET seq = v_seq, hash = v_hash WHERE h.tenant_id = v_tenant;
    RETURN v_seq;
END $$;

-- Chains that have grown since their head was signed last.
CREATE FUNCTION app.unsigned_audit_heads(p_limit bigint)
RETURNS TABLE (tenant_id uuid, seq bigint, hash bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT h.tenant_id, h.seq, h.hash
    FROM public.audit_heads h
    WHERE h.seq > COALESCE((
        SELECT max(s.seq) FROM public.audit_heads_signed s WHERE s.tenant_id = h.tenant_id), 0)
    ORDER BY h.tenant_id
    LIMIT p_limit
$$;

CREATE FUNCTION app.add_signed_head(
    p_tenant uuid, p_seq bigint, p_hash bytea, p_signed_at bigint, p_signer uuid, p_signature bytea
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    INSERT INTO public.audit_heads_signed (tenant_id, seq, hash, signed_at, signer_id, signature)
    VALUES (p_tenant, p_seq, p_hash, app.from_micros(p_signed_at), p_signer, p_signature)
    ON CONFLICT ON CONSTRAINT audit_heads_signed_pk DO NOTHING
$$;

CREATE FUNCTION app.list_signed_heads(p_after bigint, p_limit bigint) RETURNS TABLE (
    signed_no bigint, tenant_id uuid, seq bigint, hash bytea, signed_at bigint, signer_id uuid,
    signature bytea
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT s.signed_no, s.tenant_id, s.seq, s.hash, app.micros(s.signed_at), s.signer_id, s.signature
    FROM public.audit_heads_signed s
    WHERE s.signed_no > p_after
    ORDER BY s.signed_no
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION app.record_audit TO qudao_app;
GRANT EXECUTE ON FUNCTION
    app.unsigned_audit_heads, app.add_signed_head, app.list_signed_heads TO qudao_admin;
