-- Makes the tenant of the transaction, with its wallet and the channel that its API calls are
-- booked on.
CREATE FUNCTION app.create_tenant(
    p_name text, p_currency text, p_locale text, p_fair_charging text, p_api_channel uuid
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant uuid := app.tenant();
BEGIN
    INSERT INTO tenants (tenant_id, name, currency, locale, fair_charging)
    VALUES (v_tenant, p_name, p_currency, p_locale, p_fair_charging);
    INSERT INTO wallets (tenant_id, currency) VALUES (v_tenant, p_currency);
    INSERT INTO channels (tenant_id, channel_id, name, kind, locale)
    VALUES (v_tenant, p_api_channel, 'API', 'api', p_locale);
END $$;

-- Adds credits once per key. The wallet's row is locked first, so two reports of one payment at
-- the same moment cannot both find the key unused.
CREATE FUNCTION app.add_credit(
    p_txn uuid, p_key text, p_amount bigint, p_source text, p_note text
) RETURNS TABLE (outcome text, txn_id uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_tenant   uuid := app.tenant();
    v_currency text;
    v_before   record;
BEGIN
    SELECT w.currency INTO v_currency
    FROM wallets w
    JOIN tenants t ON t.tenant_id = w.tenant_id AND t.currency = w.currency
    WHERE w.tenant_id = v_tenant
    FOR UPDATE OF w;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such tenant'
            USING ERRCODE = '23503', CONSTRAINT = 'credits_wallet_fk';
    END IF;

    SELECT c.txn_id, c.amount, c.source INTO v_before
    FROM credits c
    WHERE c.tenant_id = v_tenant AND c.idempotency_key = p_key;
    IF FOUND THEN
        RETURN QUERY SELECT
            CASE WHEN v_before.amount = p_amount AND v_before.source = p_source
                THEN 'repeated' ELSE 'key_reused' END,
            v_before.txn_id;
        RETURN;
    END IF;

    INSERT INTO credits (tenant_id, txn_id, idempotency_key, amount, currency, source, note)
    VALUES (v_tenant, p_txn, p_key, p_amount, v_currency, p_source, p_note);
    UPDATE wallets w
    SET posted = w.posted + p_amount
    WHERE w.tenant_id = v_tenant AND w.currency = v_currency;
    INSERT INTO ledger_entries (tenant_id, txn_id, leg, account, amount, currency)
    VALUES
        (v_tenant, p_txn, 0, 'wallet', p_amount, v_currency),
        (v_tenant, p_txn, 1, p_source, -p_amount, v_currency);
    RETURN QUERY SELECT 'added', p_txn;
END $$;

-- Adds a version for every model whose price differs from the present one. Nodes that start at
-- the same moment take turns.
CREATE FUNCTION app.sync_prices(
    p_models text[], p_currencies text[], p_inputs bigint[], p_outputs bigint[], p_calls bigint[]
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_added bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('qudao.prices', 0));
    INSERT INTO price_books (
        model, currency, input_per_mtok, output_per_mtok, per_call, effective_from)
    SELECT n.model, n.currency, n.input, n.output, n.per_call, clock_timestamp()
    FROM unnest(p_models, p_currencies, p_inputs, p_outputs, p_calls)
        AS n (model, currency, input, output, per_call)
    WHERE (n.input, n.output, n.per_call) IS DISTINCT FROM (
        SELECT ROW (b.input_per_mtok, b.output_per_mtok, b.per_call)
        FROM price_books b
        WHERE b.model = n.model AND b.currency = n.currency AND b.effective_from <= clock_timestamp()
        ORDER BY b.effective_from DESC, b.price_version DESC
        LIMIT 1);
    GET DIAGNOSTICS v_added = ROW_COUNT;
    RETURN v_added;
END $$;

-- The look-ups that come before the tenant is known. Each returns one row for one exact key.

CREATE FUNCTION app.find_api_key(p_key uuid)
RETURNS TABLE (
    tenant_id uuid, api_key_id uuid, secret_hash bytea, scopes text[], expires_at timestamptz,
    revoked_at timestamptz, currency text, fair_charging text, channel_id uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.tenant_id, k.api_key_id, k.secret_hash, k.scopes, k.expires_at, k.revoked_at,
           t.currency, t.fair_charging, c.channel_id
    FROM public.api_keys k
    JOIN public.tenants t ON t.tenant_id = k.tenant_id
    CROSS JOIN LATERAL (
        SELECT ch.channel_id FROM public.channels ch
        WHERE ch.tenant_id = k.tenant_id AND ch.kind = 'api'
        ORDER BY ch.channel_id LIMIT 1) c
    WHERE k.api_key_id = p_key
    LIMIT 1
$$;

CREATE FUNCTION app.find_channel_by_public_key(p_key text)
RETURNS TABLE (
    tenant_id uuid, channel_id uuid, name text, kind text, open boolean, locale text,
    assistant_name text, greeting text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT c.tenant_id, c.channel_id, c.name, c.kind, c.open, c.locale, a.name, a.greeting
    FROM public.channels c
    JOIN public.assistants a ON a.tenant_id = c.tenant_id AND a.assistant_id = c.assistant_id
    WHERE c.public_key = p_key
    ORDER BY c.channel_id
    LIMIT 1
$$;

CREATE FUNCTION app.list_tenants(p_before uuid, p_limit bigint)
RETURNS TABLE (
    tenant_id uuid, name text, currency text, locale text, fair_charging text,
    created_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.tenant_id, t.name, t.currency, t.locale, t.fair_charging, t.created_at
    FROM public.tenants t
    WHERE p_before IS NULL OR t.tenant_id < p_before
    ORDER BY t.tenant_id DESC
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION app.create_tenant, app.add_credit TO qudao_app;
GRANT EXECUTE ON FUNCTION
    app.sync_prices, app.find_api_key, app.find_channel_by_public_key, app.list_tenants
    TO qudao_admin;
