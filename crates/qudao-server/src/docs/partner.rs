//! The partner channel protocol.

use serde_json::json;

use super::LOCATION;
use crate::{
    admin::partners::{PartnerEndpoint, PartnerKeys},
    code::Code,
    openapi::Doc,
    partner::{
        conformance::{Lifted, ReportBody},
        deliveries::{DeliveryList, Replay, Replayed},
        endpoint::{CapabilityDocument, Pong, PublicKeys, Rotated, Verified},
        events::{self, AcceptedBody, Ack, Acked, EventPage},
        media::{FreshUrl, Uploaded},
    },
};

fn pcp(summary: &'static str) -> Doc {
    Doc::new("Partner channels", summary)
}

pub(crate) fn post_event() -> Doc {
    pcp("Report an event")
        .about(
            "One envelope of PCP/1, signed as Standard Webhooks says over the bytes of the body: \
             `webhook-id` (equal to `id`), `webhook-timestamp`, `webhook-signature`, and \
             `pcp-version`. An event that comes again gets 200 with `duplicate` and the same ids.",
        )
        .query("reply", "`wait` answers with the turn's messages, `sse` streams them.")
        .query("timeout", "With `wait`: seconds, 25 at most.")
        .body::<qudao_pcp::Event>(events::example())
        .returns::<AcceptedBody>(202, "Taken; it is durable.")
        .returns::<AcceptedBody>(200, "Taken before, or answered within the wait.")
        .or_text("text/event-stream")
        .fails(&[
            Code::UnsupportedVersion,
            Code::InvalidQuery,
            Code::SignatureInvalid,
            Code::IdReused,
            Code::ChannelClosed,
            Code::RateLimited,
            Code::InsufficientCredits,
            Code::SandboxFailure,
            Code::Overloaded,
        ])
}

pub(crate) fn pull_events() -> Doc {
    pcp("Read the log of events")
        .query("after", "A cursor; what is acknowledged if left out.")
        .query("limit", "At most this many events, 1 to 200; 100 if left out.")
        .returns::<EventPage>(200, "Events in their order.")
        .fails(&[Code::InvalidQuery, Code::InvalidCursor])
}

pub(crate) fn ack_events() -> Doc {
    pcp("Acknowledge what was read")
        .body::<Ack>(json!({ "cursor": "17" }))
        .returns::<Acked>(200, "How far the channel is acknowledged.")
        .fails(&[Code::InvalidCursor])
}

pub(crate) fn stream_events() -> Doc {
    pcp("Follow the log of events")
        .about(
            "Server-sent events whose `id` is the cursor: `Last-Event-ID` goes on where a stream \
             broke off. Comments every 15 seconds.",
        )
        .query("after", "A cursor; what is acknowledged if left out.")
        .returns_text(200, "text/event-stream", "Events in their order.")
        .fails(&[Code::InvalidQuery, Code::InvalidCursor, Code::Draining])
}

pub(crate) fn get_partner_capabilities() -> Doc {
    pcp("Read what the partner can show")
        .returns::<CapabilityDocument>(200, "The effective document, defaults included.")
}

pub(crate) fn put_partner_capabilities() -> Doc {
    pcp("Declare what the partner can show")
        .about("Levels are `native`, `degrade`, `drop` and `reject`; answers are rendered by it.")
        .body::<CapabilityDocument>(json!({
            "text": { "max": 4096, "unit": "utf16", "formats": { "bold": "native" } },
            "buttons": { "level": "native", "max": 3, "label_max": 20 },
            "typing": { "level": "native", "ttl_s": 5 },
        }))
        .returns::<CapabilityDocument>(200, "The effective document, defaults included.")
}

pub(crate) fn upload_media() -> Doc {
    pcp("Bring a file")
        .about("`multipart/form-data` with one file of at most 25 MiB; name it by `upload_id`.")
        .returns::<Uploaded>(201, "It can be named in messages.")
        .fails(&[
            Code::BadRequest,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::Overloaded,
        ])
}

pub(crate) fn fetch_media() -> Doc {
    pcp("Fetch a file of an answer")
        .about("The address stands in the answer and is good for an hour.")
        .needs_query("tenant", "As the address has it.")
        .needs_query("until", "As the address has it.")
        .needs_query("sig", "As the address has it.")
        .returns_text(200, "application/octet-stream", "Its bytes.")
        .fails(&[Code::Forbidden, Code::InvalidQuery])
}

pub(crate) fn renew_media() -> Doc {
    pcp("Get a fresh address of a file").returns::<FreshUrl>(200, "Good for an hour.")
}

pub(crate) fn list_deliveries() -> Doc {
    pcp("Read what was delivered")
        .query("status", "`ready`, `sending`, `done`, `dead` or `expired`.")
        .query("before", "`next` of the page before.")
        .query("limit", "At most this many, 1 to 200; 50 if left out.")
        .returns::<DeliveryList>(200, "The newest first.")
        .fails(&[Code::InvalidQuery, Code::InvalidCursor])
}

pub(crate) fn replay_deliveries() -> Doc {
    pcp("Send events again")
        .about("They keep their `webhook-id` and carry `pcp-replay: 1`.")
        .body::<Replay>(json!({ "ids": ["evt_01JD0AAAAAAAAAAAAAAAAAAAA1"] }))
        .returns::<Replayed>(202, "They are on their way.")
}

pub(crate) fn verify_endpoint() -> Doc {
    pcp("Show that the endpoint is yours")
        .about(
            "The endpoint gets `endpoint.verify` and answers 200 with `{\"challenge\": …}`. Events \
             go to no endpoint that has not.",
        )
        .returns::<Verified>(200, "Events go there from now on.")
        .fails(&[Code::EndpointUnverified])
}

pub(crate) fn rotate_partner_keys() -> Doc {
    pcp("Make a new signing secret")
        .about("The old one stays valid for 24 hours; until then both sign and both are accepted.")
        .returns::<Rotated>(200, "Shown once.")
        .fails(&[Code::Conflict])
}

pub(crate) fn partner_ping() -> Doc {
    pcp("Ask how the channel is doing").returns::<Pong>(200, "The channel's state.")
}

pub(crate) fn submit_conformance() -> Doc {
    pcp("Leave the sandbox")
        .about("Takes the signed report of `qudao-conform`, green and not older than a week.")
        .body::<ReportBody>(json!({ "report": "{…}", "public_key": "whpk_…", "signature": "…" }))
        .returns::<Lifted>(200, "The channel takes real conversations.")
        .fails(&[Code::ReportRefused])
}

pub(crate) fn pcp_keys() -> Doc {
    pcp("Read the platform's public keys")
        .needs_query("tenant", "As the event's envelope names it.")
        .needs_query("channel", "As the event's envelope names it.")
        .returns::<PublicKeys>(200, "What `v1a` signatures are verified with.")
        .fails(&[Code::InvalidQuery])
}

pub(crate) fn create_partner_keys() -> Doc {
    Doc::new("Channels", "Make a partner's keys")
        .act("partner_key.create")
        .about("A bearer key and a signing secret. Those before stay valid for 24 hours.")
        .once()
        .returns::<PartnerKeys>(201, LOCATION)
        .fails(&[Code::ValidationFailed])
}

pub(crate) fn set_partner_endpoint() -> Doc {
    Doc::new("Channels", "Set a partner's endpoint")
        .act("partner_endpoint.set")
        .body::<PartnerEndpoint>(json!({
            "endpoint_url": "https://partner.example/qudao",
            "transport": "webhook",
        }))
        .returns::<PartnerEndpoint>(200, "Kept; the partner has to verify it.")
}

pub(crate) fn revoke_partner_keys() -> Doc {
    Doc::new("Channels", "Revoke a partner's keys")
        .act("partner_key.revoke")
        .about("All of them, at once: nobody speaks for the channel until new ones are made.")
        .returns_nothing(204, "Revoked.")
        .fails(&[Code::Conflict])
}

pub(crate) fn verify_partner_endpoint() -> Doc {
    Doc::new("Channels", "Verify a partner's endpoint")
        .act("partner_endpoint.verify")
        .once()
        .about("Sends it a challenge, as the partner may do itself.")
        .returns::<Verified>(200, "It answered with the challenge; events go there from now on.")
        .fails(&[Code::Conflict, Code::EndpointUnverified])
}

pub(crate) fn list_partner_deliveries() -> Doc {
    Doc::new("Channels", "Read what was delivered to a partner")
        .query("status", "`ready`, `sending`, `done`, `dead` or `expired`.")
        .query("before", "`next` of the part before.")
        .query("limit", "At most this many, 1 to 200; 50 if left out.")
        .returns::<DeliveryList>(200, "Deliveries, the newest first.")
        .fails(&[Code::Conflict, Code::InvalidQuery, Code::InvalidCursor])
}

pub(crate) fn replay_partner_deliveries() -> Doc {
    Doc::new("Channels", "Send a partner events again")
        .act("partner_delivery.replay")
        .once()
        .about("They keep their `webhook-id` and carry `pcp-replay: 1`.")
        .body::<Replay>(json!({ "status": "dead" }))
        .returns::<Replayed>(200, "How many are sent again.")
        .fails(&[Code::Conflict])
}
