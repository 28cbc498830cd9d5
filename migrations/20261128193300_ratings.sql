-- How conversations were, in the words of those who had them: one to five.

CREATE TABLE ratings (
    tenant_id       uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    -- In UTC. Of two ratings of one day the later one counts.
    day             date        NOT NULL,
    channel_id      uuid        NOT NULL,
    score           smallint    NOT NULL,
    rated_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT ratings_pk PRIMARY KEY (tenant_id, conversation_id, day),
    CONSTRAINT ratings_conversation_fk FOREIGN KEY (tenant_id, conversation_id)
        REFERENCES conversations (tenant_id, conversation_id),
    CONSTRAINT ratings_channel_fk
        FOREIGN KEY (tenant_id, channel_id) REFERENCES channels (tenant_id, channel_id),
    CONSTRAINT ratings_score_range CHECK (score BETWEEN 1 AND 5)
);
ALTER TABLE ratings ENABLE ROW LEVEL SECURITY;
ALTER TABLE ratings FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON ratings USING (tenant_id = (SELECT app.tenant()))
    WITH CHECK (tenant_id = (SELECT app.tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON ratings TO qudao_app;
