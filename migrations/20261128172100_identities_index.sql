-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS identities_by_contact
    ON identities (tenant_id, contact_id);
