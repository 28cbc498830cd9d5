-- Secrets are sealed with a key of their tenant. That key is here too, wrapped by a master key that
-- is in the nodes' settings and never in the database: a dump opens nothing.
--
-- The master keys as the nodes know them: an id, which is a hash, and a value sealed with the key, by
-- which a node tells at its start whether it has the right one. One of them wraps new keys.
-- The platform's own table: it belongs to no tenant.
CREATE TABLE master_keys (
    master_key_id text        NOT NULL,
    check_value   bytea       NOT NULL,
    in_use        boolean     NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT master_keys_pk PRIMARY KEY (master_key_id),
    CONSTRAINT master_keys_id_form CHECK (master_key_id ~ '^[0-9a-f]{16}$')
);
CREATE UNIQUE INDEX master_keys_one_in_use ON master_keys (in_use) WHERE in_use;
GRANT SELECT, INSERT, UPDATE ON master_keys TO qudao_admin;

-- No foreign key to tenants: the key of the platform's own secrets is kept under the nil id.
CREATE TABLE tenant_keys (
    tenant_id     uuid        NOT NULL,
    key_version   int         NOT NULL,
    wrapped       bytea       NOT NULL,
    master_key_id text        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    retired_at    timestamptz,
    CONSTRAINT tenant_keys_pk PRIMARY KEY (tenant_id, key_version),
    CONSTRAINT tenant_keys_master_fk
        FOREIGN KEY (master_key_id) REFERENCES master_keys (master_key_id),
    CONSTRAINT tenant_keys_version_positive CHECK (key_version > 0)
);
CREATE INDEX tenant_keys_by_master ON tenant_keys (master_key_id);

ALTER TABLE tenant_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON tenant_keys
    USING (tenant_id = (SELECT app.tenant())) WITH CHECK (tenant_id = (SELECT app.tenant()));
-- Keys are added by the function below alone; they are wrapped anew in place.
GRANT SELECT, UPDATE (wrapped, master_key_id) ON tenant_keys TO qudao_app;

-- Adds the transaction's tenant's next key. The row of the master key stays locked until the end, so
-- that no key is added under one that another transaction is taking out of use.
CREATE FUNCTION app.add_tenant_key(p_version int, p_wrapped bytea, p_master text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM FROM public.master_keys m
    WHERE m.master_key_id = p_master AND m.in_use
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'other_master';
    END IF;
    INSERT INTO public.tenant_keys (tenant_id, key_version, wrapped, master_key_id)
    VALUES (app.tenant(), p_version, p_wrapped, p_master)
    ON CONFLICT ON CONSTRAINT tenant_keys_pk DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'exists';
    END IF;
    UPDATE public.tenant_keys k
    SET retired_at = now()
    WHERE k.tenant_id = app.tenant() AND k.key_version < p_version AND k.retired_at IS NULL;
    RETURN 'added';
END $$;

-- How many keys each master key wraps.
CREATE FUNCTION app.count_tenant_keys() RETURNS TABLE (master_key_id text, keys bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT m.master_key_id, count(k.key_version)
    FROM public.master_keys m
    LEFT JOIN public.tenant_keys k ON k.master_key_id = m.master_key_id
    GROUP BY m.master_key_id
$$;

-- Keys that another master key than this one wraps.
CREATE FUNCTION app.list_tenant_keys_of_others(p_master text, p_limit bigint)
RETURNS TABLE (tenant_id uuid, key_version int)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.tenant_id, k.key_version
    FROM public.tenant_keys k
    WHERE k.master_key_id <> p_master
    ORDER BY k.tenant_id, k.key_version
    LIMIT p_limit
$$;

GRANT EXECUTE ON FUNCTION app.add_tenant_key TO qudao_app;
GRANT EXECUTE ON FUNCTION app.count_tenant_keys, app.list_tenant_keys_of_others TO qudao_admin;
