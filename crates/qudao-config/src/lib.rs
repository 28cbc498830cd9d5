//! Settings: one file with a section per concern, the environment over the file, every value
//! checked before anything starts. A refusal names the key and says why.

mod instance;
mod load;
mod secret;
mod settings;

pub use instance::{DataClass, Instance, Model, ModelKind, Placement, PluginTimeouts, Price};
pub use load::{ConfigError, Loaded, Problem, is_operator_key, json_schema, load};
pub use secret::Secret;
pub use settings::{
    Backup, Database, Demo, Egress, Limits, Log, LogFormat, Mail, Models, Operator, Partner,
    Plugins, Redis, Routing, Sandbox, Server, Settings, Telemetry, Worker,
};
