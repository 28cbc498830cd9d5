-- Channels of partners (PCP/1): their keys, what they can show, and the log of what they are sent,
-- which is queue, cursor and record at once.

CREATE TABLE partner_channels (
    tenant_id     uuid        NOT NULL,
    channel_id    uuid        NOT NULL,
    -- Answers are made up and nothing is charged, until a report of the kit lifts it.
    sandbox       boolean     NOT NULL DEFAULT true,
    capabilities  jsonb       NOT NULL DEFAULT '{}',
    -- The address that has shown that it is the partner's; events go to no other.
    verified_url  text,
    -- The endpoint said that it is gone.
    disabled_at   timestamptz,
    -- The last cursor that was given out, and the last that a reader acknowledged.
    last_cursor   bigint      NOT NULL DEFAULT 0,
    acked_cursor  bigint      NOT NULL DEFAULT 0,
    -- The breaker: failures in a row, since when, and when to try again.
    failures      int         NOT NULL DEFAULT 0,
    failing_since timestamptz,
    paused_until  timestamptz,
    live_at       timestamptz,
    CONSTRAINT partner_channels_pk PRIMARY KEY (tenant_id, channel_id),
    CONSTRAINT partner_channels_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT partner_channels_capabilities_object CHECK (jsonb_typeof(capabilities) = 'object'),
    CONSTRAINT partner_channels_url_length CHECK (char_length(verified_url) <= 2048)
);

-- Keys by which partners name their channel. Only hashes.
CREATE TABLE partner_keys (
    tenant_id   uuid        NOT NULL,
    channel_id  uuid        NOT NULL,
    secret_hash bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    CONSTRAINT partner_keys_pk PRIMARY KEY (tenant_id, channel_id, secret_hash),
    CONSTRAINT partner_keys_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT partner_keys_hash_length CHECK (octet_length(secret_hash) = 32)
);

-- Conversations as partners call them: the numbers that were given out, and who answers.
CREATE TABLE partner_threads (
    tenant_id  uuid    NOT NULL,
    channel_id uuid    NOT NULL,
    thread     text    NOT NULL,
    -- Ordered events to the partner, and messages from it in the sandbox.
    out_seq    bigint  NOT NULL DEFAULT 0,
    in_seq     bigint  NOT NULL DEFAULT 0,
    -- A person of the partner answers.
    handed_off boolean NOT NULL DEFAULT false,
    CONSTRAINT partner_threads_pk PRIMARY KEY (tenant_id, channel_id, thread),
    CONSTRAINT partner_threads_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT partner_threads_thread_length CHECK (char_length(thread) BETWEEN 1 AND 200)
);

CREATE TABLE partner_events (
    tenant_id   uuid        NOT NULL,
    channel_id  uuid        NOT NULL,
    cursor      bigint      NOT NULL,
    event_id    text        NOT NULL,
    kind        text        NOT NULL,
    thread      text        NOT NULL DEFAULT '',
    -- Its place in its conversation; what has none waits for nobody.
    seq         bigint,
    -- The bytes that are signed anew at each attempt.
    body        bytea       NOT NULL,
    -- What it came from, and which piece of that it is.
    outbox_id   uuid,
    piece       int         NOT NULL DEFAULT 0,
    -- The last message of the conversation that it answers, and whether nothing follows.
    answers     bigint,
    is_final    boolean     NOT NULL DEFAULT false,
    state       text        NOT NULL DEFAULT 'ready',
    attempts    int         NOT NULL DEFAULT 0,
    -- Attempts of the present round: a replay begins another.
    tries       int         NOT NULL DEFAULT 0,
    replayed    boolean     NOT NULL DEFAULT false,
    -- In the sandbox: what goes wrong on purpose.
    fault       text,
    next_at     timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    expires_at  timestamptz,
    last_status int,
    last_error  text,
    answer      text,
    external_id text,
    -- What became of the message, as far as the partner tells.
    receipt     text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at     timestamptz,
    CONSTRAINT partner_events_pk PRIMARY KEY (tenant_id, channel_id, cursor),
    CONSTRAINT partner_events_event_unique UNIQUE (tenant_id, channel_id, event_id),
    CONSTRAINT partner_events_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT partner_events_state_known
        CHECK (state IN ('ready', 'sending', 'done', 'dead', 'expired')),
    CONSTRAINT partner_events_receipt_known
        CHECK (receipt IN ('sent', 'delivered', 'read', 'failed')),
    CONSTRAINT partner_events_thread_length CHECK (char_length(thread) <= 200)
);
CREATE UNIQUE INDEX partner_events_by_piece
    ON partner_events (tenant_id, outbox_id, piece) WHERE outbox_id IS NOT NULL;
CREATE INDEX partner_events_by_lane ON partner_events (tenant_id, channel_id, thread, cursor);
CREATE INDEX partner_events_open ON partner_events (next_at) WHERE state IN ('ready', 'sending');
CREATE INDEX partner_events_by_age ON partner_events (created_at);

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['partner_channels', 'partner_keys', 'partner_threads',
                             'partner_events'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', t);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    partner_channels, partner_keys, partner_threads, partner_events TO qudao_app;

-- Events for endpoints, whoever's they are, that may be sent now: of a conversation's ordered ones
-- only the first. Each is one node's until its lease ends. A paused endpoint gets one try when its
-- pause is over, and the pause begins anew with it.
CREATE FUNCTION app.claim_partner_events(p_limit int, p_lease_ms bigint, p_pause_ms bigint)
RETURNS TABLE (tenant_id uuid, channel_id uuid, event_cursor bigint, probe boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH probes AS (
        UPDATE public.partner_channels h
        SET paused_until = now() + p_pause_ms * interval '1 millisecond'
        WHERE h.paused_until <= now()
          AND EXISTS (SELECT 1 FROM public.partner_events e
                      WHERE e.tenant_id = h.tenant_id AND e.channel_id = h.channel_id
                        AND e.state IN ('ready', 'sending'))
        RETURNING h.tenant_id, h.channel_id),
    claimed AS (
        UPDATE public.partner_events p
        SET state = 'sending', attempts = p.attempts + 1, tries = p.tries + 1,
            lease_until = now() + p_lease_ms * interval '1 millisecond'
        WHERE p.ctid = ANY (ARRAY(
            SELECT e.ctid
            FROM public.partner_events e
            JOIN public.channels c ON c.tenant_id = e.tenant_id AND c.channel_id = e.channel_id
            JOIN public.partner_channels h
              ON h.tenant_id = e.tenant_id AND h.channel_id = e.channel_id
            WHERE (e.state = 'ready' AND e.next_at <= now()
                   OR e.state = 'sending' AND e.lease_until <= now())
              AND c.open AND COALESCE(c.settings->>'transport', 'webhook') = 'webhook'
              AND h.verified_url = c.settings->>'endpoint_url'
              AND h.disabled_at IS NULL AND h.paused_until IS NULL
              AND (e.seq IS NULL OR NOT EXISTS (
                    SELECT 1 FROM public.partner_events b
                    WHERE b.tenant_id = e.tenant_id AND b.channel_id = e.channel_id
                      AND b.thread = e.thread AND b.cursor < e.cursor
                      AND b.seq IS NOT NULL AND b.state IN ('ready', 'sending')))
            ORDER BY e.next_at
            LIMIT p_limit
            FOR UPDATE OF e SKIP LOCKED))
        RETURNING p.tenant_id, p.channel_id, p.cursor)
    SELECT c.tenant_id, c.channel_id, c.cursor, false FROM claimed c
    UNION ALL
    SELECT p.tenant_id, p.channel_id, 0::bigint, true FROM probes p;
END $$;

-- Events that nobody asks for any more.
CREATE FUNCTION app.forget_partner_events(p_older_than_ms bigint, p_limit int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM public.partner_events e
        WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM public.partner_events o
            WHERE o.created_at < now() - p_older_than_ms * interval '1 millisecond'
              AND o.state NOT IN ('ready', 'sending')
            ORDER BY o.created_at LIMIT p_limit))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION app.claim_partner_events, app.forget_partner_events TO qudao_claim;
