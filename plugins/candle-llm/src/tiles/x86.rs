//! The kernels for x86-64. Whole numbers are added exactly, so all of them give what the plain one
//! gives, up to the rounding of the last additions.

#![expect(unsafe_code, reason = "entering a function for an instruction set that was found here")]

use std::arch::{asm, x86_64::*};
use std::is_x86_feature_detected as has;

use pulp::bytemuck::cast;

use super::activations::Values;
use super::{Bits, Group, LINES, Line, Piece, ROWS, Tile};

pub(super) fn has_avx512_vnni() -> bool {
    has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni")
}

pub(super) fn has_avx2() -> bool {
    has!("avx2") && has!("fma") && has!("f16c")
}

pub(super) fn avx512_vnni(piece: Piece<'_>) {
    assert!(has_avx512_vnni());
    // SAFETY: the processor has what the function is compiled for.
    unsafe { wide(piece) }
}

pub(super) fn avx2(piece: Piece<'_>) {
    assert!(has_avx2());
    // SAFETY: the processor has what the function is compiled for.
    unsafe { narrow(piece) }
}

/// Rows of activations that fit the registers together.
const GROUP: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide(piece: Piece<'_>) {
    piece.each_group(GROUP, |group| match group.size {
        GROUP => wide_group::<GROUP>(group),
        4 => wide_group::<4>(group),
        2 => wide_group::<2>(group),
        _ => wide_group::<1>(group),
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide_group<const N: usize>(group: Group<'_>) {
    let rows = group.rows::<N>();
    let sums = match group.tile.bits {
        Bits::Four => wide_sums::<N, 4>(group.tile, &rows),
        Bits::Five => wide_sums::<N, 5>(group.tile, &rows),
        Bits::Eight => wide_sums::<N, 8>(group.tile, &rows),
    };
    for (index, sum) in sums.into_iter().enumerate() {
        let sum: [f32; ROWS] = cast(sum);
        group.out[index * group.width..][..ROWS].copy_from_slice(&sum);
    }
}

/// The lines of a block, a code in each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide_lines<const BITS: usize>(lines: &[Line]) -> [__m512i; LINES] {
    if BITS == 8 {
        return std::array::from_fn(|line| cast(lines[line]));
    }
    let half = LINES / 2;
    let low = _mm512_set1_epi8(15);
    std::array::from_fn(|line| {
        let packed: __m512i = cast(lines[line % half]);
        let packed = if line < half { packed } else { _mm512_srli_epi16::<4>(packed) };
        let code = _mm512_and_si512(packed, low);
        if BITS == 4 {
            return code;
        }
        let bits: __m512i = cast(lines[half]);
        let place = _mm512_set1_epi8(16);
        // Bit `line` of each byte, moved to bit 4.
        let moved = match line {
            0 => _mm512_slli_epi16::<4>(bits),
            1 => _mm512_slli_epi16::<3>(bits),
            2 => _mm512_slli_epi16::<2>(bits),
            3 => _mm512_slli_epi16::<1>(bits),
            4 => bits,
            5 => _mm512_srli_epi16::<1>(bits),
            6 => _mm512_srli_epi16::<2>(bits),
            _ => _mm512_srli_epi16::<3>(bits),
        };
        _mm512_or_si512(code, _mm512_and_si512(moved, place))
    })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide_sums<const N: usize, const BITS: usize>(
    tile: Tile<'_>,
    rows: &[&[Values]; N],
) -> [__m512; N] {
    let count = tile.bits.lines();
    let zero = _mm512_set1_ps(-f32::from(tile.bits.zero()));
    let mut sums = [_mm512_setzero_ps(); N];
    for (block, scales) in tile.scales.iter().enumerate() {
        let lines = wide_lines::<BITS>(&tile.lines[block * count..][..count]);
        let scales = _mm512_cvtph_ps(cast(*scales));
        let least = match tile.least {
            Some(least) => _mm512_cvtph_ps(cast(least[block])),
            None => _mm512_mul_ps(scales, zero),
        };
        for index in 0..N {
            let values = &rows[index][block];
            let mut whole = _mm512_setzero_si512();
            for (codes, quad) in lines.iter().zip(values.quads) {
                let quad = _mm512_set1_epi32(i32::from_ne_bytes(cast(quad)));
                whole = _mm512_dpbusd_epi32(whole, *codes, quad);
            }
            let step = _mm512_mul_ps(scales, _mm512_set1_ps(values.scale));
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), step, sums[index]);
            sums[index] = _mm512_fmadd_ps(least, _mm512_set1_ps(values.sum), sum);
        }
    }
    sums
}

/// Rows of activations that fit half as many registers of half the width.
const NARROW_GROUP: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
fn narrow(piece: Piece<'_>) {
    piece.each_group(NARROW_GROUP, |group| match group.size {
        NARROW_GROUP => narrow_group::<NARROW_GROUP>(group),
        2 => narrow_group::<2>(group),
        _ => narrow_group::<1>(group),
    });
}

#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_group<const N: usize>(group: Group<'_>) {
    let rows = group.rows::<N>();
    let sums = match group.tile.bits {
        Bits::Four => narrow_sums::<N, 4>(group.tile, &rows),
        Bits::Five => narrow_sums::<N, 5>(group.tile, &rows),
        Bits::Eight => narrow_sums::<N, 8>(group.tile, &rows),
    };
    for (index, sum) in sums.into_iter().enumerate() {
        let sum: [f32; ROWS] = cast(sum);
        group.out[index * group.width..][..ROWS].copy_from_slice(&sum);
    }
}

/// The codes of one line, 8 rows each; those of 8 bits as whole numbers with a sign.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_line<const BITS: usize>(lines: &[Line], line: usize) -> [__m256i; 2] {
    let halves = |line: usize| -> [__m256i; 2] { cast(lines[line]) };
    if BITS == 8 {
        return halves(line).map(|codes| _mm256_xor_si256(codes, _mm256_set1_epi8(-128)));
    }
    let half = LINES / 2;
    let low = _mm256_set1_epi8(15);
    let codes = halves(line % half).map(|packed| {
        let packed = if line < half { packed } else { _mm256_srli_epi16::<4>(packed) };
        _mm256_and_si256(packed, low)
    });
    if BITS == 4 {
        return codes;
    }
    let highest = halves(half);
    let place = _mm256_set1_epi8(16);
    std::array::from_fn(|side| {
        let bits = highest[side];
        // Bit `line` of each byte, moved to bit 4.
        let moved = match line {
            0 => _mm256_slli_epi16::<4>(bits),
            1 => _mm256_slli_epi16::<3>(bits),
            2 => _mm256_slli_epi16::<2>(bits),
            3 => _mm256_slli_epi16::<1>(bits),
            4 => bits,
            5 => _mm256_srli_epi16::<1>(bits),
            6 => _mm256_srli_epi16::<2>(bits),
            _ => _mm256_srli_epi16::<3>(bits),
        };
        _mm256_or_si256(codes[side], _mm256_and_si256(moved, place))
    })
}

/// Holds the compiler to the order of lines. It would broadcast all activations of a block first
/// and put them and the codes on the stack, which takes twice as long.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_this_order<const N: usize>(pairs: &mut [[__m256i; 2]; N]) {
    for half in pairs.as_flattened_mut() {
        // SAFETY: it holds no instruction.
        unsafe {
            asm!("/* {0} */", inout(ymm_reg) * half, options(nomem, nostack, preserves_flags))
        };
    }
}

/// Adds the products of some lines of a block to whole numbers.
///
/// The multiplier adds its products in pairs of 16 bits. Codes of 4 bits leave room there for all
/// lines of a block (8 · 2 · 15 · 127 = 30,480), those of 5 bits for half of them. Those of 8 bits
/// leave none, and are multiplied by their magnitude with activations that have their sign: a pair
/// of products with codes up to 255 would not fit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_products<const N: usize, const BITS: usize, const FIRST: usize, const COUNT: usize>(
    lines: &[Line],
    values: &[&Values; N],
    sums: &mut [[__m256i; 2]; N],
) {
    let mut pairs = [[_mm256_setzero_si256(); 2]; N];
    for line in FIRST..FIRST + COUNT {
        let codes = narrow_line::<BITS>(lines, line);
        for index in 0..N {
            let quad = _mm256_set1_epi32(i32::from_ne_bytes(cast(values[index].quads[line])));
            for side in 0..2 {
                let products = if BITS == 8 {
                    let magnitude = _mm256_abs_epi8(codes[side]);
                    _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(quad, codes[side]))
                } else {
                    _mm256_maddubs_epi16(codes[side], quad)
                };
                pairs[index][side] = _mm256_add_epi16(pairs[index][side], products);
            }
        }
        in_this_order(&mut pairs);
    }
    for index in 0..N {
        for side in 0..2 {
            let whole = _mm256_madd_epi16(pairs[index][side], _mm256_set1_epi16(1));
            sums[index][side] = _mm256_add_epi32(sums[index][side], whole);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_sums<const N: usize, const BITS: usize>(
    tile: Tile<'_>,
    rows: &[&[Values]; N],
) -> [[__m256; 2]; N] {
    let count = tile.bits.lines();
    // Codes of 8 bits have a sign here: they are counted from the middle.
    let middle = _mm256_set1_ps(if BITS == 8 { f32::from(tile.bits.zero()) } else { 0.0 });
    let zero = _mm256_set1_ps(-f32::from(tile.bits.zero()));
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    for (block, scales) in tile.scales.iter().enumerate() {
        let lines = &tile.lines[block * count..][..count];
        let values = std::array::from_fn(|index| &rows[index][block]);
        let whole = narrow_block::<N, BITS>(lines, &values);
        let scales: [__m128i; 2] = cast(*scales);
        let scales = scales.map(|scales| _mm256_cvtph_ps(scales));
        let least: Option<[__m128i; 2]> = tile.least.map(|least| cast(least[block]));
        let least: [__m256; 2] = std::array::from_fn(|side| {
            let of_zero = match least {
                Some(least) => _mm256_cvtph_ps(least[side]),
                None => _mm256_mul_ps(scales[side], zero),
            };
            _mm256_fmadd_ps(scales[side], middle, of_zero)
        });
        for index in 0..N {
            let scale = _mm256_set1_ps(values[index].scale);
            let sum = _mm256_set1_ps(values[index].sum);
            for side in 0..2 {
                let step = _mm256_mul_ps(scales[side], scale);
                let whole = _mm256_cvtepi32_ps(whole[index][side]);
                let added = _mm256_fmadd_ps(whole, step, sums[index][side]);
                sums[index][side] = _mm256_fmadd_ps(least[side], sum, added);
            }
        }
    }
    sums
}

/// The products of a block, added up in whole numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_block<const N: usize, const BITS: usize>(
    lines: &[Line],
    values: &[&Values; N],
) -> [[__m256i; 2]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    match BITS {
        4 => narrow_products::<N, BITS, 0, LINES>(lines, values, &mut sums),
        5 => {
            narrow_products::<N, BITS, 0, { LINES / 2 }>(lines, values, &mut sums);
            narrow_products::<N, BITS, { LINES / 2 }, { LINES / 2 }>(lines, values, &mut sums);
        }
        _ => {
            narrow_products::<N, BITS, 0, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 1, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 2, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 3, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 4, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 5, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 6, 1>(lines, values, &mut sums);
            narrow_products::<N, BITS, 7, 1>(lines, values, &mut sums);
        }
    }
    sums
}
