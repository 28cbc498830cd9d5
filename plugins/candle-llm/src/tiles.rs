//! Weights in 8 bits, laid out for the vector unit, and the product of activations with them.
//!
//! candle's packed x86 kernels want rows of a multiple of 256 values; the small models people try
//! first (hidden sizes 576 and 896) miss that and fall to its slow paths, and Q4_1, Q5_0 and Q5_1
//! have no vector code there at all. So every matrix is re-quantised once, at load, to one form:
//! tiles of 16 rows × 32 columns with one scale per row and tile (the precision of Q8_0).
//!
//! Inside a tile the two columns 2p and 2p+1 of all 16 rows lie side by side. One multiply-add of
//! 16-bit pairs then yields a partial sum per row, with no horizontal addition anywhere.
//! Activations are quantised to 14 bits, since the 16-bit multiplier has room for them.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use pulp::NullaryFnOnce;

use crate::pool::{Cursor, Pool, Task};

/// Rows of one tile.
pub const ROWS: usize = 16;
/// Columns of one tile, and values that share a scale.
pub const BLOCK: usize = 32;
const PAIRS: usize = BLOCK / 2;
/// The largest quantised activation: 127 × 16383 × 32 stays below 2³¹.
const ACTIVATION_MAX: f32 = 16_383.0;

type PairOfRows = [i8; 2 * ROWS];

/// A matrix of `rows` × `columns` weights, of which each output value takes one row.
pub struct Matrix {
    rows: usize,
    blocks: usize,
    weights: Vec<PairOfRows>,
    scales: Vec<[f32; ROWS]>,
}

impl Matrix {
    /// Quantises 16 rows at a time. `values` holds whole rows, one after the other; the number of
    /// rows is padded with zeros to a multiple of 16, and the columns are a multiple of 32.
    pub fn quantise(values: &[f32], columns: usize) -> Self {
        let rows = values.len() / columns;
        let blocks = columns / BLOCK;
        let tiles = rows.div_ceil(ROWS);
        let mut weights = vec![[0i8; 2 * ROWS]; tiles * blocks * PAIRS];
        let mut scales = vec![[0f32; ROWS]; tiles * blocks];
        pulp::Arch::new().dispatch(QuantiseRows {
            values,
            blocks,
            weights: &mut weights,
            scales: &mut scales,
        });
        Self { rows, blocks, weights, scales }
    }

    /// Puts matrices of the same width on top of each other. All but the last have a multiple of
    /// 16 rows.
    pub fn stack(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self { rows: 0, blocks: 0, weights: Vec::new(), scales: Vec::new() };
        for part in parts {
            all.rows += part.rows;
            all.blocks = part.blocks;
            all.weights.extend_from_slice(&part.weights);
            all.scales.extend_from_slice(&part.scales);
        }
        all
    }

    /// Number of rows, which is the width of a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, which is the width of the activations.
    pub fn columns(&self) -> usize {
        self.blocks * BLOCK
    }

    /// Bytes this matrix takes.
    pub fn bytes(&self) -> usize {
        self.weights.len() * 2 * ROWS + self.scales.len() * ROWS * 4
    }

    /// Writes one row as numbers: the embedding of a token.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (tile, lane) = (row / ROWS, row % ROWS);
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let at = tile * self.blocks + block;
            let scale = self.scales[at][lane];
            for (pair, out) in out.chunks_exact_mut(2).enumerate() {
                let weights = &self.weights[at * PAIRS + pair];
                out[0] = f32::from(weights[2 * lane]) * scale;
                out[1] = f32::from(weights[2 * lane + 1]) * scale;
            }
        }
    }

    fn tile(&self, tile: usize) -> (&[PairOfRows], &[[f32; ROWS]]) {
        let at = tile * self.blocks;
        (&self.weights[at * PAIRS..][..self.blocks * PAIRS], &self.scales[at..][..self.blocks])
    }
}

struct QuantiseRows<'a> {
    values: &'a [f32],
    blocks: usize,
    weights: &'a mut [PairOfRows],
    scales: &'a mut [[f32; ROWS]],
}

impl NullaryFnOnce for QuantiseRows<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "within ±127 by its scale")]
    fn call(self) {
        for (index, values) in self.values.chunks_exact(BLOCK).enumerate() {
            let (row, block) = (index / self.blocks, index % self.blocks);
            let (tile, lane) = (row / ROWS, row % ROWS);
            let at = tile * self.blocks + block;
            let scale = largest(values) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            self.scales[at][lane] = scale;
            let mut whole = [0i8; BLOCK];
            for (whole, value) in whole.iter_mut().zip(values) {
                *whole = (value * inverse).round_ties_even() as i8;
            }
            let pairs = &mut self.weights[at * PAIRS..][..PAIRS];
            for (weights, whole) in pairs.iter_mut().zip(whole.chunks_exact(2)) {
                weights[2 * lane] = whole[0];
                weights[2 * lane + 1] = whole[1];
            }
        }
    }
}

/// The largest magnitude of a block.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut lanes = [0f32; ROWS];
    for half in values.chunks_exact(ROWS) {
        for lane in 0..ROWS {
            lanes[lane] = lanes[lane].max(half[lane].abs());
        }
    }
    lanes.iter().fold(0f32, |m, v| m.max(*v))
}

/// Rows of activations in 14 bits with a scale per 32 values.
pub struct Activations {
    rows: usize,
    blocks: usize,
    /// Two 16-bit values each, as the multiplier takes them.
    pairs: Vec<i32>,
    scales: Vec<f32>,
}

impl Activations {
    /// Quantises whole rows of `columns` values.
    pub fn quantise(values: &[f32], columns: usize) -> Self {
        let mut all = Self {
            rows: values.len() / columns,
            blocks: columns / BLOCK,
            pairs: vec![0; values.len() / 2],
            scales: vec![0.0; values.len() / BLOCK],
        };
        pulp::Arch::new().dispatch(Quantise { values, to: &mut all });
        all
    }

    fn row(&self, row: usize) -> (&[i32], &[f32]) {
        (
            &self.pairs[row * self.blocks * PAIRS..][..self.blocks * PAIRS],
            &self.scales[row * self.blocks..][..self.blocks],
        )
    }
}

struct Quantise<'a> {
    values: &'a [f32],
    to: &'a mut Activations,
}

impl NullaryFnOnce for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "within ±16383 by its scale")]
    fn call(self) {
        let blocks = self.values.chunks_exact(BLOCK);
        let targets = self.to.pairs.chunks_exact_mut(PAIRS).zip(&mut self.to.scales);
        for (values, (pairs, scale)) in blocks.zip(targets) {
            let largest = largest(values);
            *scale = largest / ACTIVATION_MAX;
            let inverse = if largest > 0.0 { ACTIVATION_MAX / largest } else { 0.0 };
            for (pair, values) in pairs.iter_mut().zip(values.chunks_exact(2)) {
                let low = (values[0] * inverse).round_ties_even() as i32;
                let high = (values[1] * inverse).round_ties_even() as i32;
                *pair = (low & 0xffff) | (high << 16);
            }
        }
    }
}

/// Multiplies: `out[r][n] = Σ activations[r][k] · matrix[n][k]`, row after row.
pub fn multiply(pool: &Pool, activations: &Arc<Activations>, matrix: &Arc<Matrix>) -> Vec<f32> {
    let tiles = matrix.rows.div_ceil(ROWS);
    // Enough pieces to even out the threads, few enough that drawing one costs nothing.
    let pieces = (pool.threads() * 8).min(tiles).max(1);
    let span = tiles.div_ceil(pieces);
    let pieces = tiles.div_ceil(span);
    let done = pool.run(Multiply {
        activations: Arc::clone(activations),
        matrix: Arc::clone(matrix),
        span,
        cursor: Cursor::default(),
        pieces: (0..pieces).map(|_| Mutex::default()).collect(),
    });
    let (rows, width) = (activations.rows, matrix.rows);
    let mut out = vec![0f32; rows * width];
    for (piece, values) in done.pieces.into_iter().enumerate() {
        let values = values.into_inner().unwrap_or_else(PoisonError::into_inner);
        let from = piece * span * ROWS;
        let stride = values.len() / rows.max(1);
        let take = stride.min(width - from);
        for row in 0..rows {
            out[row * width + from..][..take].copy_from_slice(&values[row * stride..][..take]);
        }
    }
    out
}

struct Multiply {
    activations: Arc<Activations>,
    matrix: Arc<Matrix>,
    /// Tiles per piece.
    span: usize,
    cursor: Cursor,
    pieces: Vec<Mutex<Vec<f32>>>,
}

impl Task for Multiply {
    fn work(&self, _thread: usize) {
        let tiles = self.matrix.rows.div_ceil(ROWS);
        while let Some(piece) = self.cursor.next(self.pieces.len()) {
            let first = piece * self.span;
            let last = (first + self.span).min(tiles);
            let mut out = vec![0f32; self.activations.rows * (last - first) * ROWS];
            let job = Piece { task: self, tiles: first..last, out: &mut out };
            match Level::detect() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512(simd) => simd.vectorize(Wide { simd, piece: job }),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2(simd) => simd.vectorize(Narrow { simd, piece: job }),
                Level::Plain => plain(job),
            }
            *self.pieces[piece].lock().unwrap_or_else(PoisonError::into_inner) = out;
        }
    }
}

/// The best instruction set of this processor that has a kernel here.
#[derive(Clone, Copy)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
    Plain,
}

impl Level {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            if let Some(simd) = V4::try_new() {
                return Self::Avx512(simd);
            }
            if let Some(simd) = V3::try_new() {
                return Self::Avx2(simd);
            }
        }
        Self::Plain
    }
}

struct Piece<'a> {
    task: &'a Multiply,
    tiles: std::ops::Range<usize>,
    out: &'a mut [f32],
}

impl Piece<'_> {
    /// Walks the tiles and, per tile, the activation rows in groups that fit the registers.
    #[inline(always)]
    fn each_group(self, mut group: impl FnMut(Group<'_>)) {
        let width = self.tiles.len() * ROWS;
        let rows = self.task.activations.rows;
        for (index, tile) in self.tiles.clone().enumerate() {
            let (weights, scales) = self.task.matrix.tile(tile);
            let mut row = 0;
            while row < rows {
                let size = match rows - row {
                    8.. => 8,
                    4.. => 4,
                    2.. => 2,
                    _ => 1,
                };
                group(Group {
                    weights,
                    scales,
                    activations: &self.task.activations,
                    row,
                    size,
                    out: &mut self.out[row * width + index * ROWS..],
                    width,
                });
                row += size;
            }
        }
    }
}

/// One tile of weights against up to eight rows of activations.
struct Group<'a> {
    weights: &'a [PairOfRows],
    scales: &'a [[f32; ROWS]],
    activations: &'a Activations,
    row: usize,
    size: usize,
    out: &'a mut [f32],
    width: usize,
}

fn plain(piece: Piece<'_>) {
    piece.each_group(|group| {
        for index in 0..group.size {
            let (pairs, scales) = group.activations.row(group.row + index);
            let mut sums = [0f32; ROWS];
            for (block, weight_scales) in group.scales.iter().enumerate() {
                let mut partial = [0i32; ROWS];
                let span = block * PAIRS..(block + 1) * PAIRS;
                for (weights, pair) in group.weights[span.clone()].iter().zip(&pairs[span]) {
                    // The low half with its sign, and the high half.
                    let (low, high) = (pair << 16 >> 16, pair >> 16);
                    for (sum, weights) in partial.iter_mut().zip(weights.chunks_exact(2)) {
                        *sum += i32::from(weights[0]) * low + i32::from(weights[1]) * high;
                    }
                }
                for lane in 0..ROWS {
                    sums[lane] += partial[lane] as f32 * weight_scales[lane] * scales[block];
                }
            }
            group.out[index * group.width..][..ROWS].copy_from_slice(&sums);
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256i};

    use super::{Group, NullaryFnOnce, PAIRS, Piece, ROWS};

    pub(super) struct Wide<'a> {
        pub(super) simd: pulp::x86::V4,
        pub(super) piece: Piece<'a>,
    }

    impl NullaryFnOnce for Wide<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let simd = self.simd;
            self.piece.each_group(
                #[inline(always)]
                |group| match group.size {
                    8 => wide::<8>(simd, group),
                    4 => wide::<4>(simd, group),
                    2 => wide::<2>(simd, group),
                    _ => wide::<1>(simd, group),
                },
            );
        }
    }

    #[inline(always)]
    fn wide<const N: usize>(simd: pulp::x86::V4, group: Group<'_>) {
        let (f, bw) = (simd.avx512f, simd.avx512bw);
        let rows: [_; N] = std::array::from_fn(|index| group.activations.row(group.row + index));
        let mut sums = [f._mm512_setzero_ps(); N];
        for (block, weight_scales) in group.scales.iter().enumerate() {
            let weights = &group.weights[block * PAIRS..][..PAIRS];
            let pairs: [&[i32]; N] =
                std::array::from_fn(|index| &rows[index].0[block * PAIRS..][..PAIRS]);
            let mut partial = [f._mm512_setzero_si512(); N];
            for pair in 0..PAIRS {
                let weights: __m256i = pulp::bytemuck::cast(weights[pair]);
                let weights = bw._mm512_cvtepi8_epi16(weights);
                for index in 0..N {
                    let product =
                        bw._mm512_madd_epi16(weights, f._mm512_set1_epi32(pairs[index][pair]));
                    partial[index] = f._mm512_add_epi32(partial[index], product);
                }
            }
            let weight_scales = pulp::bytemuck::cast(*weight_scales);
            for index in 0..N {
                let scale = f._mm512_mul_ps(weight_scales, f._mm512_set1_ps(rows[index].1[block]));
                sums[index] =
                    f._mm512_fmadd_ps(f._mm512_cvtepi32_ps(partial[index]), scale, sums[index]);
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            let sum: [f32; ROWS] = pulp::bytemuck::cast(sum);
            group.out[index * group.width..][..ROWS].copy_from_slice(&sum);
        }
    }

    pub(super) struct Narrow<'a> {
        pub(super) simd: pulp::x86::V3,
        pub(super) piece: Piece<'a>,
    }

    impl NullaryFnOnce for Narrow<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let simd = self.simd;
            self.piece.each_group(
                #[inline(always)]
                |group| {
                    for index in 0..group.size {
                        let sums = narrow(simd, &group, index);
                        group.out[index * group.width..][..ROWS].copy_from_slice(&sums);
                    }
                },
            );
        }
    }

    #[inline(always)]
    fn narrow(simd: pulp::x86::V3, group: &Group<'_>, index: usize) -> [f32; ROWS] {
        let (avx, avx2, fma) = (simd.avx, simd.avx2, simd.fma);
        let (pairs, scales) = group.activations.row(group.row + index);
        let mut sums = [avx._mm256_setzero_ps(); 2];
        for (block, weight_scales) in group.scales.iter().enumerate() {
            let weights = &group.weights[block * PAIRS..][..PAIRS];
            let pairs = &pairs[block * PAIRS..][..PAIRS];
            let mut partial = [avx._mm256_setzero_si256(); 2];
            for pair in 0..PAIRS {
                let activation = avx._mm256_set1_epi32(pairs[pair]);
                let halves: [__m128i; 2] = pulp::bytemuck::cast(weights[pair]);
                for half in 0..2 {
                    let weights = avx2._mm256_cvtepi8_epi16(halves[half]);
                    let product = avx2._mm256_madd_epi16(weights, activation);
                    partial[half] = avx2._mm256_add_epi32(partial[half], product);
                }
            }
            let weight_scales: [[f32; 8]; 2] = pulp::bytemuck::cast(*weight_scales);
            for half in 0..2 {
                let scale = avx._mm256_mul_ps(
                    pulp::bytemuck::cast(weight_scales[half]),
                    avx._mm256_set1_ps(scales[block]),
                );
                sums[half] =
                    fma._mm256_fmadd_ps(avx._mm256_cvtepi32_ps(partial[half]), scale, sums[half]);
            }
        }
        pulp::bytemuck::cast(sums)
    }
}
#[cfg(target_arch = "x86_64")]
use x86::{Narrow, Wide};

#[cfg(test)]
mod tests;
