//! eˣ over whole vectors.

use pulp::Simd;

/// Beyond it the power, or its reciprocal, leaves the normal numbers.
const FAR: f32 = 86.0;

/// eˣ between −[`FAR`] and [`FAR`]: a power of two by way of the exponent's bits, the rest by a polynomial
/// over ± ln 2 / 2 (minimax: Taylor's of the same degree is off by three bits more, always downwards).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
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
    let mut sum = simd.splat_f32s(1.393_454_5e-3);
    for factor in [8.363_777e-3, 4.166_645_6e-2, 0.166_665_73, 0.5, 1.0, 1.0] {
        sum = simd.mul_add_e_f32s(sum, rest, simd.splat_f32s(factor));
    }
    let bits = simd.transmute_u32s_f32s(rounded);
    let shifted = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    let power = simd.add_u32s(shifted, simd.splat_u32s(1.0f32.to_bits()));
    simd.mul_f32s(sum, simd.transmute_f32s_u32s(power))
}
