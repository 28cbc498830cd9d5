//! What the widget's own endpoints do.

use serde_json::json;

use crate::{
    chat::{
        claims::{AskCode, AskedCode, ConfirmCode},
        requests::Receipt,
    },
    code::Code,
    openapi::Doc,
    widget::{
        identify::Identify,
        requests::{AskToken, Rate, WidgetToken},
        transcript::SendTranscript,
    },
};

pub(crate) fn widget_token() -> Doc {
    Doc::new("Widget", "Get a token for a page")
        .about(
            "The header `Origin` has to name a site that is listed under `origins` in the channel's \
             settings; browsers send it by themselves. The token is bound to that site, the channel, \
             its assistant and the visitor. Show `visitor` again to go on with the conversation.",
        )
        .body::<AskToken>(json!({}))
        .returns::<WidgetToken>(200, "The token, and how the widget looks.")
        .fails(&[Code::OriginRefused, Code::ChannelClosed, Code::Unavailable])
}

pub(crate) fn widget_socket() -> Doc {
    Doc::new("Widget", "Watch and write over a WebSocket")
        .about(
            "As the chat page's socket, with the widget's token in `hello`. When the token ends the \
             server says `reconnect`: get a new one and come back with the cursor.",
        )
        .returns_nothing(101, "The connection becomes a WebSocket.")
        .fails(&[Code::BadRequest, Code::OriginRefused, Code::RateLimited, Code::Draining])
        .fails(&[Code::Unavailable])
}

pub(crate) fn rate_conversation() -> Doc {
    Doc::new("Widget", "Say how the conversation was")
        .about("One word for each conversation and day (UTC); a later one takes its place.")
        .body::<Rate>(json!({ "score": 5 }))
        .returns_nothing(204, "Noted.")
        .fails(&[Code::Conflict, Code::RateLimited])
}

pub(crate) fn send_file() -> Doc {
    Doc::new("Web chat", "Send a file")
        .about(
            "Where the channel's setting `uploads` lets visitors do so. At most 10 MB: a picture (JPEG, PNG, GIF, WebP), a PDF, a sound (MP3, Ogg, WAV, M4A, \
             WebM) or plain text, judged by its bytes. It becomes a message of its own with the file \
             as its part. The same `id` is stored once, however often it is sent. A conversation may \
             hold 50 MB of files.",
        )
        .needs_query("id", "Chosen by the client: 1 to 64 visible ASCII characters.")
        .query("name", "What the file is called.")
        .file()
        .returns::<Receipt>(202, "Durable.")
        .fails(&[Code::InvalidQuery, Code::InsufficientCredits, Code::ChannelClosed])
        .fails(&[Code::Conflict, Code::RateLimited, Code::Overloaded])
}

pub(crate) fn fetch_file() -> Doc {
    Doc::new("Web chat", "Get a file of the conversation")
        .about(
            "By the `upload_id` of a message's part: what the visitor sent, and what answers show.",
        )
        .returns_text(200, "application/octet-stream", "Its bytes, with its own media type.")
}

pub(crate) fn identify() -> Doc {
    Doc::new("Widget", "Say who the visitor is")
        .about(
            "With a token that the site's own server signed: a JWT (HS256 with the channel's \
             `site_secret`, or ES256 or EdDSA with a key of `site_keys`) whose `aud` is the channel's \
             public key, `sub` what the site calls its customer, and `exp` within 12 hours. The \
             visitor becomes the contact who was that customer before. `email` and `phone` count as \
             proven only beside `email_verified` and `phone_verified`. A visitor who is another \
             customer already is refused with `another_customer`: begin with a new visitor.",
        )
        .body::<Identify>(json!({ "token": "eyJhbGciOiJIUzI1NiJ9.…" }))
        .returns_nothing(204, "The visitor is that customer.")
        .fails(&[Code::AnotherCustomer, Code::Conflict, Code::RateLimited])
}

pub(crate) fn ask_code() -> Doc {
    Doc::new("Web chat", "Have a code sent to an address")
        .about(
            "Six digits go to the e-mail address, or over WhatsApp to the telephone number; whoever \
             shows them has proven that the address is theirs, and becomes one with the contact who \
             proved it before. The answer is the same whether anybody has the address or not.",
        )
        .body::<AskCode>(json!({ "email": "ann@example.com" }))
        .returns::<AskedCode>(202, "A code is on its way, if it can get there.")
        .fails(&[Code::Conflict, Code::RateLimited])
}

pub(crate) fn confirm_code() -> Doc {
    Doc::new("Web chat", "Show a code")
        .about("A code is good once, for ten minutes and five tries, and for whoever asked for it.")
        .body::<ConfirmCode>(json!({ "code": "012345" }))
        .returns_nothing(204, "The address is the visitor's.")
        .fails(&[Code::RateLimited])
}

pub(crate) fn send_transcript() -> Doc {
    Doc::new("Widget", "Send the conversation by mail")
        .about(
            "The latest 1,000 messages, 512 KB at most, as plain text and HTML. The mail says that \
             somebody asked for it in the chat.",
        )
        .body::<SendTranscript>(json!({ "to": "ann@example.com" }))
        .returns_nothing(202, "The mail is on its way.")
        .fails(&[Code::Conflict, Code::RateLimited])
}
