-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS partner_events_lanes
    ON partner_events (tenant_id, channel_id, thread, cursor)
    WHERE seq IS NOT NULL AND state IN ('ready', 'sending');
