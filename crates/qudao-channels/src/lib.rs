//! The messaging surfaces. A new one is a folder here and a line in [`adapters`]; the web chat,
//! whose visitors read from the database, is a line in [`all`].

use std::sync::Arc;

use qudao_core::{Channel, Core, channel::adapter::ChannelAdapter};

pub mod partner;
mod signature;
mod web;

pub use web::WebChannel;

/// Every adapter of another platform.
pub fn adapters() -> Vec<Arc<dyn ChannelAdapter>> {
    vec![]
}

/// Every channel that outbound messages can be handed to. The API is not among them: its answers
/// go out with the call, so it has nothing to deliver later.
pub fn all(core: &Arc<Core>) -> Vec<Arc<dyn Channel>> {
    vec![
        Arc::new(WebChannel::new(core.bus.clone())),
        Arc::new(partner::PartnerChannel::new(Arc::clone(core))),
    ]
}
