-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_by_contact
    ON conversations (tenant_id, contact_id);
