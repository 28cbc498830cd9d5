-- One policy, the same on every table of a tenant. The sub-select is evaluated once per
-- statement instead of once per row. FORCE, so that the owner of the tables is no exception.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'tenants', 'wallets', 'credits', 'ledger_entries', 'routes', 'assistants', 'channels',
        'api_keys', 'contacts', 'identities', 'conversations', 'inbox', 'holds',
        'model_attempts', 'usage_events', 'outbox'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', v_table);
    END LOOP;
END $$;

-- What qudao_app may do, within its tenant. Nothing deletes rows so far.
GRANT SELECT, INSERT ON
    tenants, credits, ledger_entries, model_attempts, usage_events, contacts, identities
    TO qudao_app;
GRANT SELECT, INSERT, UPDATE ON
    wallets, routes, assistants, channels, api_keys, conversations, inbox, holds, outbox
    TO qudao_app;
GRANT SELECT ON price_books TO qudao_app;
GRANT SELECT, INSERT ON price_books TO qudao_admin;

-- The second lock on what is only ever added to.
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY[
        'credits', 'ledger_entries', 'usage_events', 'model_attempts', 'price_books'
    ] LOOP
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON %I FROM PUBLIC', v_table);
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON %I '
            'FOR EACH ROW EXECUTE FUNCTION app.refuse_change()', v_table || '_only_added', v_table);
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE TRUNCATE ON %I '
            'FOR EACH STATEMENT EXECUTE FUNCTION app.refuse_change()',
            v_table || '_never_emptied', v_table);
    END LOOP;
END $$;
