//! Loads plugins and keeps their failures theirs.
//!
//! A plugin's manifest, signature, hash and ABI are checked before any of its code runs. It then
//! runs in a child process (the default) or in this one; either way a caller sees a stream of
//! events with exactly one end, whatever the plugin does.

#![expect(unsafe_code, reason = "the C boundary and fork; every block says why it is sound")]

mod artifact;
pub mod child;
mod config;
mod confine;
mod crash;
mod credit;
mod discover;
mod disk;
mod engine;
mod event;
mod failure;
mod flight;
mod frame;
mod generation;
mod host;
mod instance;
mod load;
mod metrics;
mod net;
mod opening;
mod pack;
mod probe;
mod process;
mod reload;
mod report;
mod retry;
mod said;
mod scaffold;
mod settings;
mod slot;
mod terms;
mod versions;
mod watch;

pub use artifact::RefusalError;
pub use confine::{Sandbox, TRUST, protections};
pub use discover::misfits;
pub use disk::guarded;
pub use event::{Call, CallError, Event, EventStream, TimeoutKind};
pub use host::{HostError, PluginHost};
pub use metrics::METRICS;
pub use net::{exchange_at_home, exchange_here};
pub use pack::{PackError, pack, signing_key};
pub use probe::{ArtifactProbe, ProbeReport, probe};
pub use qudao_telemetry::Trace;
pub use report::{
    FailureReport, GenerationReport, ModelReport, ModelState, PluginReport, PluginState,
};
pub use scaffold::{SdkSource, scaffold};
pub use settings::{
    DataClass, HostSettings, InstanceSettings, ModelEntry, ModelKind, Placement, Timeouts,
};
