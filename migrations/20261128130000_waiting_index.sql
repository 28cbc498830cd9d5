-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_waiting
    ON conversations (tenant_id, ready_at) WHERE ready_at IS NOT NULL;
