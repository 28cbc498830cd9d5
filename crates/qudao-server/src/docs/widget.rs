//! What the widget's own endpoints do.

use serde_json::json;

use crate::{
    chat::requests::Receipt,
    code::Code,
    openapi::Doc,
    widget::requests::{AskToken, Rate, WidgetToken},
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
    Doc::new("Widget", "Send a file")
        .about(
            "At most 10 MB: a picture (JPEG, PNG, GIF, WebP), a PDF, a sound (MP3, Ogg, WAV, M4A, \
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
