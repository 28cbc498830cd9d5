//! What each endpoint does, for the API description.

use serde_json::json;

use crate::{
    admin::{
        assistants::{AssistantBody, CreateAssistant},
        audit::AuditBody,
        books::{Entry, Usage},
        channel_kinds::ChannelKindList,
        channels::{ChannelBody, Connected, CreateChannel, UpdateChannel},
        conversations::{ConversationBody, MessageBody},
        merges::{MergeBody, MergeContacts, MergeList, Subscription},
        people::{ContactBody, ContactDetail, EraseTenant, Erasure, UpdateTenant},
        plugins::{PluginList, Reloaded},
        ratings::Ratings,
        tenants::{AddCredit, CreateTenant, Credit, TenantBody, WalletBody},
    },
    chat::requests::{History, Opening, PostMessage, Receipt},
    code::Code,
    openapi::Doc,
    operations::{Alive, Readiness},
};

mod identity;
mod models;
mod partner;
mod routing;
mod widget;

pub(crate) use identity::*;
pub(crate) use models::*;
pub(crate) use partner::*;
pub(crate) use routing::*;
pub(crate) use widget::*;

pub(crate) const LOCATION: &str = "Made; `Location` names its address.";

pub(crate) fn create_tenant() -> Doc {
    Doc::new("Tenants", "Create a tenant")
        .act("tenant.create")
        .once()
        .about("With an empty wallet and the channel that its API calls are booked on.")
        .body::<CreateTenant>(json!({ "name": "Acme", "currency": "CNY", "locale": "zh" }))
        .returns::<TenantBody>(201, LOCATION)
}

pub(crate) fn list_tenants() -> Doc {
    Doc::new("Tenants", "List the tenants")
        .paged()
        .lists::<TenantBody>("The tenants, the newest first.")
}

pub(crate) fn get_tenant() -> Doc {
    Doc::new("Tenants", "Read a tenant").returns::<TenantBody>(200, "The tenant.")
}

pub(crate) fn wallet() -> Doc {
    Doc::new("Tenants", "Read the wallet").returns::<WalletBody>(200, "What the tenant has.")
}

pub(crate) fn add_credit() -> Doc {
    Doc::new("Tenants", "Add credits")
        .act("credit.add")
        .about(
            "Once per key: the key is remembered for a day like any other, and the ledger adds \
             nothing twice under one key after that either.",
        )
        .only_once()
        .body::<AddCredit>(json!({ "amount": "100", "source": "cash", "note": "invoice 42" }))
        .returns::<Credit>(201, "Added, now or before; `Location` names the wallet.")
}

pub(crate) fn create_assistant() -> Doc {
    Doc::new("Assistants", "Create an assistant")
        .act("assistant.create")
        .once()
        .body::<CreateAssistant>(json!({
            "name": "Ada",
            "system_prompt": "You answer questions about our shop, in the language of the question.",
            "greeting": "Hello! How can I help?",
            "params": { "temperature": 0.7, "max_tokens": 512 },
            "route_id": "rte_0198c0de00007000800000000000a001",
        }))
        .returns::<AssistantBody>(201, LOCATION)
}

pub(crate) fn list_assistants() -> Doc {
    Doc::new("Assistants", "List the assistants")
        .paged()
        .lists::<AssistantBody>("The assistants, the newest first.")
}

pub(crate) fn get_assistant() -> Doc {
    Doc::new("Assistants", "Read an assistant").returns::<AssistantBody>(200, "The assistant.")
}

pub(crate) fn create_channel() -> Doc {
    Doc::new("Channels", "Create a channel")
        .act("channel.create")
        .once()
        .body::<CreateChannel>(json!({
            "name": "Web site",
            "kind": "web",
            "assistant_id": "ast_0198c0de00007000800000000000a001",
            "locale": "en",
        }))
        .returns::<ChannelBody>(201, LOCATION)
}

pub(crate) fn list_channels() -> Doc {
    Doc::new("Channels", "List the channels")
        .paged()
        .lists::<ChannelBody>("The channels, the newest first.")
}

pub(crate) fn get_channel() -> Doc {
    Doc::new("Channels", "Read a channel").returns::<ChannelBody>(200, "The channel.")
}

pub(crate) fn update_channel() -> Doc {
    Doc::new("Channels", "Change a channel")
        .act("channel.update")
        .about(
            "A closed channel takes no messages and starts no chats. What was said before can be \
             read, and what was accepted is answered. A secret that gets another value stays valid \
             beside it for a while.",
        )
        .body::<UpdateChannel>(json!({ "open": false }))
        .returns::<ChannelBody>(200, "The channel as it is now.")
        .fails(&[Code::Conflict])
}

pub(crate) fn connect_channel() -> Doc {
    Doc::new("Channels", "Try a channel's credentials")
        .act("channel.connect")
        .once()
        .about(
            "Asks the platform whether it accepts the credentials, and tells it where to send \
             messages. What came of it stays with the channel.",
        )
        .returns::<Connected>(200, "The platform accepts them.")
        .fails(&[Code::ChannelRefused])
}

pub(crate) fn list_channel_kinds() -> Doc {
    Doc::new("Channels", "List the kinds of channels")
        .about("With the settings and secrets that each kind has.")
        .returns::<ChannelKindList>(200, "The kinds.")
}

pub(crate) fn merge_contacts() -> Doc {
    Doc::new("Contacts", "Make two contacts one")
        .act("contact.merge")
        .once()
        .about(
            "One person on several channels: the conversations and identities of the other contact go \
             over to this one, with what the person agreed to. It can be undone.",
        )
        .body::<MergeContacts>(json!({
            "from": "cnt_0198c0de00007000800000000000a002",
            "consent": "said on the telephone that both are theirs",
        }))
        .returns::<MergeBody>(201, LOCATION)
        .fails(&[Code::Conflict])
}

pub(crate) fn list_merges() -> Doc {
    Doc::new("Contacts", "List the merges of a contact")
        .returns::<MergeList>(200, "The merges, the newest first.")
}

pub(crate) fn undo_merge() -> Doc {
    Doc::new("Contacts", "Take a merge back")
        .act("contact.unmerge")
        .once()
        .about("What moved then and is still there goes home.")
        .returns::<MergeBody>(200, "The merge as it is now.")
        .fails(&[Code::Conflict])
}

pub(crate) fn subscribe_contact() -> Doc {
    Doc::new("Contacts", "Say whether a person wants messages on a channel")
        .act("contact.subscribe")
        .about("Answers are always sent; this is about messages that the person did not ask for.")
        .body::<Subscription>(json!({ "subscribed": false }))
        .returns_nothing(204, "Kept.")
}

pub(crate) fn list_conversations() -> Doc {
    Doc::new("Conversations", "List the conversations")
        .paged()
        .query("contact", "The id of a contact: only theirs.")
        .lists::<ConversationBody>("The conversations, the newest first.")
}

pub(crate) fn list_messages() -> Doc {
    Doc::new("Conversations", "Read a conversation")
        .paged()
        .lists::<MessageBody>("The messages, the oldest first.")
}

pub(crate) fn read_ratings() -> Doc {
    Doc::new("Conversations", "Read how conversations were")
        .query("days", "Over so many days, 1 to 366; 30 if left out.")
        .query("limit", "At most so many of the last ones, 1 to 200; 20 if left out.")
        .returns::<Ratings>(200, "What people said, by channel, and the last ratings.")
        .fails(&[Code::InvalidQuery])
}

pub(crate) fn audit() -> Doc {
    Doc::new("Tenants", "Read the audit log")
        .about(
            "Every administrative act on the tenant. The rows are a chain of hashes that the \
             operator verifies with `qudao audit verify`.",
        )
        .paged()
        .lists::<AuditBody>("The acts, the newest first.")
}

pub(crate) fn platform_audit() -> Doc {
    Doc::new("Operations", "Read the platform's audit log")
        .about("Acts that concern no tenant.")
        .paged()
        .lists::<AuditBody>("The acts, the newest first.")
}

const EXPORT: &str = "JSON lines: a head, then `{\"table\", \"row\"}` for each row, and \
                      `{\"complete\": true, \"rows\"}` last. Without that line the export broke off.";

pub(crate) fn update_tenant() -> Doc {
    Doc::new("Tenants", "Say how long messages are kept")
        .act("tenant.update")
        .about(
            "Messages that are over and older lose their words, within about a day. The counts and \
             charges stay.",
        )
        .body::<UpdateTenant>(json!({ "retention_days": 90 }))
        .returns::<TenantBody>(200, "The tenant as it is now.")
}

pub(crate) fn export_tenant() -> Doc {
    Doc::new("Tenants", "Export everything of a tenant").about(EXPORT).returns_text(
        200,
        "application/jsonl",
        "Every row of every table.",
    )
}

pub(crate) fn erase_tenant() -> Doc {
    Doc::new("Tenants", "Erase a tenant")
        .act("tenant.erase")
        .once()
        .about(
            "Closes its channels and keys, erases every contact, takes the words out of what is its \
             own, and destroys its keys. The books, the usage and the audit log stay under its id. \
             Cannot be undone. An erasure that breaks off is finished by the platform.",
        )
        .body::<EraseTenant>(json!({ "confirm": "Acme" }))
        .returns::<Erasure>(200, "It is erased.")
        .fails(&[Code::Conflict])
}

pub(crate) fn list_contacts() -> Doc {
    Doc::new("Contacts", "List the contacts")
        .about("Erased ones too: an id and times are what is left of them.")
        .paged()
        .query("search", "Only those whose name or id, here or on a channel, holds this text.")
        .lists::<ContactBody>("The contacts, the newest first.")
}

pub(crate) fn get_contact() -> Doc {
    Doc::new("Contacts", "Read a contact").returns::<ContactDetail>(200, "The contact.")
}

pub(crate) fn export_contact() -> Doc {
    Doc::new("Contacts", "Export everything of a contact").about(EXPORT).returns_text(
        200,
        "application/jsonl",
        "Every row that concerns the person.",
    )
}

pub(crate) fn erase_contact() -> Doc {
    Doc::new("Contacts", "Erase a contact")
        .act("contact.erase")
        .once()
        .about(
            "Cancels what is under way, forgets how channels call the person, and takes the words \
             out of everything that was said. Counts and charges stay. Who writes again is somebody \
             new. Cannot be undone; repeating it is no error.",
        )
        .returns::<Erasure>(200, "It is erased.")
}

pub(crate) fn usage() -> Doc {
    Doc::new("Tenants", "List the usage")
        .about("One row per reply or API call, with the charge that the ledger holds.")
        .paged()
        .lists::<Usage>("The usage, the newest first.")
}

pub(crate) fn ledger() -> Doc {
    Doc::new("Tenants", "Read the ledger")
        .about("Double entry: the amounts of each `txn_id` sum to zero.")
        .paged()
        .lists::<Entry>("The entries, the newest first.")
}

pub(crate) fn plugins() -> Doc {
    Doc::new("Plugins", "List the plugins of this node")
        .about("Refused ones too, with the reason.")
        .returns::<PluginList>(200, "The plugins and their models.")
}

pub(crate) fn reload() -> Doc {
    Doc::new("Plugins", "Reload a plugin")
        .act("plugin.reload")
        .once()
        .about("New calls go to the new generation; calls under way end on the old one.")
        .returns::<Reloaded>(200, "The new generations.")
        .fails(&[Code::Conflict])
}

pub(crate) fn lift_quarantine() -> Doc {
    Doc::new("Plugins", "Lift the quarantine of a plugin")
        .act("plugin.lift_quarantine")
        .once()
        .about("A plugin that crashed too often is kept out until an operator lets it in again.")
        .returns_nothing(204, "Lifted.")
        .fails(&[Code::Conflict])
}

pub(crate) fn open_chat() -> Doc {
    Doc::new("Web chat", "Open a chat")
        .about("Gives a new visitor a token. Nothing is stored of a visitor who never writes.")
        .returns::<Opening>(200, "The token and the channel.")
        .fails(&[Code::ChannelClosed])
}

pub(crate) fn chat_messages() -> Doc {
    Doc::new("Web chat", "Read the conversation")
        .query("after", "`cursor` of what was read before; the beginning if left out.")
        .query("limit", "At most this many messages, 1 to 200; 200 if left out.")
        .returns::<History>(200, "The messages, the oldest first.")
        .fails(&[Code::InvalidQuery, Code::InvalidCursor])
}

pub(crate) fn post_message() -> Doc {
    Doc::new("Web chat", "Write a message")
        .about("The same `id` is stored once, however often it is sent.")
        .body::<PostMessage>(json!({ "id": "b5c9e2", "text": "你好" }))
        .returns::<Receipt>(202, "Durable; the answer comes over the events or the socket.")
        .fails(&[Code::InsufficientCredits, Code::ChannelClosed])
        .fails(&[Code::RateLimited, Code::Overloaded])
}

pub(crate) fn stop() -> Doc {
    Doc::new("Web chat", "Stop the answer")
        .about("What was delivered of it is kept. No error if none is being made.")
        .returns_nothing(204, "The order was given.")
}

pub(crate) fn events() -> Doc {
    Doc::new("Web chat", "Watch the conversation as events")
        .about(
            "`text/event-stream`. Each `data:` line is one JSON frame: `message`, `ready` (the \
             history is complete), `delta`, `reset`, `heard` (what is said in a voice message: `seq`, \
             `place`, `words`), `status`, `reconnect`. `id:` is the cursor, \
             which `Last-Event-ID` or `after` takes up again.",
        )
        .query("after", "Where to take up; the beginning if left out.")
        .returns_text(200, "text/event-stream", "The frames, until the client goes.")
        .fails(&[Code::InvalidCursor, Code::RateLimited, Code::Draining])
}

pub(crate) fn socket() -> Doc {
    Doc::new("Web chat", "Watch and write over a WebSocket")
        .about(
            "The first frame is `{\"type\":\"hello\",\"token\":\"vt_…\",\"after\":\"<cursor>\"}`; then \
             `send` (`id`, `text`), `stop` and `ping`. The server sends the frames of the events, \
             `accepted`, `error` (with `retry_after` in seconds where waiting helps) and `pong`.",
        )
        .returns_nothing(101, "The connection becomes a WebSocket.")
        .fails(&[Code::BadRequest, Code::OriginRefused, Code::RateLimited, Code::Draining])
}

pub(crate) fn livez() -> Doc {
    Doc::new("Operations", "Is the process alive?").returns::<Alive>(200, "It is.")
}

pub(crate) fn readyz() -> Doc {
    Doc::new("Operations", "May this node be sent work?")
        .returns::<Readiness>(200, "It may.")
        .returns::<Readiness>(
        503,
        "It may not: the database is away, no model is ready, or it is shutting down.",
    )
}

pub(crate) fn metrics() -> Doc {
    Doc::new("Operations", "Read the metrics")
        .about("404 where the metrics have an address of their own.")
        .returns_text(200, "text/plain", "The text format of Prometheus.")
        .fails(&[Code::NotFound])
}

pub(crate) fn openapi() -> Doc {
    Doc::new("Operations", "Read this description").returns_text(
        200,
        "application/json",
        "OpenAPI 3.1.",
    )
}
