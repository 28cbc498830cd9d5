-- What a node of the release whose last migration is 20261129063000 says to the database, from a
-- new tenant to a settled call: every function that it calls, with arguments as it gives them, and
-- the statements that it writes itself. <n> is a digit that tells one run from another.

BEGIN; SET LOCAL ROLE qudao_admin;
SELECT app.sync_prices('{m<n>}', '{CNY}', '{1000000}', '{2000000}', '{10}');
DO $$ BEGIN
    ASSERT app.sync_prices('{m<n>}', '{CNY}', '{1000000}', '{2000000}', '{10}') = 0;
END $$;
COMMIT;

BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
SELECT app.create_tenant(
    'Acme', 'CNY', 'zh', 'bill_delivered', '00000000-0000-4000-8000-<n>00000000002');
DO $$ BEGIN
    ASSERT (SELECT outcome FROM app.add_credit(
        '00000000-0000-4000-8000-<n>00000000003', 'k', 1000000, 'cash', '')) = 'added';
    ASSERT (SELECT outcome FROM app.add_credit(
        '00000000-0000-4000-8000-<n>00000000004', 'k', 1000000, 'cash', '')) = 'repeated';
    ASSERT (SELECT outcome FROM app.add_credit(
        '00000000-0000-4000-8000-<n>000000000a1', 'stars', 7, 'cash', '')) = 'added';
    ASSERT (SELECT taken FROM app.reverse_credit(
        'stars', '00000000-0000-4000-8000-<n>000000000a2')) = 7;
    ASSERT (SELECT outcome FROM app.reverse_credit(
        'stars', '00000000-0000-4000-8000-<n>000000000a3')) = 'repeated';
END $$;
INSERT INTO routes (tenant_id, route_id, name, models)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000005', 'r', '{m<n>}');
INSERT INTO assistants (
    tenant_id, assistant_id, name, system_prompt, greeting, params, route_id)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000006', 'a', 'p', 'g', '{}',
    '00000000-0000-4000-8000-<n>00000000005');
INSERT INTO channels (tenant_id, channel_id, name, kind, public_key, assistant_id, locale)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000007', 'c', 'web', 'key<n>',
    '00000000-0000-4000-8000-<n>00000000006', 'zh');
UPDATE channels SET name = 'c2', open = true
WHERE tenant_id = app.tenant() AND channel_id = '00000000-0000-4000-8000-<n>00000000007';
INSERT INTO api_keys (tenant_id, api_key_id, name, secret_hash, last4, scopes)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000008', 'k',
    decode(repeat('00', 32), 'hex'), '1234', '{chat}');
UPDATE api_keys SET last_used_at = now() WHERE tenant_id = app.tenant();
INSERT INTO roles (tenant_id, role_id, name, scopes)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000091', 'r', '{admin}');
INSERT INTO members (tenant_id, member_id, email, name, role_id, password_hash)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000092', 'ann@example.com', 'Ann',
    '00000000-0000-4000-8000-<n>00000000091', '$argon2id$');
INSERT INTO sessions (
    tenant_id, session_id, member_id, secret_hash, method, address, user_agent, expires_at)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000093',
    '00000000-0000-4000-8000-<n>00000000092', decode(repeat('00', 32), 'hex'), 'password',
    '203.0.113.1', 'a browser', now() + interval '1 hour');
UPDATE sessions SET seen_at = now(), ended_at = now() WHERE tenant_id = app.tenant();
COMMIT;

BEGIN; SET LOCAL ROLE qudao_admin;
DO $$ BEGIN
    ASSERT (SELECT channel_id FROM app.find_api_key('00000000-0000-4000-8000-<n>00000000008'))
        = '00000000-0000-4000-8000-<n>00000000002';
    ASSERT (SELECT channel_id FROM app.find_key_holder('00000000-0000-4000-8000-<n>00000000008'))
        = '00000000-0000-4000-8000-<n>00000000002';
    ASSERT (SELECT assistant_name FROM app.find_door('key<n>')) = 'a';
    ASSERT (SELECT assistant_name FROM app.find_channel_by_public_key('key<n>')) = 'a';
    ASSERT (SELECT count(*) FROM app.list_tenants(NULL, 10)) > 0;
    ASSERT app.micros(app.from_micros(7)) = 7;
END $$;
COMMIT;

-- A message, its turn and its delivery.
BEGIN; SET LOCAL ROLE qudao_app;
DO $$ BEGIN
    ASSERT (SELECT array_agg(outcome) FROM app.accept_together(
        array_fill('00000000-0000-4000-8000-<n>00000000001'::uuid, '{2}'),
        array_fill('00000000-0000-4000-8000-<n>00000000007'::uuid, '{2}'),
        '{ann:1,ann:1}', '{ann,ann}', array_fill('{"text": "hello"}'::jsonb, '{2}'),
        array_fill('00000000-0000-4000-8000-<n>00000000009'::uuid, '{2}'),
        array_fill('00000000-0000-4000-8000-<n>0000000000a'::uuid, '{2}')))
        = '{new,duplicate}';
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT messages FROM app.backlog(10)) = 1;
    ASSERT (SELECT epoch FROM app.claim_turns(
        '00000000-0000-4000-8000-<n>0000000000b', 10, 30000,
        '00000000-0000-4000-8000-<n>00000000001',
        ARRAY['00000000-0000-4000-8000-<n>00000000001'::uuid], '{3}', 4)) = 1;
    ASSERT (SELECT count(*) FROM app.claim_conversations(
        '00000000-0000-4000-8000-<n>0000000000b', 10, 30000)) = 0;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
UPDATE conversations SET lease_until = now() + interval '30 s', ready_at = now() + interval '30 s'
WHERE tenant_id = app.tenant() AND conversation_id = '00000000-0000-4000-8000-<n>00000000009'
  AND epoch = 1 AND lease_until IS NOT NULL;
DO $$
DECLARE
    v_price bigint := (SELECT max(price_version) FROM price_books WHERE model = 'm<n>');
BEGIN
    ASSERT (SELECT count(*) FROM inbox WHERE tenant_id = app.tenant() AND state = 'accepted'
        AND body ->> 'text' = 'hello' AND seq = 1) = 1;
    ASSERT (SELECT pending -> 0 -> 'body' ->> 'text' FROM app.turn_context_of(
        '00000000-0000-4000-8000-<n>00000000001', '00000000-0000-4000-8000-<n>00000000009',
        '00000000-0000-4000-8000-<n>0000000000c', 1, 1, 10)) = 'hello';
    ASSERT (SELECT outcome FROM app.hold_turn_of(
        '00000000-0000-4000-8000-<n>00000000001',
        '00000000-0000-4000-8000-<n>00000000009', 1, '00000000-0000-4000-8000-<n>0000000000c', 500,
        'CNY', 'm<n>', '00000000-0000-4000-8000-<n>0000000000d',
        '00000000-0000-4000-8000-<n>0000000000e')) = 'held';
    ASSERT (SELECT out_seq FROM app.commit_turn_of(
        '00000000-0000-4000-8000-<n>00000000001',
        '00000000-0000-4000-8000-<n>00000000009', 1, '00000000-0000-4000-8000-<n>0000000000c', 1,
        '{"text": "hi"}', '00000000-0000-4000-8000-<n>0000000000f',
        '00000000-0000-4000-8000-<n>00000000007', 'm<n>', v_price, 3, 2, 2, 400, 50, 'CNY',
        'bill_delivered', 'stop')) = 1;
    ASSERT (SELECT sum(amount) FROM ledger_entries WHERE tenant_id = app.tenant()) = 0;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT peer FROM app.claim_outbox(
        '00000000-0000-4000-8000-<n>0000000000b', 10, 30000)) = 'ann';
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$ BEGIN
    ASSERT NOT app.finish_deliveries(
        ARRAY['00000000-0000-4000-8000-<n>00000000001']::uuid[],
        '{00000000-0000-4000-8000-<n>0000000000f}', '{1}');
END $$;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';

-- A second turn, which is given up.
SELECT app.accept(
    '00000000-0000-4000-8000-<n>00000000007', 'ann:2', 'ann', '{"text": "again"}',
    '00000000-0000-4000-8000-<n>00000000010', '00000000-0000-4000-8000-<n>00000000011');
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT epoch FROM app.claim_conversations(
        '00000000-0000-4000-8000-<n>0000000000b', 10, 30000)) = 2;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$
DECLARE
    v_price bigint := (SELECT max(price_version) FROM price_books WHERE model = 'm<n>');
BEGIN
    -- What the statements above are made of.
    ASSERT (SELECT outcome FROM app.hold_turn(
        '00000000-0000-4000-8000-<n>00000000009', 2, '00000000-0000-4000-8000-<n>00000000012', 500,
        'CNY', 'm<n>', '00000000-0000-4000-8000-<n>00000000017',
        '00000000-0000-4000-8000-<n>00000000018')) = 'held';
    ASSERT NOT EXISTS (SELECT FROM app.commit_turn(
        '00000000-0000-4000-8000-<n>00000000009', 1, '00000000-0000-4000-8000-<n>00000000012', 2,
        '{"text": "late"}', '00000000-0000-4000-8000-<n>00000000019',
        '00000000-0000-4000-8000-<n>00000000007', 'm<n>', v_price, 3, 2, 2, 400, 50, 'CNY',
        'bill_delivered', 'stop'));
    ASSERT (SELECT out_seq FROM app.end_turn(
        '00000000-0000-4000-8000-<n>00000000009', 2, '00000000-0000-4000-8000-<n>00000000012', 2,
        'dead', '{"text": "sorry"}', '00000000-0000-4000-8000-<n>00000000013')) = 2;
END $$;
UPDATE outbox SET state = 'dead', lease_until = NULL, owner = NULL, last_error = 'gone'
WHERE tenant_id = app.tenant() AND outbox_id = '00000000-0000-4000-8000-<n>00000000013';

COMMIT;

-- A third turn, in statements that several may share.
BEGIN; SET LOCAL ROLE qudao_app;
DO $$ BEGIN
    ASSERT (SELECT outcome FROM app.accept_together(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000007}', '{ann:3}', '{ann}',
        ARRAY['{"text": "together"}'::jsonb],
        '{00000000-0000-4000-8000-<n>000000000a1}', '{00000000-0000-4000-8000-<n>000000000a2}')) = 'new';
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT epoch FROM app.claim_turns(
        '00000000-0000-4000-8000-<n>0000000000b', 10, 30000, NULL, '{}', '{}', 4)) = 3;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
DO $$ BEGIN
    ASSERT app.run_of('{00000000-0000-4000-8000-<n>00000000001,00000000-0000-4000-8000-<n>00000000001}', '{CNY,CNY}', 1) = 2;
    ASSERT (SELECT pending -> 0 -> 'body' ->> 'text' FROM app.turn_contexts_of(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{00000000-0000-4000-8000-<n>000000000a3}', '{3}', '{3}', 10)
        WHERE place = 1) = 'together';
    ASSERT (SELECT pending -> 0 -> 'body' ->> 'text' FROM app.routed_contexts_of(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{00000000-0000-4000-8000-<n>000000000a3}', '{3}', '{3}', 10)
        WHERE place = 1 AND routing = '{}' AND route_id = '00000000-0000-4000-8000-<n>00000000005') = 'together';
    ASSERT (SELECT pending_bodies[1] ->> 'text' FROM app.turn_contexts(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{00000000-0000-4000-8000-<n>000000000a3}', '{3}', '{3}', 10)
        WHERE place = 1 AND pending_seqs = '{3}' AND history_texts = '{hi,hello}'
          AND history_outbound = '{t,f}' AND route_id = '00000000-0000-4000-8000-<n>00000000005') = 'together';
    ASSERT (SELECT outcome FROM app.hold_turns(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{3}', '{00000000-0000-4000-8000-<n>000000000a3}', '{500}', '{CNY}', '{m<n>}',
        '{00000000-0000-4000-8000-<n>000000000a4}', '{00000000-0000-4000-8000-<n>000000000a5}') WHERE place = 1) = 'held';
    -- Nobody's epoch: nothing is committed.
    ASSERT NOT EXISTS (SELECT 1 FROM app.commit_turns(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{9}', '{00000000-0000-4000-8000-<n>000000000a3}', '{3}',
        ARRAY['{"text": "all"}'::jsonb], '{00000000-0000-4000-8000-<n>000000000a6}', '{00000000-0000-4000-8000-<n>00000000007}', '{m<n>}',
        ARRAY[(SELECT max(price_version) FROM price_books WHERE model = 'm<n>')],
        '{3}', '{2}', '{2}', '{400}', '{50}', '{CNY}', '{bill_delivered}', '{stop}')
        WHERE place = 1);
    ASSERT (SELECT out_seq FROM app.commit_routed_turns(
        '{00000000-0000-4000-8000-<n>00000000001}', '{00000000-0000-4000-8000-<n>00000000009}', '{3}', '{00000000-0000-4000-8000-<n>000000000a3}', '{3}',
        ARRAY['{"text": "all"}'::jsonb], '{00000000-0000-4000-8000-<n>000000000a6}', '{00000000-0000-4000-8000-<n>00000000007}', '{m<n>}',
        ARRAY[(SELECT max(price_version) FROM price_books WHERE model = 'm<n>')],
        '{3}', '{2}', '{2}', '{400}', '{50}', '{CNY}', '{bill_delivered}', '{stop}',
        ARRAY[jsonb_build_object(
            'decision_id', '00000000-0000-4000-8000-<n>000000000b1',
            'turn_id', '00000000-0000-4000-8000-<n>000000000a3',
            'route_id', '00000000-0000-4000-8000-<n>00000000005',
            'conversation_id', '00000000-0000-4000-8000-<n>00000000009',
            'model', 'm<n>', 'fallbacks', 0, 'arm', 'stable', 'failed', false, 'latency_ms', 40,
            'body', '{}'::jsonb)])
        WHERE place = 1) = 3;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
UPDATE outbox SET state = 'dead', lease_until = NULL, owner = NULL, last_error = 'gone'
WHERE tenant_id = app.tenant() AND outbox_id = '00000000-0000-4000-8000-<n>000000000a6';

-- A call of the API from a block.
DO $$
DECLARE
    v_price bigint := (SELECT max(price_version) FROM price_books WHERE model = 'm<n>');
BEGIN
    ASSERT app.reserve_block(
        '00000000-0000-4000-8000-<n>00000000014', '00000000-0000-4000-8000-<n>0000000000b', 100, 1000,
        30000) = 1000;
    ASSERT app.extend_block('00000000-0000-4000-8000-<n>00000000014', 100, 30000) IS NOT NULL;
    ASSERT app.settle_calls(
        '00000000-0000-4000-8000-<n>00000000014', '{00000000-0000-4000-8000-<n>00000000015}',
        '{00000000-0000-4000-8000-<n>00000000002}', '{00000000-0000-4000-8000-<n>00000000008}',
        '{NULL}', '{m<n>}', ARRAY[v_price], '{1}', '{1}', '{1}', '{30}', '{0}', '{CNY}',
        '{bill_delivered}', '{stop}') = 'done';
    ASSERT app.settle_calls_of(
        app.tenant(), '00000000-0000-4000-8000-<n>00000000014',
        '{00000000-0000-4000-8000-<n>00000000016}', '{00000000-0000-4000-8000-<n>00000000002}',
        '{00000000-0000-4000-8000-<n>00000000008}', '{NULL}', '{m<n>}', ARRAY[v_price], '{1}', '{1}',
        '{1}', '{20}', '{0}', '{CNY}', '{bill_delivered}', '{stop}') = 'done';
    ASSERT app.close_block('00000000-0000-4000-8000-<n>00000000014');
    ASSERT (SELECT posted - held FROM wallets WHERE tenant_id = app.tenant()) = 1000000 - 850;
END $$;
-- Requests with an idempotency key: one in a transaction, and one that is claimed, renewed, kept,
-- let go and forgotten.
DO $$
DECLARE
    v_print bytea := decode(repeat('0a', 32), 'hex');
    v_claim record;
BEGIN
    ASSERT (SELECT outcome FROM app.find_once(app.tenant(), 'POST /a', 'k', v_print)) = 'fresh';
    PERFORM app.keep_once(app.tenant(), 'POST /a', 'k', v_print, 201::smallint, '/a/1', '{}');
    ASSERT (SELECT outcome FROM app.find_once(app.tenant(), 'POST /a', 'k', v_print)) = 'kept';
    SELECT * INTO v_claim FROM app.claim_once(
        app.tenant(), 'POST /b', 'k', v_print, '00000000-0000-4000-8000-<n>00000000017', 30000);
    ASSERT v_claim.outcome = 'fresh';
    UPDATE idempotency_records SET lease_until = now() + 30000 * interval '1 millisecond'
    WHERE tenant_id = app.tenant() AND endpoint = 'POST /b' AND idempotency_key = 'k'
      AND claim_id = v_claim.claim_id AND epoch = v_claim.epoch AND status IS NULL;
    ASSERT FOUND;
    UPDATE idempotency_records
    SET status = 200, location = NULL, body = '{}', lease_until = NULL, created_at = now()
    WHERE tenant_id = app.tenant() AND endpoint = 'POST /b' AND idempotency_key = 'k'
      AND claim_id = v_claim.claim_id AND status IS NULL;
    ASSERT FOUND;
    SELECT * INTO v_claim FROM app.claim_once(
        app.tenant(), 'POST /c', 'k', v_print, '00000000-0000-4000-8000-<n>00000000018', 30000);
    DELETE FROM idempotency_records
    WHERE tenant_id = app.tenant() AND endpoint = 'POST /c' AND idempotency_key = 'k'
      AND claim_id = v_claim.claim_id AND epoch = v_claim.epoch AND status IS NULL;
    ASSERT FOUND;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
SELECT app.forget_once(10);
SELECT * FROM app.sweep(600000, 10);
DO $$ BEGIN
    ASSERT (SELECT count(*) FROM app.queue_depths(100) d WHERE d.what = 'conversations_ready') = 1;
    ASSERT (SELECT d.amount FROM app.queue_depths(100) d WHERE d.what = 'holds_open') >= 0;
END $$;
COMMIT;

-- Keys that are wrapped, and other master keys in the place of those in use.
BEGIN; SET LOCAL ROLE qudao_admin;
SELECT pg_advisory_xact_lock(hashtextextended('qudao master keys', 0));
INSERT INTO master_keys (master_key_id, check_value, in_use)
VALUES ('000000000000000<n>', '\x00', NOT EXISTS (SELECT FROM master_keys WHERE in_use))
ON CONFLICT ON CONSTRAINT master_keys_pk DO NOTHING;
UPDATE master_keys SET in_use = false WHERE in_use AND master_key_id <> '000000000000000<n>';
UPDATE master_keys SET in_use = true WHERE master_key_id = '000000000000000<n>';
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$ BEGIN
    ASSERT app.add_tenant_key(1, '\x00', '000000000000000<n>') = 'added';
    ASSERT app.add_tenant_key(1, '\x00', '000000000000000<n>') = 'exists';
    ASSERT app.add_tenant_key(2, '\x00', 'ffffffffffffffff') = 'other_master';
END $$;
UPDATE tenant_keys SET wrapped = '\x01', master_key_id = '000000000000000<n>'
WHERE tenant_id = app.tenant() AND key_version = 1 AND master_key_id = '000000000000000<n>';
COMMIT;
BEGIN; SET LOCAL ROLE qudao_admin;
DO $$ BEGIN
    ASSERT (SELECT keys FROM app.count_tenant_keys() c
        WHERE c.master_key_id = '000000000000000<n>') = 1;
    ASSERT (SELECT count(*) FROM app.list_tenant_keys_of_others('000000000000000<n>', 10)) < 2;
END $$;
COMMIT;

-- The audit log: an act, and the signature of the chain's end.
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$ BEGIN
    ASSERT app.record_audit('operator', 'tenant.create', 'ten_1', '{"a": 1}', 'r', '::1') = 1;
    ASSERT app.record_audit('operator', 'tenant.create', 'ten_1', '{}', NULL, NULL) = 2;
    ASSERT (SELECT count(*) FROM audit_events WHERE tenant_id = app.tenant()) = 2;
END $$;
INSERT INTO audit_signers (tenant_id, signer_id, public_key, sealed_seed)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000001', decode(repeat('00', 32), 'hex'), '');
UPDATE audit_signers SET sealed_seed = '\x01' WHERE tenant_id = app.tenant();
COMMIT;
BEGIN; SET LOCAL ROLE qudao_admin;
SELECT pg_advisory_xact_lock(hashtextextended('qudao audit heads', 0));
DO $$ BEGIN
    ASSERT (SELECT seq FROM app.unsigned_audit_heads(10) h
        WHERE h.tenant_id = '00000000-0000-4000-8000-<n>00000000001') = 2;
    PERFORM app.add_signed_head('00000000-0000-4000-8000-<n>00000000001', 2, '\x00', 7,
        '00000000-0000-4000-8000-<n>00000000001', '\x00');
    ASSERT (SELECT signed_at FROM app.list_signed_heads(0, 10) h
        WHERE h.tenant_id = '00000000-0000-4000-8000-<n>00000000001') = 7;
END $$;
COMMIT;

-- People's data: days of retention, an erasure that was begun, its steps and its end.
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
UPDATE tenants SET retention_days = 30 WHERE tenant_id = app.tenant();
DO $$
DECLARE
    v_contact uuid := (SELECT contact_id FROM contacts WHERE tenant_id = app.tenant() LIMIT 1);
    v_conversation uuid := (
        SELECT conversation_id FROM conversations
        WHERE tenant_id = app.tenant() AND contact_id = v_contact LIMIT 1);
BEGIN
    ASSERT app.blank_messages(v_conversation, now() - 30 * interval '1 day', 500) = 0;
    ASSERT app.fence_contact(v_contact) = 'fenced';
    ASSERT app.blank_messages(v_conversation, 'infinity', 500) > 0;
    ASSERT app.blank_messages(v_conversation, 'infinity', 500) = 0;
    UPDATE contacts SET erased_at = now() WHERE tenant_id = app.tenant() AND contact_id = v_contact;
    ASSERT app.fence_contact(v_contact) = 'erased';
    ASSERT app.fence_contact(gen_random_uuid()) = 'unknown';
END $$;
INSERT INTO channel_polls (tenant_id, channel_id)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000007') ON CONFLICT DO NOTHING;
INSERT INTO channel_events (tenant_id, channel_id, event_id, kind, thread, body)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000007', 'e', 'edited', 't', '{}')
ON CONFLICT DO NOTHING;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT count(*) FROM app.claim_polls(
        '00000000-0000-4000-8000-<n>00000000099', 100, 30000) p
        WHERE p.tenant_id = '00000000-0000-4000-8000-<n>00000000001') = 1;
    ASSERT app.forget_channel_events(86400000, 10) >= 0;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DELETE FROM tenant_keys WHERE tenant_id = app.tenant();
UPDATE tenants SET erase_asked_at = now() - interval '1 hour' WHERE tenant_id = app.tenant();
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT count(*) FROM app.unfinished_erasures(1000, 10) u
        WHERE u.tenant_id = '00000000-0000-4000-8000-<n>00000000001' AND u.contact_id IS NULL) = 1;
    ASSERT (SELECT r.retention_days FROM app.tenants_with_retention(NULL, 10) r
        WHERE r.tenant_id = '00000000-0000-4000-8000-<n>00000000001') = 30;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_admin;
DO $$ BEGIN
    ASSERT (SELECT count(*) FROM app.page_of_tenants(NULL, 10)) > 0;
END $$;
COMMIT;

-- Channels of partners: what is kept, what is sent, what is forgotten.
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
INSERT INTO partner_channels (tenant_id, channel_id)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000002');
INSERT INTO partner_keys (tenant_id, channel_id, secret_hash)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000002', decode(repeat('00', 32), 'hex'));
INSERT INTO partner_threads (tenant_id, channel_id, thread)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000002', 'room');
INSERT INTO partner_events (tenant_id, channel_id, cursor, event_id, kind, thread, seq, body)
VALUES (app.tenant(), '00000000-0000-4000-8000-<n>00000000002', 1, 'evt_00000001', 'ping', 'room', 1,
        '{}');
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    -- Its endpoint was never verified.
    ASSERT (SELECT count(*) FROM app.claim_partner_events(10, 1000, 1000)) = 0;
    ASSERT app.forget_partner_events(3600000, 10) = 0;
END $$;
COMMIT;

-- Letters: what is put on its way, claimed, and forgotten.
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
INSERT INTO claim_codes (
    tenant_id, claim_id, channel_id, thread, kind, value_hash, code_hash, good_until, contacts)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000095',
    '00000000-0000-4000-8000-<n>00000000002', 'v', 'email', decode(repeat('00', 32), 'hex'),
    decode(repeat('00', 32), 'hex'), now() + interval '10 minutes', '{}');
INSERT INTO mails (tenant_id, mail_id, kind, sealed, good_until)
VALUES (
    app.tenant(), '00000000-0000-4000-8000-<n>00000000096', 'code', '\x00',
    now() + interval '10 minutes');
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT (SELECT count(*) FROM app.claim_mails(10, 1000) m
        WHERE m.tenant_id = '00000000-0000-4000-8000-<n>00000000001' AND NOT m.expired) = 1;
    ASSERT app.forget_mails(10) = 0;
END $$;
COMMIT;
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
UPDATE mails SET state = 'sent', sealed = NULL, ended_at = now()
WHERE tenant_id = app.tenant() AND attempts = 1;
DELETE FROM mails WHERE tenant_id = app.tenant();
DELETE FROM claim_codes WHERE tenant_id = app.tenant();
COMMIT;

-- Routes with rules, and decisions of calls.
BEGIN; SET LOCAL ROLE qudao_app;
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$ BEGIN
    ASSERT (SELECT model FROM route_decisions WHERE tenant_id = app.tenant()) = 'm<n>';
END $$;
UPDATE routes SET routing = '{"canary": {"model": "m<n>"}}' WHERE tenant_id = app.tenant();
SELECT app.add_decision(jsonb_build_object(
    'decision_id', '00000000-0000-4000-8000-<n>000000000b2',
    'turn_id', '00000000-0000-4000-8000-<n>000000000b3',
    'route_id', '00000000-0000-4000-8000-<n>00000000005',
    'fallbacks', 1, 'arm', 'shadow', 'body', '{}'::jsonb));
UPDATE route_decisions SET shadow_failed = true, agreement = 0.5
WHERE tenant_id = app.tenant() AND arm = 'shadow';
SELECT app.record_decisions(
    ARRAY['00000000-0000-4000-8000-<n>00000000001']::uuid[],
    ARRAY[jsonb_build_object(
        'decision_id', '00000000-0000-4000-8000-<n>000000000b2',
        'turn_id', '00000000-0000-4000-8000-<n>000000000b3',
        'route_id', '00000000-0000-4000-8000-<n>00000000005',
        'fallbacks', 1, 'arm', 'shadow', 'body', '{}'::jsonb)]);
SET LOCAL app.tenant_id = '00000000-0000-4000-8000-<n>00000000001';
DO $$ BEGIN
    ASSERT (SELECT agreement FROM route_decisions
        WHERE tenant_id = app.tenant() AND arm = 'shadow') = 0.5;
END $$;
DELETE FROM route_decisions WHERE tenant_id = app.tenant();
COMMIT;
BEGIN; SET LOCAL ROLE qudao_claim;
DO $$ BEGIN
    ASSERT app.forget_route_decisions(3600000, 10) = 0;
END $$;
COMMIT;
