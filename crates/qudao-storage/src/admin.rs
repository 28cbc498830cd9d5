//! What a tenant owns and an administrator sets up.

pub(crate) mod api_keys;
pub(crate) mod assistants;
pub(crate) mod channels;
pub(crate) mod tenants;
