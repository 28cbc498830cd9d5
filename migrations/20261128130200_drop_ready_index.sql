-- no-transaction
-- lint: allow drop: claims of every version go through app.claim_turns, which does not read it
DROP INDEX CONCURRENTLY IF EXISTS conversations_ready;
