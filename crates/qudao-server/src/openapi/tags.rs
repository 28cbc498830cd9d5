//! By what the operations are grouped.

/// Each group and what is in it, in the order in which they are shown.
pub(super) const TAGS: &[(&str, &str)] = &[
    ("Models", "The OpenAI-compatible API. Point any OpenAI client at `<this server>/v1`."),
    ("Tenants", "Tenants, their credits, and what was charged."),
    ("Assistants", "Personas, and the models that may serve them."),
    ("Channels", "Where a tenant's end users write."),
    ("API keys", "Credentials of a tenant."),
    ("Members", "People who work for a tenant, and what they may do."),
    ("Signing in", "How members come in, and what they change about their own ways in."),
    ("Conversations", "What was said."),
    ("Contacts", "End users: all that is kept of them, and its end."),
    ("Web chat", "What the chat page speaks."),
    ("Partner channels", "The partner channel protocol, PCP/1: a channel of one's own."),
    (
        "Widget",
        "The chat on pages of other sites, which have to be listed in the channel's settings.",
    ),
    ("Plugins", "The plugins of this node."),
    ("Operations", "Health, metrics, and this description."),
];
