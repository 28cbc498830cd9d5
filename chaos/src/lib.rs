//! The pipeline under faults: real nodes in processes of their own, ended, frozen and cut off at
//! chosen or random moments, between a fake platform that delivers messages and a fake remote
//! that receives the replies. What both of them saw is written down outside of the database and
//! compared with it afterwards.

pub mod adapters;
pub mod cancel;
pub mod customers;
pub mod deps;
pub mod drill;
pub mod failover;
pub mod mutants;
pub mod node;
pub mod plan;
pub mod platform;
pub mod plugins;
pub mod points;
pub mod record;
pub mod remote;
pub mod socket;
pub mod stage;
pub mod storm;
pub mod verdict;
pub mod wires;
