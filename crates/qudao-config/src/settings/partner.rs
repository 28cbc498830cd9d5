//! Channels of partners.

use schemars::JsonSchema;
use serde::Deserialize;

/// Channels of partners, over the partner channel protocol (PCP/1).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Partner {
    /// Whether endpoints of channels in the sandbox may be on this machine, over plain http and at
    /// any port: for somebody who tries an adapter beside the platform. Every tenant can then have
    /// the platform post to what listens here. `serve --demo` turns it on where the platform itself
    /// listens on this machine alone.
    pub sandbox_this_machine: bool,
    /// Public keys (`whpk_…`) whose conformance reports lift a channel out of the sandbox. When
    /// none is listed, a report signed with the partner's own key does, which the tenant entered.
    pub report_keys: Vec<String>,
}
