//! What a node is told when it starts, as JSON in its only argument.

use std::path::PathBuf;

use qudao_testkit::Script;
use serde::{Deserialize, Serialize};

/// The key of the admin API of every node of the check.
pub const OPERATOR: &str = "qo_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What a node does, as `qudao serve --role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Answers clients.
    Api,
    /// Runs turns and delivers.
    Worker,
    /// Both.
    All,
}

impl Role {
    /// Whether clients may knock.
    pub fn serves(self) -> bool {
        self != Self::Worker
    }

    /// Whether it runs turns.
    pub fn works(self) -> bool {
        self != Self::Api
    }
}

/// What a node of the check is and does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodePlan {
    /// What it is for.
    pub role: Role,
    /// The database of the run.
    pub database_url: String,
    /// Where hints travel; an address where nobody listens for none.
    pub redis_url: String,
    /// The socket of the fake remote.
    pub remote: PathBuf,
    /// Where messaging platforms and partners listen, if the run has such.
    pub wires: Option<std::net::SocketAddr>,
    /// The in-process models by name.
    pub models: Vec<(String, Script)>,
    /// A misbehaving plugin in a child process.
    pub rogue: Option<RoguePlan>,
    /// How long claims, deliveries and blocks are good without a renewal.
    pub lease_ms: u64,
    /// Ends the process at this point, without a word to anybody.
    pub abort_at: Option<String>,
    /// Blocks when this point is first reached, until this file is there.
    pub wait_at: Option<(String, PathBuf)>,
    /// The seeded bugs that are switched on.
    pub bugs: Vec<String>,
}

/// The misbehaving plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoguePlan {
    /// The folder with the plugin's folder.
    pub plugins: PathBuf,
    /// The program that runs it.
    pub host_binary: PathBuf,
    /// Where quarantines are kept.
    pub state: PathBuf,
}

/// What a node says when it serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Announcement {
    /// Where it listens.
    pub addr: std::net::SocketAddr,
}

/// What a node hands to the fake remote, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The key by which a message that comes twice is recognised.
    pub outbox_id: String,
    /// The thread.
    pub conversation_id: String,
    /// The turn that made it.
    pub turn_id: Option<String>,
    /// `reply` or `notice`.
    pub kind: String,
    /// Its place in the thread.
    pub out_seq: i64,
    /// The last message that it answers.
    pub to_seq: i64,
}
