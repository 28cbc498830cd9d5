//! The messaging surfaces. A new one is a folder here and a line in [`adapters`]; the web chat,
//! whose visitors read from the database, is a line in [`all`].

use std::sync::Arc;

use qudao_core::{
    Channel, Core,
    channel::{adapter::ChannelAdapter, config::Manifest, session::SessionAdapter},
};

mod ciphers;
pub mod dingtalk;
pub mod discord;
pub mod email;
pub mod feishu;
#[cfg(test)]
mod fixture;
pub mod host;
mod lenient;
pub mod letters;
pub mod line;
mod markup;
pub mod matrix;
pub mod meta;
mod metrics;
pub mod partner;
mod press;
mod signature;
pub mod slack;
#[cfg(test)]
mod stand;
pub mod telegram;
#[cfg(test)]
mod uploads;
pub mod web;
pub mod wechat;
mod wire;

pub use host::Host;
pub use metrics::METRICS;
pub use web::WebChannel;

/// Every adapter of another platform.
pub fn adapters() -> Vec<Arc<dyn ChannelAdapter>> {
    vec![
        Arc::new(telegram::Telegram),
        Arc::new(slack::Slack),
        Arc::new(meta::Meta::Whatsapp),
        Arc::new(meta::Meta::Messenger),
        Arc::new(meta::Meta::Instagram),
        Arc::new(line::Line),
        Arc::new(discord::Discord),
        Arc::new(email::Email),
        Arc::new(matrix::Matrix),
        Arc::new(feishu::Feishu),
        Arc::new(wechat::Wecom),
        Arc::new(wechat::Wechat),
        Arc::new(dingtalk::Dingtalk),
    ]
}

/// Those of them whose platform keeps a socket open.
pub fn sessions() -> Vec<Arc<dyn SessionAdapter>> {
    vec![Arc::new(discord::Discord), Arc::new(dingtalk::Dingtalk)]
}

/// Every kind of channel that a tenant can make, with its settings.
pub fn manifests() -> Vec<&'static Manifest> {
    let adapters = adapters();
    [&web::MANIFEST, &partner::MANIFEST]
        .into_iter()
        .chain(adapters.iter().map(|one| one.manifest()))
        .collect()
}

/// Every channel that outbound messages can be handed to. The API is not among them: its answers
/// go out with the call, so it has nothing to deliver later.
pub fn all(core: &Arc<Core>) -> Vec<Arc<dyn Channel>> {
    vec![
        Arc::new(WebChannel::new(core.bus.clone())),
        Arc::new(partner::PartnerChannel::new(Arc::clone(core))),
    ]
}
