//! Texts into vectors by encoders of the BERT family, on the machine's own processor: what the plugins
//! `embedder` and `sentiment` have in common.
//!
//! The tokens of all texts of a batch stand one below the other in one matrix: nothing is padded, so a
//! batch of long and short texts costs what its tokens cost, and no text feels its neighbours.

mod error;
mod file;
mod gradient;
mod layer;
mod model;
mod placed;
mod queue;
mod share;
mod text;

pub use error::EncoderError;
pub use file::{Card, Network};
pub use model::{BATCH_TOKENS, Encoder};
pub use queue::{Job, Place, Queue};
pub use text::{Read, Word};
