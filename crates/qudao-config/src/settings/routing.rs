//! How models are watched, and left alone while they fail.

use schemars::JsonSchema;
use serde::Deserialize;

/// How models are watched, and left alone while they fail. The same on every node, as they tell each
/// other what they find.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Seconds within which a model's calls count.
    pub breaker_window_s: u64,
    /// Fewer calls than this within the window say nothing.
    pub breaker_min_calls: u32,
    /// A model is left alone when at least so many of a hundred calls within the window failed.
    pub breaker_failure_percent: u32,
    /// Seconds that it is left alone. Calls that name it are answered with 503 meanwhile.
    pub breaker_open_s: u64,
    /// Calls that try it at a time when these are over, and how many have to succeed until it serves
    /// as before.
    pub breaker_probes: u32,
    /// Seconds between two looks of a node at how a route's model on trial does.
    pub canary_judge_s: u64,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            breaker_window_s: 30,
            breaker_min_calls: 10,
            breaker_failure_percent: 50,
            breaker_open_s: 15,
            breaker_probes: 2,
            canary_judge_s: 5,
        }
    }
}
