//! The closed sets of states and reasons that the database, the wire and the code share.

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As the database and the wire write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value with this text form, if there is one.
            pub fn find(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text)
            }
        }
    };
}

states!(/** What became of an inbound message. */ InboxState {
    /// Durable, not answered yet.
    Accepted = "accepted",
    /// A reply was committed.
    Answered = "answered",
    /// Refused without a model call: no funds or a policy.
    Rejected = "rejected",
    /// Given up after the last attempt.
    Dead = "dead",
});

states!(/** What became of an outbound message. */ OutboxState {
    /// Waiting for a sender.
    Queued = "queued",
    /// A sender holds it.
    Sending = "sending",
    /// The other side has it.
    Delivered = "delivered",
    /// Given up.
    Dead = "dead",
});

states!(/** A hold leaves `held` exactly once. */ HoldState {
    /// Credits are set aside.
    Held = "held",
    /// Charged, up to the amount.
    Settled = "settled",
    /// Given back.
    Voided = "voided",
});

states!(/** Why a reply ended; kept on the usage row. */ EndReason {
    /// The model was done.
    Stop = "stop",
    /// The token limit was reached.
    Length = "length",
    /// The model asks for a tool.
    ToolCalls = "tool_calls",
    /// The provider withheld the rest.
    ContentFilter = "content_filter",
    /// The person pressed stop or the client hung up.
    Cancelled = "cancelled",
    /// The model failed after it had begun.
    Failed = "failed",
});

states!(/** What a tenant pays for when a reply is cut short. */ FairCharging {
    /// The tokens that reached the other side (default).
    BillDelivered = "bill_delivered",
    /// The tokens that the model made.
    BillGenerated = "bill_generated",
    /// Nothing if nothing reached the other side, else what the model made.
    FreeIfNothingDelivered = "free_if_nothing_delivered",
});

states!(/** A messaging surface. */ ChannelKind {
    /// The chat page and the widget.
    Web = "web",
    /// The OpenAI-compatible API.
    Api = "api",
    /// A bot of Telegram.
    Telegram = "telegram",
    /// A partner's own, over the partner channel protocol.
    Partner = "partner",
    /// An app of Slack.
    Slack = "slack",
    /// A number of the WhatsApp Business Platform.
    Whatsapp = "whatsapp",
    /// A page's Messenger.
    Messenger = "messenger",
    /// An account of Instagram.
    Instagram = "instagram",
    /// A mailbox.
    Email = "email",
    /// A homeserver of Matrix.
    Matrix = "matrix",
    /// A bot of Feishu or Lark.
    Feishu = "feishu",
    /// An app of WeCom.
    Wecom = "wecom",
    /// An Official Account of WeChat.
    Wechat = "wechat",
    /// An app of Discord.
    Discord = "discord",
    /// An Official Account of LINE.
    Line = "line",
    /// A robot of DingTalk.
    Dingtalk = "dingtalk",
});

states!(/** The accounts of the double-entry ledger. */ Account {
    /// What the tenant may still spend.
    Wallet = "wallet",
    /// What the platform earned.
    Revenue = "revenue",
    /// Money that came in.
    Cash = "cash",
    /// Credits that the platform gave away.
    Bonus = "bonus",
    /// Cost above a hold, borne by the platform.
    PlatformAbsorbed = "platform_absorbed",
});
