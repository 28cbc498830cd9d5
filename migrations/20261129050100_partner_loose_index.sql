-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS partner_events_loose
    ON partner_events (tenant_id, channel_id, next_at)
    WHERE seq IS NULL AND state IN ('ready', 'sending');
