-- How people prove who they are: codes that are sent to an address, the mails that carry them, and
-- what of a contact moves with a merge.

-- What the contact that went over had proven, so that it goes home when the merge is undone.
ALTER TABLE contact_merges ADD COLUMN claims jsonb NOT NULL DEFAULT '[]';

-- A code that was sent to an address. Neither the code nor the address is here in plain.
CREATE TABLE claim_codes (
    tenant_id  uuid        NOT NULL,
    claim_id   uuid        NOT NULL,
    channel_id uuid        NOT NULL,
    -- The channel's own id of who asks, who need not be a contact yet.
    thread     text        NOT NULL,
    kind       text        NOT NULL,
    value_hash bytea       NOT NULL,
    code_hash  bytea       NOT NULL,
    -- Who is known at this address on other channels.
    contacts   uuid[]      NOT NULL DEFAULT '{}',
    tries      int         NOT NULL DEFAULT 0,
    made_at    timestamptz NOT NULL DEFAULT now(),
    good_until timestamptz NOT NULL,
    used_at    timestamptz,
    CONSTRAINT claim_codes_pk PRIMARY KEY (tenant_id, claim_id),
    CONSTRAINT claim_codes_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT claim_codes_kind_known CHECK (kind IN ('email', 'phone')),
    CONSTRAINT claim_codes_hashes CHECK (octet_length(value_hash) = 32 AND octet_length(code_hash) = 32),
    CONSTRAINT claim_codes_thread_length CHECK (char_length(thread) BETWEEN 1 AND 200)
);
CREATE INDEX claim_codes_by_thread ON claim_codes (tenant_id, channel_id, thread);
CREATE INDEX claim_codes_by_age ON claim_codes (made_at);

-- Mails of the platform itself on their way out. What they say and to whom is sealed, and gone once
-- they are over.
CREATE TABLE mails (
    tenant_id  uuid        NOT NULL,
    mail_id    uuid        NOT NULL,
    -- What it is for.
    kind       text        NOT NULL,
    -- Whom it concerns, if that is known.
    contact_id uuid,
    sealed     bytea,
    state      text        NOT NULL DEFAULT 'waiting',
    -- Counted at the claim, because a node that dies cannot count. Fences the claim at once.
    attempts   int         NOT NULL DEFAULT 0,
    ready_at   timestamptz NOT NULL DEFAULT now(),
    -- After that it is of no use.
    good_until timestamptz NOT NULL,
    -- What the mail server said, without an address.
    error      text,
    made_at    timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    CONSTRAINT mails_pk PRIMARY KEY (tenant_id, mail_id),
    CONSTRAINT mails_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id),
    CONSTRAINT mails_contact_fk
        FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT mails_kind_known CHECK (kind IN ('code', 'transcript', 'notice')),
    CONSTRAINT mails_state_known CHECK (state IN ('waiting', 'sent', 'dead')),
    CONSTRAINT mails_open_or_over CHECK ((state = 'waiting') = (ended_at IS NULL)),
    CONSTRAINT mails_over_say_nothing CHECK (state = 'waiting' OR sealed IS NULL),
    CONSTRAINT mails_error_length CHECK (char_length(error) <= 500)
);
CREATE INDEX mails_ready ON mails (ready_at) WHERE state = 'waiting';
CREATE INDEX mails_by_contact ON mails (tenant_id, contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX mails_over ON mails (ended_at) WHERE ended_at IS NOT NULL;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['claim_codes', 'mails'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', t);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON claim_codes, mails TO qudao_app;

-- Mails that may be sent now, whoever's they are. Each is one node's until it is ready again.
CREATE FUNCTION app.claim_mails(p_limit int, p_lease_ms bigint)
RETURNS TABLE (tenant_id uuid, mail_id uuid, attempts int, sealed bytea, expired boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE public.mails m
    SET attempts = m.attempts + 1, ready_at = now() + p_lease_ms * interval '1 millisecond'
    WHERE m.ctid = ANY (ARRAY(
        SELECT d.ctid FROM public.mails d
        WHERE d.state = 'waiting' AND d.ready_at <= now()
        ORDER BY d.ready_at
        LIMIT p_limit
        FOR UPDATE SKIP LOCKED))
    RETURNING m.tenant_id, m.mail_id, m.attempts, m.sealed, m.good_until <= now();
END $$;

-- Codes and mails that were over a week ago.
CREATE FUNCTION app.forget_mails(p_limit int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH codes AS (
        DELETE FROM public.claim_codes c
        WHERE c.ctid = ANY (ARRAY(
            SELECT o.ctid FROM public.claim_codes o
            WHERE o.made_at < now() - interval '7 days' ORDER BY o.made_at LIMIT p_limit))
        RETURNING 1),
    mails AS (
        DELETE FROM public.mails m
        WHERE m.ctid = ANY (ARRAY(
            SELECT o.ctid FROM public.mails o
            WHERE o.ended_at < now() - interval '7 days' ORDER BY o.ended_at LIMIT p_limit))
        RETURNING 1)
    SELECT (SELECT count(*) FROM codes) + (SELECT count(*) FROM mails)
$$;

GRANT EXECUTE ON FUNCTION app.claim_mails, app.forget_mails TO qudao_claim;
