-- Which models may answer, the preferred first.
CREATE TABLE routes (
    tenant_id  uuid        NOT NULL,
    route_id   uuid        NOT NULL,
    name       text        NOT NULL,
    models     text[]      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT routes_pk PRIMARY KEY (tenant_id, route_id),
    CONSTRAINT routes_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT routes_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT routes_models_some CHECK (cardinality(models) BETWEEN 1 AND 32)
);

CREATE TABLE assistants (
    tenant_id     uuid        NOT NULL,
    assistant_id  uuid        NOT NULL,
    name          text        NOT NULL,
    system_prompt text        NOT NULL,
    greeting      text        NOT NULL DEFAULT '',
    params        jsonb       NOT NULL DEFAULT '{}',
    route_id      uuid        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT assistants_pk PRIMARY KEY (tenant_id, assistant_id),
    CONSTRAINT assistants_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT assistants_route_fk
        FOREIGN KEY (tenant_id, route_id) REFERENCES routes (tenant_id, route_id),
    CONSTRAINT assistants_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT assistants_params_object CHECK (jsonb_typeof(params) = 'object')
);

-- A web channel is found by strangers through its public key: 128 random bits, so the plain
-- index on it needs no promise of uniqueness across tenants, which would let one tenant probe
-- for another's keys. The API channel has no assistant: the caller brings the messages.
CREATE TABLE channels (
    tenant_id    uuid        NOT NULL,
    channel_id   uuid        NOT NULL,
    name         text        NOT NULL,
    kind         text        NOT NULL,
    public_key   text,
    assistant_id uuid,
    locale       text        NOT NULL,
    open         boolean     NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT channels_pk PRIMARY KEY (tenant_id, channel_id),
    CONSTRAINT channels_public_key_once UNIQUE (tenant_id, public_key),
    CONSTRAINT channels_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT channels_assistant_fk
        FOREIGN KEY (tenant_id, assistant_id) REFERENCES assistants (tenant_id, assistant_id),
    CONSTRAINT channels_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT channels_kind_known CHECK (kind IN ('web', 'api')),
    CONSTRAINT channels_assistant_unless_api CHECK (kind = 'api' OR assistant_id IS NOT NULL)
);
CREATE INDEX channels_by_public_key ON channels (public_key) WHERE public_key IS NOT NULL;

-- Only the hash of a key is kept. The plain index serves the look-up before the tenant is known.
CREATE TABLE api_keys (
    tenant_id   uuid        NOT NULL,
    api_key_id  uuid        NOT NULL,
    name        text        NOT NULL,
    secret_hash bytea       NOT NULL,
    last4       text        NOT NULL,
    scopes      text[]      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT api_keys_pk PRIMARY KEY (tenant_id, api_key_id),
    CONSTRAINT api_keys_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT api_keys_name_length CHECK (char_length(name) BETWEEN 1 AND 120),
    CONSTRAINT api_keys_hash_length CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT api_keys_last4_length CHECK (char_length(last4) = 4)
);
CREATE INDEX api_keys_by_id ON api_keys (api_key_id);

-- An end user, and how each channel calls them.
CREATE TABLE contacts (
    tenant_id  uuid        NOT NULL,
    contact_id uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT contacts_pk PRIMARY KEY (tenant_id, contact_id),
    CONSTRAINT contacts_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id)
);

CREATE TABLE identities (
    tenant_id   uuid        NOT NULL,
    channel_id  uuid        NOT NULL,
    external_id text        NOT NULL,
    contact_id  uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT identities_pk PRIMARY KEY (tenant_id, channel_id, external_id),
    CONSTRAINT identities_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT identities_contact_fk
        FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT identities_external_id_length CHECK (char_length(external_id) BETWEEN 1 AND 200)
);
