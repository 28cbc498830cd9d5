-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS media_by_channel
    ON media (tenant_id, channel_id, created_at);
