//! What the composition root decides about the HTTP server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use qudao_channels::{Host, partner::Courier};
use qudao_domain::key::SecretHash;
use qudao_egress::Egress;
use qudao_identity::IdentitySettings;
use qudao_pcp::PublicKey;

/// How the server listens and what it bears.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where to listen. Port 0 takes a free one; [`crate::ServerHandle::addrs`] tells which.
    pub bind: Vec<SocketAddr>,
    /// What is served there.
    pub doors: Doors,
    /// Where `/metrics` is served; on `bind` when left out.
    pub metrics_bind: Option<SocketAddr>,
    /// Threads that serve HTTP.
    pub workers: usize,
    /// The hash of the whole operator key (`qo_…`).
    pub operator_key: SecretHash,
    /// How long [`crate::ServerHandle::drain`] lets replies finish, at most.
    pub drain_timeout: Duration,
    /// How long browsers are told to come by https only; `None` where clients may come by http.
    pub hsts: Option<Duration>,
    /// Bounds on what clients may do.
    pub limits: Limits,
    /// What others call this server, such as `https://chat.example.com`.
    pub public_url: Option<String>,
    /// The client for addresses that tenants chose; without it none is requested.
    pub egress: Option<Egress>,
    /// Bounds of sessions and invitations.
    pub identity: IdentitySettings,
    /// How partners are dealt with.
    pub partner: PartnerSettings,
    /// The adapters of other platforms; the server makes a host of them of its own if there is none.
    pub channels: Option<Arc<Host>>,
}

impl ServerSettings {
    /// Settings with the default limits, for one address.
    pub fn new(bind: SocketAddr, operator_key: SecretHash) -> Self {
        Self {
            bind: vec![bind],
            doors: Doors::All,
            metrics_bind: None,
            workers: 2,
            operator_key,
            drain_timeout: Duration::from_secs(20),
            hsts: None,
            limits: Limits::default(),
            public_url: None,
            egress: None,
            identity: IdentitySettings::default(),
            partner: PartnerSettings::default(),
            channels: None,
        }
    }
}

/// How partners are dealt with.
#[derive(Debug, Clone, Default)]
pub struct PartnerSettings {
    /// What reaches their endpoints.
    pub courier: Courier,
    /// Whose reports lift a channel out of the sandbox. Empty: those of the partner itself, signed
    /// with the key that the tenant entered for it.
    pub report_keys: Vec<PublicKey>,
}

/// What a server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    /// Every endpoint.
    All,
    /// `/livez`, `/readyz` and `/metrics`: what a node needs that has no clients.
    Operations,
}

/// Bounds on what clients may do. Each exists so that no client can take the server from the others.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body of the admin and chat endpoints.
    pub body_bytes: usize,
    /// Bytes of a body of `/v1/chat/completions`, which may carry images.
    pub completion_body_bytes: usize,
    /// Bytes of one WebSocket message.
    pub socket_message_bytes: usize,
    /// Frames that wait for a slow reader of an event stream.
    pub outgoing_frames: usize,
    /// How long a full queue is waited for before its reader is disconnected. It resumes where it
    /// was by its cursor.
    pub slow_client_timeout: Duration,
    /// Time for the head of a request to arrive.
    pub request_head_timeout: Duration,
    /// Time for a whole body to arrive.
    pub request_body_timeout: Duration,
    /// How long an idle keep-alive connection is kept.
    pub keep_alive: Duration,
    /// How often an open socket or event stream is probed.
    pub heartbeat: Duration,
    /// Silence after which a socket is closed.
    pub socket_idle_timeout: Duration,
    /// How often an open turn is read from the database, should its hint have been lost.
    pub open_turn_poll: Duration,
    /// The same while nothing is expected.
    pub idle_poll: Duration,
    /// Connections at one time, per thread.
    pub connections_per_worker: usize,
    /// Connections at one time from one address; 0 for no limit. This machine has none.
    pub connections_per_address: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of all headers of a request.
    pub header_bytes: usize,
    /// Bytes of bodies that are held at the same time.
    pub bodies_bytes: usize,
    /// Messages of one socket that wait to be stored.
    pub waiting_messages: usize,
    /// Open chats of one visitor.
    pub chats_per_visitor: usize,
    /// Open chats of one tenant.
    pub chats_per_tenant: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 256 * 1024,
            completion_body_bytes: 20 * 1024 * 1024,
            socket_message_bytes: 128 * 1024,
            outgoing_frames: 64,
            slow_client_timeout: Duration::from_secs(10),
            request_head_timeout: Duration::from_secs(10),
            request_body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            heartbeat: Duration::from_secs(15),
            socket_idle_timeout: Duration::from_secs(60),
            open_turn_poll: Duration::from_secs(2),
            idle_poll: Duration::from_secs(30),
            connections_per_worker: 25_000,
            connections_per_address: 1024,
            headers: 64,
            header_bytes: 32 * 1024,
            bodies_bytes: 512 * 1024 * 1024,
            waiting_messages: 16,
            chats_per_visitor: 16,
            chats_per_tenant: 10_000,
        }
    }
}
