//! Which table holds what of whom, and what becomes of it.

/// How a row concerns a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// By its `contact_id`.
    Contact,
    /// By the contact's conversation, which its `conversation_id` names.
    Conversation,
    /// By its `channel_id` and what the channel calls the contact's conversation, its `thread`.
    Thread,
    /// By its `into_contact` or `from_contact`.
    Merged,
    /// By the contact's id as the `target` of an act.
    Target,
}

/// What becomes of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erase {
    /// They go.
    Delete,
    /// These columns get this value.
    Set(&'static [(&'static str, &'static str)]),
    /// The steps of an erasure do it: this column's words are taken out by `app.fence_contact` or
    /// `app.blank_messages`.
    Steps(&'static [&'static str]),
    /// They stay, for this reason.
    Keep(&'static str),
}

/// A table of tenants' rows.
#[derive(Debug, Clone, Copy)]
pub struct TableRule {
    /// Its name.
    pub table: &'static str,
    /// How a row concerns a contact, if it does.
    pub contact: Option<Link>,
    /// What becomes of a contact's rows when it is erased.
    pub of_contact: Erase,
    /// What becomes of all rows when the tenant is erased. Contacts are erased one by one before.
    pub of_tenant: Erase,
    /// Text, JSON and bytes that stay whatever is erased: names of states and currencies, numbers.
    pub plain: &'static [&'static str],
    /// Columns that no export shows.
    pub hidden: &'static [&'static str],
    /// Whether a tenant's export has it.
    pub exported: bool,
}

const BOOKS: &str = "the law asks for books; amounts without a name";
const NOT_OF_CONTACT: Erase = Erase::Keep("says nothing of a contact");
const BY_CONTACT: Erase = Erase::Keep("erased contact by contact");

const fn rule(table: &'static str) -> TableRule {
    TableRule {
        table,
        contact: None,
        of_contact: NOT_OF_CONTACT,
        of_tenant: BY_CONTACT,
        plain: &[],
        hidden: &[],
        exported: true,
    }
}

/// Every table with a `tenant_id`, in the order of an export.
pub const TABLES: &[TableRule] = &[
    TableRule {
        of_tenant: Erase::Set(&[("name", "'erased'")]),
        plain: &["currency", "locale", "fair_charging"],
        ..rule("tenants")
    },
    TableRule {
        of_tenant: Erase::Set(&[("name", "'erased'"), ("routing", "'{}'")]),
        plain: &["models"],
        ..rule("routes")
    },
    TableRule {
        of_tenant: Erase::Set(&[
            ("name", "'erased'"),
            ("system_prompt", "''"),
            ("greeting", "''"),
            ("params", "'{}'"),
        ]),
        ..rule("assistants")
    },
    TableRule {
        of_tenant: Erase::Set(&[
            ("name", "'erased'"),
            ("public_key", "NULL"),
            ("settings", "'{}'"),
            ("secrets_sealed", "NULL"),
            ("account", "NULL"),
            ("fault", "NULL"),
        ]),
        plain: &["kind", "locale", "secret_names"],
        hidden: &["secrets_sealed"],
        ..rule("channels")
    },
    TableRule {
        of_tenant: Erase::Set(&[
            ("name", "'erased'"),
            ("secret_hash", "decode(repeat('00', 32), 'hex')"),
            ("last4", "'0000'"),
        ]),
        plain: &["scopes", "allowed_networks", "made_by"],
        hidden: &["secret_hash"],
        ..rule("api_keys")
    },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Keep("an id and times: so that the books and the log refer to somebody"),
        ..rule("contacts")
    },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Steps(&["external_id", "name", "locale"]),
        ..rule("identities")
    },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("attributions")
    },
    TableRule {
        contact: Some(Link::Thread),
        of_contact: Erase::Keep("goes with the first step of an erasure"),
        of_tenant: Erase::Delete,
        ..rule("channel_events")
    },
    TableRule {
        of_tenant: Erase::Delete,
        hidden: &["verified_url"],
        exported: false,
        ..rule("partner_channels")
    },
    TableRule {
        of_tenant: Erase::Delete,
        hidden: &["secret_hash"],
        exported: false,
        ..rule("partner_keys")
    },
    TableRule {
        contact: Some(Link::Thread),
        of_contact: Erase::Keep("goes with the first step of an erasure"),
        of_tenant: Erase::Delete,
        ..rule("partner_threads")
    },
    TableRule {
        contact: Some(Link::Thread),
        of_contact: Erase::Keep("goes with the first step of an erasure"),
        of_tenant: Erase::Delete,
        ..rule("partner_events")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("media")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("ratings")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("delivery_pieces")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        exported: false,
        ..rule("channel_previews")
    },
    TableRule {
        contact: Some(Link::Merged),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("contact_merges")
    },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        hidden: &["value_hash"],
        ..rule("contact_claims")
    },
    TableRule {
        contact: Some(Link::Thread),
        of_contact: Erase::Keep("goes with the first step of an erasure"),
        of_tenant: Erase::Delete,
        hidden: &["value_hash", "code_hash"],
        ..rule("claim_codes")
    },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        hidden: &["sealed"],
        ..rule("mails")
    },
    TableRule { of_tenant: Erase::Delete, exported: false, ..rule("channel_polls") },
    TableRule {
        contact: Some(Link::Contact),
        of_contact: Erase::Steps(&["peer"]),
        ..rule("conversations")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Steps(&["external_id", "body"]),
        plain: &["state"],
        ..rule("inbox")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Steps(&["body", "last_error"]),
        plain: &["kind", "state"],
        ..rule("outbox")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Delete,
        of_tenant: Erase::Delete,
        ..rule("route_decisions")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Keep("which model was asked when, for the provider's bill"),
        of_tenant: Erase::Keep(BOOKS),
        plain: &["model"],
        ..rule("model_attempts")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Keep(BOOKS),
        of_tenant: Erase::Keep(BOOKS),
        plain: &["model", "currency", "policy", "end_reason"],
        ..rule("usage_events")
    },
    TableRule {
        contact: Some(Link::Conversation),
        of_contact: Erase::Keep(BOOKS),
        of_tenant: Erase::Keep(BOOKS),
        plain: &["kind", "state", "currency"],
        ..rule("holds")
    },
    TableRule { of_tenant: Erase::Keep(BOOKS), plain: &["currency"], ..rule("wallets") },
    TableRule {
        // The note is the operator's, beside a payment.
        of_tenant: Erase::Keep(BOOKS),
        plain: &["idempotency_key", "currency", "source", "note"],
        ..rule("credits")
    },
    TableRule { of_tenant: Erase::Keep(BOOKS), ..rule("credit_reversals") },
    TableRule {
        of_tenant: Erase::Keep(BOOKS),
        plain: &["account", "currency"],
        ..rule("ledger_entries")
    },
    TableRule {
        // Answers to calls are kept for a day. Whose words are in them only the caller knows.
        of_contact: Erase::Keep("goes by itself within 24 hours"),
        of_tenant: Erase::Delete,
        hidden: &["fingerprint"],
        ..rule("idempotency_records")
    },
    TableRule {
        contact: Some(Link::Target),
        of_contact: Erase::Keep("a chain that shows tampering; ids and no words of people"),
        of_tenant: Erase::Keep("a chain that shows tampering; ids and no words of people"),
        plain: &[
            "actor",
            "action",
            "target",
            "detail",
            "request_id",
            "address",
            "prev_hash",
            "hash",
        ],
        ..rule("audit_events")
    },
    // Before the members and roles that they refer to: an erasure goes in this order too.
    TableRule { of_tenant: Erase::Delete, ..rule("member_identities") },
    TableRule { of_tenant: Erase::Delete, hidden: &["secret_hash"], ..rule("sessions") },
    TableRule { of_tenant: Erase::Delete, hidden: &["code_hash"], ..rule("recovery_codes") },
    TableRule {
        of_tenant: Erase::Delete,
        hidden: &["password_hash", "totp_sealed"],
        ..rule("members")
    },
    TableRule { of_tenant: Erase::Delete, hidden: &["secret_hash"], ..rule("invitations") },
    TableRule {
        of_tenant: Erase::Delete,
        hidden: &["client_secret_sealed"],
        ..rule("identity_providers")
    },
    TableRule { of_tenant: Erase::Delete, ..rule("roles") },
    TableRule { of_tenant: Erase::Delete, exported: false, ..rule("tenant_keys") },
    TableRule {
        of_tenant: Erase::Keep("the end of the audit chain"),
        plain: &["hash"],
        exported: false,
        ..rule("audit_heads")
    },
    TableRule {
        of_tenant: Erase::Keep("signs the audit chain"),
        plain: &["public_key", "sealed_seed"],
        exported: false,
        ..rule("audit_signers")
    },
    TableRule {
        of_tenant: Erase::Keep("the signed ends of the audit chain"),
        plain: &["hash", "signature"],
        exported: false,
        ..rule("audit_heads_signed")
    },
];

impl TableRule {
    /// Which rows `t` of the tenant `$1` concern the contact `$2`.
    pub(super) fn of(&self, link: Link) -> &'static str {
        match link {
            Link::Contact => "t.contact_id = $2",
            Link::Conversation => {
                "t.conversation_id IN (SELECT v.conversation_id FROM conversations v \
                 WHERE v.tenant_id = $1 AND v.contact_id = $2)"
            }
            Link::Thread => {
                "(t.channel_id, t.thread) IN (SELECT v.channel_id, v.peer FROM conversations v \
                 WHERE v.tenant_id = $1 AND v.contact_id = $2)"
            }
            Link::Merged => "(t.into_contact = $2 OR t.from_contact = $2)",
            Link::Target => "t.target = 'cnt_' || replace($2::text, '-', '')",
        }
    }

    pub(super) fn erase_contact_sql(&self) -> Option<String> {
        let which = format!("t.tenant_id = $1 AND {}", self.of(self.contact?));
        self.sql(self.of_contact, &which)
    }

    pub(super) fn erase_tenant_sql(&self) -> Option<String> {
        self.sql(self.of_tenant, "t.tenant_id = $1")
    }

    /// Made of names and values in this file alone.
    fn sql(&self, erase: Erase, which: &str) -> Option<String> {
        let table = self.table;
        match erase {
            Erase::Delete => Some(format!("DELETE FROM {table} t WHERE {which}")),
            Erase::Set(columns) => {
                let set: Vec<_> =
                    columns.iter().map(|(column, value)| format!("{column} = {value}")).collect();
                Some(format!("UPDATE {table} t SET {} WHERE {which}", set.join(", ")))
            }
            Erase::Steps(_) | Erase::Keep(_) => None,
        }
    }

    /// The columns with words that an erasure of all contacts and of the tenant takes out.
    pub fn erased_columns(&self) -> Vec<&'static str> {
        let of = |erase| match erase {
            Erase::Set(columns) => columns.iter().map(|(column, _)| *column).collect(),
            Erase::Steps(columns) => columns.to_vec(),
            Erase::Delete | Erase::Keep(_) => Vec::new(),
        };
        [of(self.of_contact), of(self.of_tenant)].concat()
    }

    /// Whether all rows go.
    pub fn is_emptied(&self) -> bool {
        self.of_tenant == Erase::Delete
    }
}
