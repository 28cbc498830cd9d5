//! The use cases against a real database and a scripted model.

mod api;
mod stage;
mod turns;
