//! The kernels for x86-64. Whole numbers are added exactly, so all of them give what the plain one
//! gives, up to the rounding of the last additions.

#![expect(unsafe_code, reason = "entering a function for an instruction set that was found here")]

use std::arch::x86_64::*;
use std::is_x86_feature_detected as has;

use pulp::bytemuck::cast;

use super::activations::Row;
use super::{Bits, GROUP, Group, LINES, Line, Piece, ROWS, Tile};

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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide(piece: Piece<'_>) {
    piece.each_group(|group| match group.size {
        GROUP => wide_group::<GROUP>(group),
        4 => wide_group::<4>(group),
        2 => wide_group::<2>(group),
        _ => wide_group::<1>(group),
    });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn wide_group<const N: usize>(group: Group<'_>) {
    let rows: [Row<'_>; N] = std::array::from_fn(|index| group.activations.row(group.row + index));
    let sums = match (group.tile.bits, group.tile.least.is_some()) {
        (Bits::Four, false) => wide_sums::<N, 4, false>(group.tile, &rows),
        (Bits::Four, true) => wide_sums::<N, 4, true>(group.tile, &rows),
        (Bits::Five, false) => wide_sums::<N, 5, false>(group.tile, &rows),
        (Bits::Five, true) => wide_sums::<N, 5, true>(group.tile, &rows),
        (Bits::Eight, false) => wide_sums::<N, 8, false>(group.tile, &rows),
        (Bits::Eight, true) => wide_sums::<N, 8, true>(group.tile, &rows),
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
fn wide_sums<const N: usize, const BITS: usize, const LEAST: bool>(
    tile: Tile<'_>,
    rows: &[Row<'_>; N],
) -> [__m512; N] {
    let count = tile.bits.lines();
    let zero = i32::from(tile.bits.zero());
    let mut sums = [_mm512_setzero_ps(); N];
    for (block, scales) in tile.scales.iter().enumerate() {
        let lines = wide_lines::<BITS>(&tile.lines[block * count..][..count]);
        let scales = _mm512_cvtph_ps(cast(*scales));
        let mut partial: [__m512i; N] = std::array::from_fn(|index| {
            if LEAST {
                _mm512_setzero_si512()
            } else {
                _mm512_set1_epi32(-zero * rows[index].sums[block])
            }
        });
        for index in 0..N {
            let quads = &rows[index].quads[block * LINES..][..LINES];
            for line in 0..LINES {
                let quad = _mm512_set1_epi32(i32::from_ne_bytes(cast(quads[line])));
                partial[index] = _mm512_dpbusd_epi32(partial[index], lines[line], quad);
            }
        }
        for index in 0..N {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows[index].scales[block]));
            sums[index] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(partial[index]), scale, sums[index]);
        }
        if LEAST {
            let least = tile.least.map_or([0; ROWS], |least| least[block]);
            let least = _mm512_cvtph_ps(cast(least));
            for index in 0..N {
                let sum = rows[index].sums[block] as f32 * rows[index].scales[block];
                sums[index] = _mm512_fmadd_ps(least, _mm512_set1_ps(sum), sums[index]);
            }
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
fn narrow(piece: Piece<'_>) {
    piece.each_group(|group| {
        for index in 0..group.size {
            let row = group.activations.row(group.row + index);
            let sums = narrow_sums(group.tile, row);
            group.out[index * group.width..][..ROWS].copy_from_slice(&sums);
        }
    });
}

/// The codes of one line, 8 rows each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_line(bits: Bits, lines: &[Line], line: usize) -> [__m256i; 2] {
    let halves = |line: usize| -> [__m256i; 2] { cast(lines[line]) };
    if bits == Bits::Eight {
        return halves(line);
    }
    let half = LINES / 2;
    let packed = halves(line % half);
    let shift = _mm_cvtsi32_si128(if line < half { 0 } else { 4 });
    let codes = packed
        .map(|packed| _mm256_and_si256(_mm256_srl_epi16(packed, shift), _mm256_set1_epi8(15)));
    if bits == Bits::Four {
        return codes;
    }
    let highest = halves(half);
    let wanted = _mm256_set1_epi8(cast(1u8 << line));
    std::array::from_fn(|side| {
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(highest[side], wanted), wanted);
        _mm256_or_si256(codes[side], _mm256_and_si256(is_set, _mm256_set1_epi8(16)))
    })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow_sums(tile: Tile<'_>, row: Row<'_>) -> [f32; ROWS] {
    let count = tile.bits.lines();
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_ps(); 2];
    for (block, scales) in tile.scales.iter().enumerate() {
        let lines = &tile.lines[block * count..][..count];
        let quads = &row.quads[block * LINES..][..LINES];
        // Codes of 8 bits are multiplied with their sign: two products of unsigned ones would
        // not fit 16 bits.
        let signed = tile.bits == Bits::Eight;
        let zero = i32::from(tile.bits.zero()) * row.sums[block];
        let start = match (signed, tile.least.is_some()) {
            (true, true) => zero,
            (false, false) => -zero,
            _ => 0,
        };
        let mut partial = [_mm256_set1_epi32(start); 2];
        for (line, quad) in quads.iter().enumerate() {
            let quad = _mm256_set1_epi32(i32::from_ne_bytes(cast(*quad)));
            let codes = narrow_line(tile.bits, lines, line);
            for side in 0..2 {
                let products = if signed {
                    let code = _mm256_xor_si256(codes[side], _mm256_set1_epi8(-128));
                    _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(quad, code))
                } else {
                    _mm256_maddubs_epi16(codes[side], quad)
                };
                let products = _mm256_madd_epi16(products, ones);
                partial[side] = _mm256_add_epi32(partial[side], products);
            }
        }
        let scales: [__m128i; 2] = cast(*scales);
        let least: Option<[__m128i; 2]> = tile.least.map(|least| cast(least[block]));
        let sum = row.sums[block] as f32 * row.scales[block];
        for side in 0..2 {
            let scale =
                _mm256_mul_ps(_mm256_cvtph_ps(scales[side]), _mm256_set1_ps(row.scales[block]));
            sums[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(partial[side]), scale, sums[side]);
            if let Some(least) = least {
                let least = _mm256_cvtph_ps(least[side]);
                sums[side] = _mm256_fmadd_ps(least, _mm256_set1_ps(sum), sums[side]);
            }
        }
    }
    cast(sums)
}
