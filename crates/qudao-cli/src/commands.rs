//! One module per command; `serve` has its own place.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod keys;
pub(crate) mod migrate;
pub(crate) mod model;
pub(crate) mod plugin;
pub(crate) mod print;
pub(crate) mod restore;
