//! Measuring programs: each compares Qudao with a named reference in the same run.

pub mod cpu;
pub mod load;
pub mod pgbench;
pub mod pipeline;
pub mod platform;
pub mod postgres;
pub mod proxy;
pub mod upstream;
