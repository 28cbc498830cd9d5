//! The invariants that SQL can see on a live database.

/// When an invariant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// At every moment, also under load.
    Always,
    /// Once no work is left: nothing comes in and the workers are done.
    AfterDrain,
}

/// What a check of one invariant found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its number in `docs/invariants.md`, such as `I7`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// When it must hold.
    pub scope: Scope,
    /// How many times it does not.
    pub violations: i64,
    /// How many rows were looked at; zero proves nothing.
    pub examined: i64,
    /// One violation, for the operator.
    pub sample: Option<String>,
}

/// An invariant that this check cannot decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unchecked {
    /// Its number in `docs/invariants.md`.
    pub id: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// Why SQL cannot see it.
    pub reason: &'static str,
}
