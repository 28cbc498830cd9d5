//! Chores that CI or two people run.
fn main() {}
