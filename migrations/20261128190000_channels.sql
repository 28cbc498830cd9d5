-- Channels of other platforms: their settings, what happened on them, and what was sent over them.

ALTER TABLE channels
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}',
    -- One JSON object: each secret's values that are valid, the newest first.
    ADD COLUMN secrets_sealed bytea,
    -- The names of the secrets that are set.
    ADD COLUMN secret_names text[] NOT NULL DEFAULT '{}',
    -- Raised with each change of the settings or secrets.
    ADD COLUMN revision bigint NOT NULL DEFAULT 0,
    -- As whom the platform knows the channel, once that was tried.
    ADD COLUMN account text,
    ADD COLUMN connected_at timestamptz,
    -- What is wrong with the credentials, in words for the tenant.
    ADD COLUMN fault text,
    ADD CONSTRAINT channels_settings_object CHECK (jsonb_typeof(settings) = 'object') NOT VALID,
    ADD CONSTRAINT channels_kind_valid CHECK (kind IN (
        'web', 'api', 'telegram', 'partner', 'slack', 'whatsapp', 'messenger', 'instagram', 'email',
        'matrix', 'feishu', 'wecom', 'wechat', 'discord', 'line', 'dingtalk')) NOT VALID;
-- lint: allow drop: the constraint that takes its place knows more kinds; older nodes make web channels
ALTER TABLE channels DROP CONSTRAINT channels_kind_known;

ALTER TABLE identities
    ADD COLUMN name text,
    ADD COLUMN locale text,
    -- The person takes no messages any more, says the platform.
    ADD COLUMN unreachable_at timestamptz,
    -- The person does not want messages that they did not ask for.
    ADD COLUMN unsubscribed_at timestamptz,
    ADD CONSTRAINT identities_name_length CHECK (char_length(name) <= 200) NOT VALID,
    ADD CONSTRAINT identities_locale_length CHECK (char_length(locale) <= 35) NOT VALID;
GRANT UPDATE (name, locale, unreachable_at, unsubscribed_at) ON identities TO qudao_app;

-- What happened beside messages, and every event's id for as long as a platform may repeat it.
CREATE TABLE channel_events (
    tenant_id   uuid        NOT NULL,
    channel_id  uuid        NOT NULL,
    event_id    text        NOT NULL,
    kind        text        NOT NULL,
    -- The channel's own id of the conversation, so that an erasure finds it.
    thread      text        NOT NULL,
    body        jsonb       NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT channel_events_pk PRIMARY KEY (tenant_id, channel_id, event_id),
    CONSTRAINT channel_events_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT channel_events_id_length CHECK (char_length(event_id) BETWEEN 1 AND 200),
    CONSTRAINT channel_events_kind_length CHECK (char_length(kind) BETWEEN 1 AND 60),
    CONSTRAINT channel_events_thread_length CHECK (char_length(thread) <= 200)
);
CREATE INDEX channel_events_by_age ON channel_events (received_at);
CREATE INDEX channel_events_by_thread ON channel_events (tenant_id, channel_id, thread);

-- The pieces of an outbound message that the other side has: sending it again leaves them out.
CREATE TABLE delivery_pieces (
    tenant_id       uuid        NOT NULL,
    outbox_id       uuid        NOT NULL,
    piece           int         NOT NULL,
    channel_id      uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    external_id     text,
    -- What became of it, as far as the platform tells: sent, delivered, read, failed.
    state           text        NOT NULL DEFAULT 'sent',
    sent_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT delivery_pieces_pk PRIMARY KEY (tenant_id, outbox_id, piece),
    CONSTRAINT delivery_pieces_outbox_fk
        FOREIGN KEY (tenant_id, outbox_id) REFERENCES outbox (tenant_id, outbox_id),
    CONSTRAINT delivery_pieces_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT delivery_pieces_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT delivery_pieces_state_known
        CHECK (state IN ('sent', 'delivered', 'read', 'failed')),
    CONSTRAINT delivery_pieces_external_id_length CHECK (char_length(external_id) <= 500)
);
CREATE INDEX delivery_pieces_by_external_id
    ON delivery_pieces (tenant_id, channel_id, external_id) WHERE external_id IS NOT NULL;

-- Messages that show an answer while it grows, and that become the answer: at most one of a turn.
CREATE TABLE channel_previews (
    tenant_id       uuid        NOT NULL,
    turn_id         uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    external_id     text        NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT channel_previews_pk PRIMARY KEY (tenant_id, turn_id),
    CONSTRAINT channel_previews_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT channel_previews_external_id_length CHECK (char_length(external_id) <= 500)
);

-- How a contact came: the first word of it stays.
CREATE TABLE attributions (
    tenant_id  uuid        NOT NULL,
    contact_id uuid        NOT NULL,
    channel_id uuid        NOT NULL,
    body       jsonb       NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT attributions_pk PRIMARY KEY (tenant_id, contact_id),
    CONSTRAINT attributions_contact_fk
        FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT attributions_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT attributions_body_object CHECK (jsonb_typeof(body) = 'object')
);

-- Channels whose platform is asked for what arrived: where to go on, and which node asks. The clock
-- is the database's.
CREATE TABLE channel_polls (
    tenant_id   uuid        NOT NULL,
    channel_id  uuid        NOT NULL,
    cursor      jsonb,
    owner       uuid,
    lease_until timestamptz,
    CONSTRAINT channel_polls_pk PRIMARY KEY (tenant_id, channel_id),
    CONSTRAINT channel_polls_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id)
);

-- Copies of files that came in or go out.
CREATE TABLE media (
    tenant_id       uuid        NOT NULL,
    media_id        uuid        NOT NULL,
    channel_id      uuid        NOT NULL,
    conversation_id uuid,
    mime            text        NOT NULL,
    name            text,
    size            bigint      NOT NULL,
    sha256          bytea       NOT NULL,
    bytes           bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT media_pk PRIMARY KEY (tenant_id, media_id),
    CONSTRAINT media_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT media_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT media_mime_length CHECK (char_length(mime) BETWEEN 3 AND 127),
    CONSTRAINT media_name_length CHECK (char_length(name) <= 255),
    CONSTRAINT media_size_range CHECK (size BETWEEN 0 AND 26214400),
    CONSTRAINT media_sha256_length CHECK (octet_length(sha256) = 32)
);
CREATE INDEX media_by_conversation ON media (tenant_id, conversation_id)
    WHERE conversation_id IS NOT NULL;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['channel_events', 'delivery_pieces', 'channel_previews',
                             'attributions', 'channel_polls', 'media'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', t);
    END LOOP;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    channel_events, delivery_pieces, channel_previews, attributions, channel_polls, media
    TO qudao_app;

-- Channels whose platform may be asked now, whoever's they are. Each is one node's until its lease
-- ends.
CREATE FUNCTION app.claim_polls(p_node uuid, p_limit int, p_lease_ms bigint)
RETURNS TABLE (tenant_id uuid, channel_id uuid, kind text, cursor jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE public.channel_polls p
    SET owner = p_node, lease_until = now() + p_lease_ms * interval '1 millisecond'
    FROM public.channels c
    WHERE p.ctid = ANY (ARRAY(
        SELECT d.ctid
        FROM public.channel_polls d
        JOIN public.channels e ON e.tenant_id = d.tenant_id AND e.channel_id = d.channel_id
        WHERE e.open AND (d.lease_until IS NULL OR d.lease_until <= now())
        ORDER BY d.lease_until NULLS FIRST
        LIMIT p_limit
        FOR UPDATE OF d SKIP LOCKED))
      AND c.tenant_id = p.tenant_id AND c.channel_id = p.channel_id
    RETURNING p.tenant_id, p.channel_id, c.kind, p.cursor;
END $$;

-- Events whose ids no platform repeats any more, and which nobody looks at.
CREATE FUNCTION app.forget_channel_events(p_older_than_ms bigint, p_limit int) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM public.channel_events e
        WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM public.channel_events o
            WHERE o.received_at < now() - p_older_than_ms * interval '1 millisecond'
            ORDER BY o.received_at LIMIT p_limit))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

GRANT EXECUTE ON FUNCTION app.claim_polls, app.forget_channel_events TO qudao_claim;

-- As before, but for what platforms sent: a model does not read that.
CREATE OR REPLACE FUNCTION app.turn_context_of(
    p_tenant uuid, p_conversation uuid, p_turn uuid, p_from bigint, p_to bigint, p_history int
) RETURNS TABLE (
    currency text, fair_charging text, posted bigint, available bigint, locale text,
    channel_id uuid, kind text, models text[], assistant_id uuid, name text, system_prompt text,
    params jsonb, pending jsonb, history jsonb
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN QUERY
    SELECT t.currency, t.fair_charging, w.posted,
           (w.posted - w.held + COALESCE(h.amount, 0))::bigint,
           ch.locale, ch.channel_id, ch.kind, r.models,
           a.assistant_id, a.name, a.system_prompt, a.params,
           (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                       'seq', i.seq, 'body', i.body - 'raw', 'at', app.micros(i.accepted_at))
                       ORDER BY i.seq), '[]')
            FROM inbox i
            WHERE i.tenant_id = p_tenant AND i.conversation_id = p_conversation
              AND i.seq BETWEEN p_from AND p_to AND i.state = 'accepted'),
           (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                       'outbound', l.outbound, 'body', l.body)
                       ORDER BY l.place, l.outbound, l.out_seq), '[]')
            FROM (
                SELECT s.place, s.outbound, s.out_seq, s.body FROM (
                    (SELECT i.seq AS place, false AS outbound, 0::bigint AS out_seq, i.body - 'raw' AS body
                     FROM inbox i
                     WHERE i.tenant_id = p_tenant AND i.conversation_id = p_conversation
                       AND i.seq < p_from AND i.state = 'answered'
                     ORDER BY i.seq DESC LIMIT p_history)
                    UNION ALL
                    (SELECT o.to_seq, true, o.out_seq, o.body FROM outbox o
                     WHERE o.tenant_id = p_tenant AND o.conversation_id = p_conversation
                       AND o.kind = 'reply'
                     ORDER BY o.out_seq DESC LIMIT p_history)
                ) s
                ORDER BY s.place DESC, s.outbound DESC, s.out_seq DESC
                LIMIT p_history
            ) l)
    FROM conversations c
    JOIN tenants t ON t.tenant_id = c.tenant_id
    JOIN wallets w ON w.tenant_id = c.tenant_id AND w.currency = t.currency
    LEFT JOIN holds h ON h.tenant_id = c.tenant_id AND h.turn_id = p_turn
         AND h.kind = 'turn' AND h.state = 'held' AND h.currency = t.currency
    JOIN channels ch ON ch.tenant_id = c.tenant_id AND ch.channel_id = c.channel_id
    JOIN assistants a ON a.tenant_id = c.tenant_id AND a.assistant_id = ch.assistant_id
    JOIN routes r ON r.tenant_id = c.tenant_id AND r.route_id = a.route_id
    WHERE c.tenant_id = p_tenant AND c.conversation_id = p_conversation;
END $$;
