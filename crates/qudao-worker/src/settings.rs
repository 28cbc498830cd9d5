//! Bounds of the job loops.

use std::time::Duration;

/// Bounds of the job loops. The defaults suit a node of a few cores.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Turns that run at the same time on this node.
    pub turns_in_flight: usize,
    /// Turns of one tenant among them, so that no tenant has them all.
    pub tenant_turns_in_flight: usize,
    /// Deliveries that run at the same time on this node.
    pub deliveries_in_flight: usize,
    /// How many rows one claim takes at most.
    pub claim_batch: u32,
    /// The shortest wait between two looks at an empty queue without a hint.
    pub poll_min: Duration,
    /// The longest wait between two looks at an empty queue without a hint.
    pub poll_max: Duration,
    /// How long a claimed delivery may take before another sender takes it.
    pub delivery_lease: Duration,
    /// The longest wait before the second, third, … try of a delivery; the real wait is drawn
    /// below it. A message that fails once more than there are entries is buried.
    pub delivery_backoff: Vec<Duration>,
    /// How often what dead nodes left is cleared away.
    pub sweep_every: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            turns_in_flight: 64,
            tenant_turns_in_flight: 56,
            deliveries_in_flight: 64,
            claim_batch: 32,
            poll_min: Duration::from_millis(50),
            poll_max: Duration::from_millis(200),
            delivery_lease: Duration::from_secs(30),
            delivery_backoff: [5, 30, 120, 600, 1800, 7200].map(Duration::from_secs).to_vec(),
            sweep_every: Duration::from_secs(10),
        }
    }
}
