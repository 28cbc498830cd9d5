//! What a plugin and its host share: the C ABI, the manifest, the JSON on the wire, and the SDK
//! with which a plugin is written in safe Rust.
//!
//! ```ignore
//! use qudao_plugin_api::{Completion, Host, ModelPlugin, PluginError, Request, Sink, wire::Usage};
//!
//! struct Shout;
//!
//! impl ModelPlugin for Shout {
//!     type Config = serde_json::Value;
//!
//!     fn create(_: Host, _: Self::Config) -> Result<Self, PluginError> {
//!         Ok(Self)
//!     }
//!
//!     fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
//!         let text = request.chat()?.last_user_text().to_uppercase();
//!         sink.token(&text)?;
//!         Ok(Completion::stop(Usage { input_tokens: 1, output_tokens: 1 }))
//!     }
//! }
//!
//! qudao_plugin_api::export_plugin!(Shout);
//! ```

#![expect(unsafe_code, reason = "the C boundary; every block says why it is sound")]

pub mod abi;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod sdk;
pub mod wire;

#[cfg(feature = "async")]
pub use sdk::asynchronous::{
    Answer, AsyncModelPlugin, AsyncSink, Elapsed, Net, NetError, Outgoing, Piece,
};
pub use sdk::{
    Completion, Host, LogLevel, OwnedRequest, PluginError, Request,
    batch::{BatchPlugin, Step, StepSink},
    blocking::{ModelPlugin, Sink},
    text::TokenText,
};
