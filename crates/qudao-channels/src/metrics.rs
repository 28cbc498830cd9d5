//! The metrics of this crate: what comes in and goes out over channels of other platforms.

use qudao_telemetry::{Label, Metric};

const CHANNEL: Label = Label {
    name: "channel",
    values: &[
        "telegram",
        "slack",
        "whatsapp",
        "messenger",
        "instagram",
        "email",
        "matrix",
        "feishu",
        "wecom",
        "wechat",
        "discord",
        "line",
        "dingtalk",
    ],
};
const KIND: Label = Label {
    name: "kind",
    values: &[
        "message",
        "piece",
        "overheard",
        "edited",
        "deleted",
        "pressed",
        "lapsed",
        "reaction",
        "typing",
        "receipt",
        "unreachable",
        "reachable",
        "moved",
        "paid",
        "refunded",
        "unknown",
    ],
};
const REASON: Label = Label {
    name: "reason",
    values: &[
        "blocked",
        "window_closed",
        "unsupported",
        "too_long",
        "recipient_unknown",
        "media_rejected",
        "auth",
        "policy",
        "provider_error",
        "expired",
    ],
};

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric::counter("qudao_channel_events_total", "Events that platforms told, by kind of channel and of event: `unknown` is stored and not understood, `repeated` had been told before")
        .by(&[CHANNEL, KIND, Label { name: "outcome", values: &["new", "repeated"] }]),
    Metric::counter("qudao_channel_requests_total", "Requests to platforms: `throttled` has to come later, `refused` is their no, `failed` has no answer")
        .by(&[CHANNEL, Label { name: "outcome", values: &["success", "throttled", "refused", "failed"] }]),
    Metric::counter("qudao_channel_failures_total", "Messages that a platform will never take, by its reason")
        .by(&[CHANNEL, REASON]),
    Metric::counter("qudao_channel_files_total", "Files that came in, and whether a copy of them is kept")
        .by(&[CHANNEL, Label { name: "outcome", values: &["copied", "failed"] }]),
];
