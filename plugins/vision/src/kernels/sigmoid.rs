//! `1 / (1 + e⁻ˣ)`, and the activation that is made of it, over whole vectors and to about 2⁻²² of the
//! true value.

use pulp::{Simd, WithSimd};

/// Beyond it the sigmoid is one or all but zero, and its reciprocal leaves the normal numbers.
const FAR: f32 = 86.0;

/// `x · sigmoid(x)`.
#[inline(always)]
pub(super) fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.mul_f32s(x, sigmoid(simd, x))
}

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let power = exp(simd, simd.neg_f32s(x));
    reciprocal(simd, simd.add_f32s(simd.splat_f32s(1.0), power))
}

/// eˣ between −[`FAR`] and [`FAR`]: a power of two by way of the exponent's bits, the rest by a polynomial
/// (the Taylor series to the sixth power, over ± ln 2 / 2).
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Added, it leaves the nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = simd.max_f32s(x, simd.splat_f32s(-FAR));
    let x = simd.min_f32s(x, simd.splat_f32s(FAR));
    let log2_e = simd.splat_f32s(std::f32::consts::LOG2_E);
    let rounded = simd.mul_add_e_f32s(x, log2_e, simd.splat_f32s(ROUND));
    let whole = simd.sub_f32s(rounded, simd.splat_f32s(ROUND));
    let rest = simd.negate_mul_add_e_f32s(whole, simd.splat_f32s(LN2_HIGH), x);
    let rest = simd.negate_mul_add_e_f32s(whole, simd.splat_f32s(LN2_LOW), rest);
    let mut sum = simd.splat_f32s(1.0 / 720.0);
    for factor in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = simd.mul_add_e_f32s(sum, rest, simd.splat_f32s(factor));
    }
    let bits = simd.transmute_u32s_f32s(rounded);
    let shifted = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    let power = simd.add_u32s(shifted, simd.splat_u32s(1.0f32.to_bits()));
    simd.mul_f32s(sum, simd.transmute_f32s_u32s(power))
}

/// One over a number from 1 to e⁸⁶. A division of a vector takes longer than all the rest of a sigmoid:
/// the difference of the bits is within an eighth, and each of Newton's steps squares the error.
#[inline(always)]
fn reciprocal<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const MAGIC: u32 = 0x7ef3_11c3;
    let bits = simd.sub_u32s(simd.splat_u32s(MAGIC), simd.transmute_u32s_f32s(x));
    let mut guess = simd.transmute_f32s_u32s(bits);
    for _ in 0..3 {
        let error = simd.negate_mul_add_e_f32s(x, guess, simd.splat_f32s(1.0));
        guess = simd.mul_add_e_f32s(guess, error, guess);
    }
    guess
}

/// The sigmoid of numbers; what is none stays none, where the bounds of [`exp`] would make it a number.
#[inline(always)]
fn known<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.select_f32s(simd.equal_f32s(x, x), sigmoid(simd, x), x)
}

/// Puts the sigmoid in the place of each number.
pub struct Sigmoid<'a>(pub &'a mut [f32]);

impl WithSimd for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (vectors, rest) = S::as_mut_simd_f32s(self.0);
        for vector in vectors {
            *vector = known(simd, *vector);
        }
        let last = known(simd, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, last);
    }
}

/// Puts `x · sigmoid(x)` in the place of each number.
pub struct Silu<'a>(pub &'a mut [f32]);

impl WithSimd for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (vectors, rest) = S::as_mut_simd_f32s(self.0);
        for vector in vectors {
            *vector = silu(simd, *vector);
        }
        let last = silu(simd, simd.partial_load_f32s(rest));
        simd.partial_store_f32s(rest, last);
    }
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::*;

    /// From −100 to 100.
    fn range() -> Vec<f32> {
        (-20_000i16..20_001).map(|step| f32::from(step) / 200.0).collect()
    }

    #[test]
    fn silu_is_that_of_the_library_over_its_whole_range() {
        let mut values = range();
        Arch::new().dispatch(Silu(&mut values));
        for (value, x) in values.iter().zip(range()) {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(*value) - exact).abs();
            assert!(error <= 1e-6 * exact.abs() + 1e-35, "{value} for {exact}");
        }
    }

    #[test]
    fn a_sigmoid_is_that_of_the_library_over_its_whole_range() {
        let mut values = range();
        Arch::new().dispatch(Sigmoid(&mut values));
        for (value, x) in values.iter().zip(range()) {
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(*value) - exact).abs();
            assert!(error <= 1e-6 * exact + 1e-37, "{value} for {exact}");
            assert!((0.0..=1.000_001).contains(value), "{value}");
        }
    }

    #[test]
    fn numbers_that_are_none_stay_none() {
        let mut values = [f32::NAN, f32::INFINITY, 1000.0];
        Arch::new().dispatch(Silu(&mut values));
        assert!(values[0].is_nan() && values[1] == f32::INFINITY && values[2] == 1000.0);
        let mut values = [f32::NAN; 17];
        Arch::new().dispatch(Sigmoid(&mut values));
        assert!(values.iter().all(|value| value.is_nan()), "nothing is found in them");
    }
}
