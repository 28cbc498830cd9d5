//! Members of a tenant: how they come in and stay signed in.
//!
//! What is kept of a secret is a hash: argon2id of a password, SHA-256 of what has 256 random bits
//! itself. A second factor's secret has to be kept as it is, and is encrypted.
//!
//! Nothing here is remembered between requests. A session, the member behind it and what their role
//! allows are read from the database each time, so that a change holds on every node at once.

use std::{sync::Arc, time::Duration};

use qudao_core::Core;
use qudao_egress::Egress;

pub mod oidc;
mod password;
mod second_factor;
mod sign_in;

pub use password::{Password, PasswordError};
pub use qudao_domain::address::{Email, EmailError};
pub use second_factor::{Enrolment, EnrolmentError};
pub use sign_in::{
    Confirmed, Credentials, IdentityError, Newcomer, Proof, Session, SignedIn, Visit,
};

/// Bounds of sessions and invitations.
#[derive(Debug, Clone)]
pub struct IdentitySettings {
    /// How long a session lasts at most.
    pub session: Duration,
    /// How long a session lasts without a request.
    pub session_idle: Duration,
    /// How long an invitation's link is good.
    pub invitation: Duration,
    /// Passwords that are hashed at the same time. Each takes 19 MiB and some 20 ms of a core.
    pub hashing: usize,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            session: Duration::from_secs(7 * 24 * 3600),
            session_idle: Duration::from_secs(24 * 3600),
            invitation: Duration::from_secs(7 * 24 * 3600),
            hashing: 2,
        }
    }
}

/// The ways in.
pub struct Identity {
    core: Arc<Core>,
    egress: Option<Egress>,
    /// Bounds.
    pub settings: IdentitySettings,
    hasher: password::Hasher,
}

impl Identity {
    /// Puts the parts together. Without `egress` nobody signs in by an identity provider.
    pub fn new(core: Arc<Core>, egress: Option<Egress>, settings: IdentitySettings) -> Self {
        let hasher = password::Hasher::new(settings.hashing);
        Self { core, egress, settings, hasher }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("settings", &self.settings).finish_non_exhaustive()
    }
}
