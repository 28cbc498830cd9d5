-- A settlement in one statement, which is then a transaction of its own: a group commit needs no
-- round trip beside the one that makes it durable. The tenant is set as `BEGIN; SET LOCAL` would
-- do, before any row is looked at, and ends with the statement's transaction.
CREATE FUNCTION app.settle_calls_of(
    p_tenant uuid,
    p_block uuid, p_turns uuid[], p_channels uuid[], p_api_keys uuid[], p_conversations uuid[],
    p_models text[], p_price_versions bigint[], p_inputs bigint[], p_outputs bigint[],
    p_delivereds bigint[], p_charges bigint[], p_absorbeds bigint[], p_currencies text[],
    p_policies text[], p_end_reasons text[]
) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', p_tenant::text, true);
    RETURN app.settle_calls(
        p_block, p_turns, p_channels, p_api_keys, p_conversations, p_models, p_price_versions,
        p_inputs, p_outputs, p_delivereds, p_charges, p_absorbeds, p_currencies, p_policies,
        p_end_reasons);
END $$;

GRANT EXECUTE ON FUNCTION app.settle_calls_of TO qudao_app;
