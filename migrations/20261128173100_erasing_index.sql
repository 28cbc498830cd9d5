-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS contacts_erasing
    ON contacts (erase_asked_at) WHERE erase_asked_at IS NOT NULL AND erased_at IS NULL;
