-- A conversation is also the queue entry of its own work:
--   ready_at      when it may be claimed; NULL while nothing waits for an answer
--   epoch         the fencing number: every claim raises it, every later step names it
--   lease_until   set while a node works on it; ready_at is the same moment then, so that the
--                 next node finds the conversation when the lease runs out
--   attempts      counted at the claim, because a node that dies cannot count
CREATE TABLE conversations (
    tenant_id       uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    channel_id      uuid        NOT NULL,
    contact_id      uuid        NOT NULL,
    peer            text        NOT NULL,
    last_seq        bigint      NOT NULL DEFAULT 0,
    done_seq        bigint      NOT NULL DEFAULT 0,
    out_seq         bigint      NOT NULL DEFAULT 0,
    ready_at        timestamptz,
    epoch           bigint      NOT NULL DEFAULT 0,
    owner           uuid,
    lease_until     timestamptz,
    attempts        int         NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT conversations_pk PRIMARY KEY (tenant_id, conversation_id),
    CONSTRAINT conversations_one_per_peer UNIQUE (tenant_id, channel_id, peer),
    CONSTRAINT conversations_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT conversations_contact_fk
        FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT conversations_progress CHECK (0 <= done_seq AND done_seq <= last_seq)
) WITH (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
);
CREATE INDEX conversations_ready ON conversations (ready_at) WHERE ready_at IS NOT NULL;

-- The primary key is what makes a message that is delivered twice count once.
CREATE TABLE inbox (
    tenant_id       uuid        NOT NULL,
    channel_id      uuid        NOT NULL,
    external_id     text        NOT NULL,
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL,
    body            jsonb       NOT NULL,
    state           text        NOT NULL DEFAULT 'accepted',
    turn_id         uuid,
    accepted_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT inbox_pk PRIMARY KEY (tenant_id, channel_id, external_id),
    CONSTRAINT inbox_one_order UNIQUE (tenant_id, conversation_id, seq),
    CONSTRAINT inbox_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT inbox_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT inbox_external_id_length CHECK (char_length(external_id) BETWEEN 1 AND 200),
    CONSTRAINT inbox_body_has_text CHECK (jsonb_typeof(body -> 'text') = 'string'),
    CONSTRAINT inbox_state_known CHECK (state IN ('accepted', 'answered', 'rejected', 'dead')),
    CONSTRAINT inbox_turn_once_done CHECK ((state = 'accepted') = (turn_id IS NULL))
) WITH (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02
);

-- Credits set aside. Of one turn at most one hold is open or settled; a voided one may be
-- followed by another. A block is reserved by a node for many API calls: `settled` grows with
-- every call while it is open, and its lease fences the node that lost it.
-- What a hold keeps of the wallet is amount − settled while it is open.
CREATE TABLE holds (
    tenant_id       uuid        NOT NULL,
    hold_id         uuid        NOT NULL,
    kind            text        NOT NULL,
    state           text        NOT NULL DEFAULT 'held',
    currency        text        NOT NULL,
    amount          bigint      NOT NULL,
    settled         bigint      NOT NULL DEFAULT 0,
    turn_id         uuid,
    conversation_id uuid,
    node_id         uuid,
    lease_until     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    closed_at       timestamptz,
    CONSTRAINT holds_pk PRIMARY KEY (tenant_id, hold_id),
    CONSTRAINT holds_wallet_fk
        FOREIGN KEY (tenant_id, currency) REFERENCES wallets (tenant_id, currency),
    CONSTRAINT holds_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT holds_kind_known CHECK (kind IN ('turn', 'block')),
    CONSTRAINT holds_state_known CHECK (state IN ('held', 'settled', 'voided')),
    CONSTRAINT holds_amount_not_negative CHECK (amount >= 0),
    CONSTRAINT holds_settled_within_amount CHECK (0 <= settled AND settled <= amount),
    CONSTRAINT holds_voided_is_unsettled CHECK (state <> 'voided' OR settled = 0),
    CONSTRAINT holds_turn_form CHECK (
        kind <> 'turn'
        OR (turn_id IS NOT NULL AND conversation_id IS NOT NULL AND node_id IS NULL)),
    CONSTRAINT holds_block_form CHECK (
        kind <> 'block'
        OR (turn_id IS NULL AND node_id IS NOT NULL AND lease_until IS NOT NULL))
) WITH (
    fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
);
CREATE UNIQUE INDEX holds_one_per_turn ON holds (tenant_id, turn_id)
    WHERE kind = 'turn' AND state <> 'voided';
CREATE INDEX holds_open_blocks ON holds (lease_until) WHERE kind = 'block' AND state = 'held';
CREATE INDEX holds_open_turns ON holds (created_at) WHERE kind = 'turn' AND state = 'held';

-- Every time a model is asked, so that the provider's bill can be compared.
CREATE TABLE model_attempts (
    tenant_id       uuid        NOT NULL,
    attempt_id      uuid        NOT NULL,
    turn_id         uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    epoch           bigint      NOT NULL,
    model           text        NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT model_attempts_pk PRIMARY KEY (tenant_id, attempt_id),
    CONSTRAINT model_attempts_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id)
);

-- What was consumed and charged. The turn's id is also the id of its ledger transaction, and the
-- key that makes a settlement which is repeated count once.
CREATE TABLE usage_events (
    tenant_id        uuid        NOT NULL,
    turn_id          uuid        NOT NULL,
    channel_id       uuid        NOT NULL,
    api_key_id       uuid,
    conversation_id  uuid,
    model            text        NOT NULL,
    price_version    bigint      NOT NULL,
    input_tokens     bigint      NOT NULL,
    output_tokens    bigint      NOT NULL,
    delivered_tokens bigint      NOT NULL,
    charge           bigint      NOT NULL,
    absorbed         bigint      NOT NULL,
    currency         text        NOT NULL,
    policy           text        NOT NULL,
    end_reason       text        NOT NULL,
    entry_no         bigint      GENERATED ALWAYS AS IDENTITY,
    at               timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT usage_events_pk PRIMARY KEY (tenant_id, turn_id),
    CONSTRAINT usage_events_no UNIQUE (tenant_id, entry_no),
    CONSTRAINT usage_events_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT usage_events_api_key_fk
        FOREIGN KEY (tenant_id, api_key_id) REFERENCES api_keys (tenant_id, api_key_id),
    CONSTRAINT usage_events_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT usage_events_price_fk
        FOREIGN KEY (price_version) REFERENCES price_books (price_version),
    CONSTRAINT usage_events_tokens CHECK (
        input_tokens BETWEEN 0 AND 4294967295 AND output_tokens BETWEEN 0 AND 4294967295
        AND delivered_tokens BETWEEN 0 AND 4294967295),
    CONSTRAINT usage_events_not_negative CHECK (charge >= 0 AND absorbed >= 0),
    CONSTRAINT usage_events_policy_known
        CHECK (policy IN ('bill_delivered', 'bill_generated', 'free_if_nothing_delivered')),
    CONSTRAINT usage_events_end_reason_known CHECK (end_reason IN
        ('stop', 'length', 'tool_calls', 'content_filter', 'cancelled', 'failed'))
);

-- What goes out. Only the first open message of a conversation may be claimed.
CREATE TABLE outbox (
    tenant_id       uuid        NOT NULL,
    outbox_id       uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    out_seq         bigint      NOT NULL,
    to_seq          bigint      NOT NULL,
    turn_id         uuid,
    kind            text        NOT NULL,
    body            jsonb       NOT NULL,
    state           text        NOT NULL DEFAULT 'queued',
    next_at         timestamptz NOT NULL DEFAULT now(),
    attempts        int         NOT NULL DEFAULT 0,
    epoch           bigint      NOT NULL DEFAULT 0,
    owner           uuid,
    lease_until     timestamptz,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    delivered_at    timestamptz,
    CONSTRAINT outbox_pk PRIMARY KEY (tenant_id, outbox_id),
    CONSTRAINT outbox_one_order UNIQUE (tenant_id, conversation_id, out_seq),
    CONSTRAINT outbox_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT outbox_kind_known CHECK (kind IN ('reply', 'notice')),
    CONSTRAINT outbox_reply_has_turn CHECK (kind <> 'reply' OR turn_id IS NOT NULL),
    CONSTRAINT outbox_body_has_text CHECK (jsonb_typeof(body -> 'text') = 'string'),
    CONSTRAINT outbox_state_known CHECK (state IN ('queued', 'sending', 'delivered', 'dead'))
) WITH (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 200
);
CREATE UNIQUE INDEX outbox_one_reply ON outbox (tenant_id, turn_id) WHERE kind = 'reply';
CREATE INDEX outbox_due ON outbox (next_at) WHERE state IN ('queued', 'sending');
CREATE INDEX outbox_open ON outbox (tenant_id, conversation_id, out_seq)
    WHERE state IN ('queued', 'sending');
