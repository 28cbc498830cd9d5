-- One person on several channels: contacts that turned out to be one, on whose word, and what moved,
-- so that it can be undone.

ALTER TABLE contacts ADD COLUMN merged_into uuid;
GRANT UPDATE (merged_into) ON contacts TO qudao_app;
GRANT UPDATE (contact_id) ON identities TO qudao_app;

CREATE TABLE contact_merges (
    tenant_id     uuid        NOT NULL,
    merge_id      uuid        NOT NULL,
    into_contact  uuid        NOT NULL,
    from_contact  uuid        NOT NULL,
    -- On whose word: 'member' looked at both, 'token' was signed by the tenant's site, 'code' was
    -- sent to the address that both claim.
    evidence      text        NOT NULL,
    -- Who did it: a member, a key, or a channel.
    made_by       text        NOT NULL,
    -- What the person agreed to, in the words that they saw or the member wrote.
    consent       text        NOT NULL,
    conversations uuid[]      NOT NULL,
    identities    jsonb       NOT NULL,
    made_at       timestamptz NOT NULL DEFAULT now(),
    undone_at     timestamptz,
    CONSTRAINT contact_merges_pk PRIMARY KEY (tenant_id, merge_id),
    CONSTRAINT contact_merges_into_fk
        FOREIGN KEY (tenant_id, into_contact) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT contact_merges_from_fk
        FOREIGN KEY (tenant_id, from_contact) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT contact_merges_two CHECK (into_contact <> from_contact),
    CONSTRAINT contact_merges_evidence_known CHECK (evidence IN ('member', 'token', 'code')),
    CONSTRAINT contact_merges_consent_length CHECK (char_length(consent) BETWEEN 1 AND 500)
);
CREATE INDEX contact_merges_into ON contact_merges (tenant_id, into_contact);
CREATE INDEX contact_merges_from ON contact_merges (tenant_id, from_contact);

-- What a tenant itself calls a person, such as a customer number: proven by a signature of the
-- tenant's site or by a code. Only its hash is kept.
CREATE TABLE contact_claims (
    tenant_id  uuid        NOT NULL,
    kind       text        NOT NULL,
    value_hash bytea       NOT NULL,
    contact_id uuid        NOT NULL,
    proven_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT contact_claims_pk PRIMARY KEY (tenant_id, kind, value_hash),
    CONSTRAINT contact_claims_contact_fk
        FOREIGN KEY (tenant_id, contact_id) REFERENCES contacts (tenant_id, contact_id),
    CONSTRAINT contact_claims_kind_known CHECK (kind IN ('customer', 'email', 'phone')),
    CONSTRAINT contact_claims_hash_length CHECK (octet_length(value_hash) = 32)
);
CREATE INDEX contact_claims_by_contact ON contact_claims (tenant_id, contact_id);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['contact_merges', 'contact_claims'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            'CREATE POLICY tenant_rows ON %I USING (tenant_id = (SELECT app.tenant())) '
            'WITH CHECK (tenant_id = (SELECT app.tenant()))', v_table);
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON contact_merges, contact_claims TO qudao_app;
