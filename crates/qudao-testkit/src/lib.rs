//! What tests share: databases that cost milliseconds, a Redis of one's own, ready-made tenants, a
//! scripted model and a clock that stands still.
//!
//! A database is a clone of a template that is migrated once per Postgres server. The server is
//! the one that `testbed` started (`testbed -- cargo nextest run`), named by
//! `QUDAO_TEST_DATABASE_URL`; without it, each test process starts a private one.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test cannot go on without what it asks for, and the panic is its report"
)]

mod clock;
mod cluster;
mod database;
mod ear;
mod eye;
mod model;
mod ports;
mod reader;
mod redis;
mod redis_cluster;
mod replicas;
mod server;
mod tenant;
mod vault;

pub use clock::FixedClock;
pub use cluster::{DATABASE_VARIABLE, REDIS_VARIABLE};
pub use database::{TestDb, connect};
pub use ear::Ear;
pub use eye::Eye;
pub use model::{FakeModel, Script};
pub use ports::free_ports;
pub use reader::{Manner, Reader};
pub use redis::TestRedis;
pub use redis_cluster::TestRedisCluster;
pub use replicas::TestReplicas;
pub use tenant::{TenantBuilder, TestTenant};
pub use vault::master_keys;
