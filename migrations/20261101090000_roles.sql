-- Roles belong to the whole cluster, while migrations run once per database, possibly in many
-- databases at the same time. So each role is created only if nobody else was faster.
--
--   qudao_app    what serves tenants: sees the rows of one tenant per transaction
--   qudao_claim  what finds work: may call the claim functions and nothing else
--   qudao_admin  what runs the platform: look-ups across tenants through functions, prices
--
-- None of them can log in. The role of the connection URL takes them on with SET ROLE; it needs
-- BYPASSRLS itself, because the functions it owns look across tenants.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['qudao_app', 'qudao_claim', 'qudao_admin'] LOOP
        BEGIN
            EXECUTE format(
                'CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', v_role);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
        IF NOT pg_has_role(current_user, v_role, 'MEMBER') THEN
            BEGIN
                EXECUTE format('GRANT %I TO %I', v_role, current_user);
            EXCEPTION WHEN unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END $$;

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app, public TO qudao_app, qudao_claim, qudao_admin;

-- Functions are for those they are granted to.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- The tenant of the transaction. After a transaction that set it, the setting is the empty text
-- and not NULL; without NULLIF the cast would fail instead of matching no row.
CREATE FUNCTION app.tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN NULLIF(current_setting('app.tenant_id', true), '')::uuid;

-- Times leave the database as whole microseconds since 1970.
CREATE FUNCTION app.micros(p_at timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (extract(epoch FROM p_at) * 1000000)::bigint;

CREATE FUNCTION app.from_micros(p_micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp(0) + p_micros * interval '1 microsecond';

GRANT EXECUTE ON FUNCTION app.tenant(), app.micros(timestamptz), app.from_micros(bigint)
    TO qudao_app, qudao_claim, qudao_admin;

-- Refuses changes of what is only ever added to. Rights are the first lock; this is the second,
-- for the day when somebody grants too much.
CREATE FUNCTION app.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % refused: rows are only ever added', TG_OP, TG_TABLE_NAME
        USING ERRCODE = '42501';
END $$;
