//! What both families share: the interface of a network and the raw form of what it sees.

use pulp::Arch;
use qudao_kernels::Sigmoid;

use crate::ops::{Grid, Ops};

/// How a family wants its pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Blue, green, red from 0 to 255.
    BgrBytes,
    /// Red, green, blue from 0 to 1.
    RgbUnit,
}

/// What a network says of every place it looks at: per place centre, width and height of a box in
/// pixels of the picture that went in, how sure it is that something is there, and a score per class.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// How many classes.
    pub classes: usize,
    /// `5 + classes` numbers per place.
    pub values: Vec<f32>,
}

/// A detector, computed by `O`.
pub trait Network<O: Ops>: Send + Sync {
    /// How many classes it knows.
    fn classes(&self) -> usize;
    /// How it wants its pictures.
    fn colours(&self) -> Colours;
    /// Looks at a square picture whose side is a multiple of 32.
    ///
    /// # Errors
    /// What the device says.
    fn look(&self, ops: &O, picture: &Grid) -> candle_core::Result<Sight>;
}

/// Puts `1 / (1 + e⁻ˣ)` in the place of each number.
pub(crate) fn sigmoid(numbers: &mut [f32]) {
    Arch::new().dispatch(Sigmoid(numbers));
}

/// Centre of a cell, or its corner, in cells: small whole numbers, so exact.
#[expect(clippy::cast_precision_loss, reason = "numbers below 2²⁴")]
pub(crate) fn cells(count: usize) -> f32 {
    count as f32
}
