//! What follows a multiplication, number by number.

use pulp::{Simd, WithSimd};

use crate::sigmoid::{quotient, silu};

/// How outputs are bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// Not at all.
    Straight,
    /// `x · sigmoid(x)`.
    Silu,
    /// The Gaussian error linear unit, `x · Φ(x)`.
    Gelu,
}

impl Bend {
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        match self {
            Self::Straight => x,
            Self::Silu => silu(simd, x),
            Self::Gelu => gelu(simd, x),
        }
    }

    /// Bends numbers in place.
    #[inline(always)]
    pub(crate) fn over<S: Simd>(self, simd: S, values: &mut [f32]) {
        let (vectors, rest) = S::as_mut_simd_f32s(values);
        for vector in vectors {
            *vector = self.apply(simd, *vector);
        }
        if !rest.is_empty() {
            let last = self.apply(simd, simd.partial_load_f32s(rest));
            simd.partial_store_f32s(rest, last);
        }
    }
}

/// Bends each number.
#[derive(Debug)]
pub struct Bent<'a> {
    /// The numbers, which stay where they are.
    pub values: &'a mut [f32],
    /// How.
    pub bend: Bend,
}

impl WithSimd for Bent<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.bend.over(simd, self.values);
    }
}

/// x · Φ(x), with the error function as a quotient of polynomials: off by no more
/// than 2e-6.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let scaled = simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2));
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    simd.mul_add_e_f32s(half, erf(simd, scaled), half)
}

/// A minimax quotient on [-4, 4]; beyond, the function is ±1 in single precision.
#[inline(always)]
fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = simd.max_f32s(x, simd.splat_f32s(-4.0));
    let x = simd.min_f32s(x, simd.splat_f32s(4.0));
    let square = simd.mul_f32s(x, x);
    let mut above = simd.splat_f32s(ABOVE[0]);
    for factor in &ABOVE[1..] {
        above = simd.mul_add_e_f32s(above, square, simd.splat_f32s(*factor));
    }
    // Both are below zero everywhere; a quotient wants a divisor above.
    let mut below = simd.splat_f32s(-BELOW[0]);
    for factor in &BELOW[1..] {
        below = simd.mul_add_e_f32s(below, square, simd.splat_f32s(-*factor));
    }
    let above = simd.mul_f32s(simd.neg_f32s(above), x);
    quotient(simd, above, below)
}
