-- Who works for a tenant, how they come in, and what keys may do.

-- Keys: where from they may be used, when they were last used, who made them.
-- last_used_at lags by some seconds: it is written by a node's own loop and not by each call.
ALTER TABLE api_keys
    ADD COLUMN allowed_networks text[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN made_by text NOT NULL DEFAULT '',
    ADD COLUMN replaces uuid;

CREATE FUNCTION app.find_key_holder(p_key uuid)
RETURNS TABLE (
    tenant_id uuid, api_key_id uuid, secret_hash bytea, scopes text[], allowed_networks text[],
    expires_at timestamptz, revoked_at timestamptz, currency text, fair_charging text,
    channel_id uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT k.tenant_id, k.api_key_id, k.secret_hash, k.scopes, k.allowed_networks, k.expires_at,
           k.revoked_at, t.currency, t.fair_charging, c.channel_id
    FROM public.api_keys k
    JOIN public.tenants t ON t.tenant_id = k.tenant_id
    CROSS JOIN LATERAL (
        SELECT ch.channel_id FROM public.channels ch
        WHERE ch.tenant_id = k.tenant_id AND ch.kind = 'api'
        ORDER BY ch.channel_id LIMIT 1) c
    WHERE k.api_key_id = p_key
    LIMIT 1
$$;
GRANT EXECUTE ON FUNCTION app.find_key_holder TO qudao_admin;

-- Roles that a tenant made up. The ones that come with the platform are in its code.
CREATE TABLE roles (
    tenant_id  uuid        NOT NULL,
    role_id    uuid        NOT NULL,
    name       text        NOT NULL,
    scopes     text[]      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT roles_pk PRIMARY KEY (tenant_id, role_id),
    CONSTRAINT roles_name_once UNIQUE (tenant_id, name),
    CONSTRAINT roles_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT roles_name_length CHECK (char_length(name) BETWEEN 1 AND 120)
);

-- A person of one tenant. Somebody who works for two has two accounts: what one tenant's identity
-- provider says of a person must open nothing of another's.
--   email          lower case; what they sign in with
--   password_hash  argon2id in its own text form; NULL for who signs in elsewhere
--   totp_sealed    the shared secret, encrypted; in force once totp_confirmed_at is set
--   totp_last_step the step of the last code that was used, which is not taken again
CREATE TABLE members (
    tenant_id         uuid        NOT NULL,
    member_id         uuid        NOT NULL,
    email             text        NOT NULL,
    name              text        NOT NULL,
    role              text,
    role_id           uuid,
    password_hash     text,
    totp_sealed       bytea,
    totp_confirmed_at timestamptz,
    totp_last_step    bigint      NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT now(),
    suspended_at      timestamptz,
    CONSTRAINT members_pk PRIMARY KEY (tenant_id, member_id),
    CONSTRAINT members_email_once UNIQUE (tenant_id, email),
    CONSTRAINT members_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT members_role_fk FOREIGN KEY (tenant_id, role_id) REFERENCES roles (tenant_id, role_id),
    CONSTRAINT members_one_role CHECK ((role IS NULL) <> (role_id IS NULL)),
    CONSTRAINT members_role_known
        CHECK (role IN ('owner', 'admin', 'billing', 'editor', 'agent', 'viewer')),
    CONSTRAINT members_email_form
        CHECK (char_length(email) BETWEEN 3 AND 254 AND email = lower(email)),
    CONSTRAINT members_name_length CHECK (char_length(name) BETWEEN 1 AND 120)
);
CREATE INDEX members_by_role ON members (tenant_id, role_id) WHERE role_id IS NOT NULL;

-- For whoever lost their device: each opens the second lock once.
CREATE TABLE recovery_codes (
    tenant_id uuid        NOT NULL,
    member_id uuid        NOT NULL,
    code_hash bytea       NOT NULL,
    used_at   timestamptz,
    CONSTRAINT recovery_codes_pk PRIMARY KEY (tenant_id, member_id, code_hash),
    CONSTRAINT recovery_codes_member_fk FOREIGN KEY (tenant_id, member_id)
        REFERENCES members (tenant_id, member_id) ON DELETE CASCADE,
    CONSTRAINT recovery_codes_hash_length CHECK (octet_length(code_hash) = 32)
);

CREATE TABLE invitations (
    tenant_id     uuid        NOT NULL,
    invitation_id uuid        NOT NULL,
    email         text        NOT NULL,
    role          text,
    role_id       uuid,
    secret_hash   bytea       NOT NULL,
    made_by       text        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    accepted_at   timestamptz,
    revoked_at    timestamptz,
    CONSTRAINT invitations_pk PRIMARY KEY (tenant_id, invitation_id),
    CONSTRAINT invitations_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT invitations_role_fk
        FOREIGN KEY (tenant_id, role_id) REFERENCES roles (tenant_id, role_id),
    CONSTRAINT invitations_one_role CHECK ((role IS NULL) <> (role_id IS NULL)),
    CONSTRAINT invitations_role_known
        CHECK (role IN ('owner', 'admin', 'billing', 'editor', 'agent', 'viewer')),
    CONSTRAINT invitations_hash_length CHECK (octet_length(secret_hash) = 32)
);
CREATE INDEX invitations_by_role ON invitations (tenant_id, role_id) WHERE role_id IS NOT NULL;

-- Services that a tenant's members may sign in with, by OpenID Connect.
CREATE TABLE identity_providers (
    tenant_id            uuid        NOT NULL,
    identity_provider_id uuid        NOT NULL,
    name                 text        NOT NULL,
    issuer               text        NOT NULL,
    client_id            text        NOT NULL,
    client_secret_sealed bytea       NOT NULL,
    join_role            text,
    join_domains         text[]      NOT NULL DEFAULT '{}',
    created_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT identity_providers_pk PRIMARY KEY (tenant_id, identity_provider_id),
    CONSTRAINT identity_providers_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT identity_providers_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT identity_providers_join_role_known
        CHECK (join_role IN ('admin', 'billing', 'editor', 'agent', 'viewer')),
    CONSTRAINT identity_providers_join_is_bounded
        CHECK (join_role IS NULL OR cardinality(join_domains) > 0)
);

-- Who a provider says a member is. The subject never changes; an e-mail address may.
CREATE TABLE member_identities (
    tenant_id            uuid        NOT NULL,
    identity_provider_id uuid        NOT NULL,
    subject              text        NOT NULL,
    member_id            uuid        NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT member_identities_pk PRIMARY KEY (tenant_id, identity_provider_id, subject),
    CONSTRAINT member_identities_provider_fk FOREIGN KEY (tenant_id, identity_provider_id)
        REFERENCES identity_providers (tenant_id, identity_provider_id) ON DELETE CASCADE,
    CONSTRAINT member_identities_member_fk FOREIGN KEY (tenant_id, member_id)
        REFERENCES members (tenant_id, member_id) ON DELETE CASCADE,
    CONSTRAINT member_identities_subject_length CHECK (char_length(subject) BETWEEN 1 AND 255)
);
CREATE INDEX member_identities_by_member ON member_identities (tenant_id, member_id);

-- Members who are signed in. Only the hash of the cookie's secret is kept.
CREATE TABLE sessions (
    tenant_id   uuid        NOT NULL,
    session_id  uuid        NOT NULL,
    member_id   uuid        NOT NULL,
    secret_hash bytea       NOT NULL,
    method      text        NOT NULL,
    address     text        NOT NULL,
    user_agent  text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    CONSTRAINT sessions_pk PRIMARY KEY (tenant_id, session_id),
    CONSTRAINT sessions_member_fk FOREIGN KEY (tenant_id, member_id)
        REFERENCES members (tenant_id, member_id) ON DELETE CASCADE,
    CONSTRAINT sessions_hash_length CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT sessions_method_known CHECK (method IN ('password', 'invitation', 'oidc')),
    CONSTRAINT sessions_user_agent_length CHECK (char_length(user_agent) <= 300)
);
CREATE INDEX sessions_by_member ON sessions (tenant_id, member_id);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'roles', 'members', 'recovery_codes', 'invitations', 'identity_providers',
        'member_identities', 'sessions'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', v_table);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    roles, members, recovery_codes, identity_providers, invitations, sessions TO qudao_app;
GRANT SELECT, INSERT, DELETE ON member_identities TO qudao_app;
