//! Measuring programs: each compares Qudao with a named reference in the same run.

pub mod cpu;
pub mod crowd;
pub mod http;
pub mod llama;
pub mod load;
pub mod memory;
pub mod part;
pub mod pgbench;
pub mod pipeline;
pub mod platform;
pub mod postgres;
pub mod proxy;
pub mod sink;
pub mod upstream;
