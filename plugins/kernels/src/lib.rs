//! The arithmetic of networks on the machine's own processor, in single precision, over rows of
//! numbers: what the plugins that compute without candle have in common.
//!
//! Each kernel is a task that [`pulp`] runs with the widest vectors of the machine; on one with none the
//! same code computes number by number. A kernel computes on the thread that asks for it; a [`Crew`] shares
//! the steps of a layer out to several.

mod attend;
mod bend;
mod crew;
mod each;
mod exp;
mod mix;
mod norm;
mod panels;
mod rows;
mod sigmoid;
mod softmax;

pub use attend::Attend;
pub use bend::{Bend, Bent};
pub use crew::Crew;
pub use each::EachRow;
pub use mix::Mix;
pub use norm::{AddNorm, Norm};
pub use panels::{AskShape, Panels, Shape};
pub use rows::{Columns, Rows, Whole, cut};
pub use sigmoid::Sigmoid;
pub use softmax::Softmax;

#[cfg(test)]
mod tests;
