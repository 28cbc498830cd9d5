//! `1 / (1 + e⁻ˣ)`, and the activation that is made of it, to about 2⁻²² of the true value.

use pulp::{Simd, WithSimd};

use crate::exp::exp;

/// `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    quotient(simd, x, under(simd, x))
}

#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    quotient(simd, simd.splat_f32s(1.0), under(simd, x))
}

/// 1 + e⁻ˣ.
#[inline(always)]
fn under<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.add_f32s(simd.splat_f32s(1.0), exp(simd, simd.neg_f32s(x)))
}

/// A number divided by one that is above zero, up to e⁸⁶.
#[inline(always)]
pub(crate) fn quotient<S: Simd>(simd: S, above: S::f32s, below: S::f32s) -> S::f32s {
    // A division of a wide vector takes longer than all the rest of a sigmoid.
    if S::REGISTER_COUNT < 32 {
        simd.div_f32s(above, below)
    } else {
        simd.mul_f32s(above, reciprocal(simd, below))
    }
}

/// The difference of the bits is within an eighth, and each of Newton's steps squares the error.
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
#[derive(Debug)]
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

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::*;
    use crate::{Bend, Bent};

    /// From −100 to 100.
    fn range() -> Vec<f32> {
        (-20_000i16..20_001).map(|step| f32::from(step) / 200.0).collect()
    }

    #[test]
    fn silu_is_that_of_the_library_over_its_whole_range() {
        let mut values = range();
        Arch::new().dispatch(Bent { values: &mut values, bend: Bend::Silu });
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
        Arch::new().dispatch(Bent { values: &mut values, bend: Bend::Silu });
        assert!(values[0].is_nan() && values[1] == f32::INFINITY && values[2] == 1000.0);
        let mut values = [f32::NAN; 17];
        Arch::new().dispatch(Sigmoid(&mut values));
        assert!(values.iter().all(|value| value.is_nan()), "nothing is found in them");
    }
}
