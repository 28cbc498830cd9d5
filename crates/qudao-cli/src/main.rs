//! The one binary `qudao`.
fn main() {}
