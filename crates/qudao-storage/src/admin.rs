//! What a tenant owns and an administrator sets up.

pub(crate) mod api_keys;
pub(crate) mod assistants;
pub(crate) mod channel_setups;
pub(crate) mod channels;
pub(crate) mod identity_providers;
pub(crate) mod invitations;
pub(crate) mod members;
pub(crate) mod roles;
pub(crate) mod sessions;
pub(crate) mod tenants;
