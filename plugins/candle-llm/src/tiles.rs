//! Weights in 4, 5 or 8 bits, laid out for the vector unit, and the product of activations with them.
//!
//! candle's packed x86 kernels know few of the types that published files use and want rows of a
//! multiple of 256 values; the small models people try first miss both and fall to its slow paths.
//! So every matrix is laid out anew at load, in tiles of 16 rows × 32 columns, in the precision that
//! the file has: whole numbers of 4, 5 or 8 bits with a scale per row and tile and, for the types
//! that have one, a least value.
//!
//! A line of a tile holds four columns of all 16 rows. One instruction multiplies its 64 numbers with
//! four activations and adds the products per row, with no addition across rows anywhere.
//! Activations are quantised to 8 bits, as llama.cpp does for these types. Each row of activations is
//! computed in the same order however many there are, so a reply does not depend on its neighbours.

use std::sync::{Arc, Mutex, PoisonError};

use half::f16;

use crate::pool::{Cursor, Pool, Task};

pub use activations::Activations;
use activations::{Values, largest};

mod activations;

/// Rows of one tile.
pub const ROWS: usize = 16;
/// Columns of one tile, and values that share a scale.
pub const BLOCK: usize = 32;
/// Columns of a line.
const QUAD: usize = 4;
/// Lines of a tile, unpacked.
const LINES: usize = BLOCK / QUAD;
/// Four columns of 16 rows.
type Line = [u8; QUAD * ROWS];
/// A number for each row, as 16-bit floating point.
type PerRow = [u16; ROWS];

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Two lines share one: the first four in the low halves.
    Four,
    /// As four, and one more line with the highest bits.
    Five,
    /// A line each.
    Eight,
}

impl Bits {
    const fn lines(self) -> usize {
        match self {
            Self::Four => LINES / 2,
            Self::Five => LINES / 2 + 1,
            Self::Eight => LINES,
        }
    }

    /// What stands for zero where a tile has no least values.
    pub const fn zero(self) -> u8 {
        match self {
            Self::Four => 8,
            Self::Five => 16,
            Self::Eight => 128,
        }
    }
}

/// 32 weights of one row: `scale · code + least`.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Whole numbers from 0.
    pub codes: [u8; BLOCK],
    /// The width of a step.
    pub scale: f16,
    /// The value of code 0; for matrices that have one.
    pub least: f16,
}

impl Weights {
    /// Quantises to 8 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 255")]
    pub fn quantise(values: &[f32]) -> Self {
        let scale = f16::from_f32(largest(values) / 127.0);
        let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
        let mut codes = [Bits::Eight.zero(); BLOCK];
        for (code, value) in codes.iter_mut().zip(values) {
            *code = ((value * inverse).round_ties_even().clamp(-127.0, 127.0) + 128.0) as u8;
        }
        Self { codes, scale, least: f16::ZERO }
    }
}

/// Rows of one kind.
struct Part {
    bits: Bits,
    /// First tile.
    from: usize,
    lines: Vec<Line>,
    scales: Vec<PerRow>,
    /// Empty where code [`Bits::zero`] means 0.
    least: Vec<PerRow>,
}

/// A matrix of `rows` × `columns` weights, of which each output value takes one row.
pub struct Matrix {
    rows: usize,
    blocks: usize,
    parts: Vec<Part>,
    /// How many rows there will be, so that memory is asked for once.
    expected: usize,
}

impl Matrix {
    /// Lays out whole rows, one after the other; the number of rows is padded with zeros to a
    /// multiple of 16.
    pub fn pack(bits: Bits, has_least: bool, weights: &[Weights], blocks: usize) -> Self {
        let rows = weights.len() / blocks;
        let tiles = rows.div_ceil(ROWS) * blocks;
        let empty = if bits == Bits::Eight { bits.zero() } else { 0 };
        let mut part = Part {
            bits,
            from: 0,
            lines: vec![[empty; QUAD * ROWS]; tiles * bits.lines()],
            scales: vec![[0; ROWS]; tiles],
            least: vec![[0; ROWS]; if has_least { tiles } else { 0 }],
        };
        for (index, weights) in weights.iter().enumerate() {
            let (row, block) = (index / blocks, index % blocks);
            part.put((row / ROWS) * blocks + block, row % ROWS, weights);
        }
        Self { rows, blocks, parts: vec![part], expected: rows }
    }

    /// Quantises rows of plain numbers to 8 bits.
    pub fn quantise(values: &[f32], columns: usize) -> Self {
        let weights: Vec<Weights> = values.chunks_exact(BLOCK).map(Weights::quantise).collect();
        Self::pack(Bits::Eight, false, &weights, columns / BLOCK)
    }

    /// A matrix without rows, to which others are appended until it has so many.
    pub fn with_room_for(rows: usize) -> Self {
        Self { rows: 0, blocks: 0, parts: Vec::new(), expected: rows }
    }

    /// Puts another matrix of the same width below this one, which has a multiple of 16 rows.
    pub fn append(&mut self, other: Self) {
        let tiles = self.rows / ROWS;
        self.rows += other.rows;
        self.blocks = other.blocks;
        for mut part in other.parts {
            part.from += tiles;
            match self.parts.last_mut() {
                Some(last) if last.is_like(&part) => last.append(part),
                _ => {
                    let left = self.expected.div_ceil(ROWS).saturating_sub(tiles);
                    part.reserve(left * self.blocks);
                    self.parts.push(part);
                }
            }
        }
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
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Writes one row as numbers: the embedding of a token.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let tile = self.tile(row / ROWS);
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let (scale, least) = tile.step(block, row % ROWS);
            for (column, out) in out.iter_mut().enumerate() {
                *out = f32::from(tile.code(block, row % ROWS, column)) * scale + least;
            }
        }
    }

    fn tile(&self, tile: usize) -> Tile<'_> {
        let at = self.parts.partition_point(|part| part.from <= tile) - 1;
        let part = &self.parts[at];
        let first = (tile - part.from) * self.blocks;
        let lines = part.bits.lines();
        Tile {
            bits: part.bits,
            lines: &part.lines[first * lines..][..self.blocks * lines],
            scales: &part.scales[first..][..self.blocks],
            least: part.least.get(first..first + self.blocks),
        }
    }
}

impl Part {
    fn is_like(&self, other: &Self) -> bool {
        self.bits == other.bits && self.least.is_empty() == other.least.is_empty()
    }

    fn reserve(&mut self, tiles: usize) {
        let more = tiles.saturating_sub(self.scales.len());
        self.lines.reserve_exact(more * self.bits.lines());
        self.scales.reserve_exact(more);
        if !self.least.is_empty() {
            self.least.reserve_exact(more);
        }
    }

    fn append(&mut self, other: Self) {
        self.lines.extend_from_slice(&other.lines);
        self.scales.extend_from_slice(&other.scales);
        self.least.extend_from_slice(&other.least);
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.lines) + size_of_val(&*self.scales) + size_of_val(&*self.least)
    }

    fn put(&mut self, at: usize, lane: usize, weights: &Weights) {
        self.scales[at][lane] = weights.scale.to_bits();
        if let Some(least) = self.least.get_mut(at) {
            least[lane] = weights.least.to_bits();
        }
        let count = self.bits.lines();
        let lines = &mut self.lines[at * count..][..count];
        for (column, code) in weights.codes.iter().enumerate() {
            let (line, byte) = (column / QUAD, lane * QUAD + column % QUAD);
            if self.bits == Bits::Eight {
                lines[line][byte] = *code;
                continue;
            }
            let half = LINES / 2;
            lines[line % half][byte] |= (code & 15) << (line / half * 4);
            if self.bits == Bits::Five {
                lines[half][byte] |= (code >> 4) << line;
            }
        }
    }
}

/// 16 rows.
#[derive(Clone, Copy)]
struct Tile<'a> {
    bits: Bits,
    lines: &'a [Line],
    scales: &'a [PerRow],
    least: Option<&'a [PerRow]>,
}

impl Tile<'_> {
    fn code(&self, block: usize, lane: usize, column: usize) -> u8 {
        let count = self.bits.lines();
        let lines = &self.lines[block * count..][..count];
        let (line, byte) = (column / QUAD, lane * QUAD + column % QUAD);
        let half = LINES / 2;
        let low = || lines[line % half][byte] >> (line / half * 4) & 15;
        match self.bits {
            Bits::Four => low(),
            Bits::Five => low() | (lines[half][byte] >> line & 1) << 4,
            Bits::Eight => lines[line][byte],
        }
    }

    /// The scale of a row and the value of code 0.
    fn step(&self, block: usize, lane: usize) -> (f32, f32) {
        let scale = f16::from_bits(self.scales[block][lane]).to_f32();
        let least = match self.least {
            Some(least) => f16::from_bits(least[block][lane]).to_f32(),
            None => -f32::from(self.bits.zero()) * scale,
        };
        (scale, least)
    }
}

/// What a multiplication gives: `out[r][n] = Σ activations[r][k] · matrix[n][k]`, in the pieces that
/// its threads made.
pub struct Product {
    rows: usize,
    width: usize,
    /// Values of a row in each piece but the last.
    span: usize,
    pieces: Vec<Vec<f32>>,
}

impl Product {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Copies a row.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        for (piece, out) in self.pieces.iter().zip(out.chunks_mut(self.span)) {
            let stride = piece.len() / self.rows;
            out.copy_from_slice(&piece[row * stride..][..out.len()]);
        }
    }

    /// Row after row.
    pub fn to_rows(&self) -> Vec<f32> {
        let mut all = vec![0f32; self.rows * self.width];
        for (row, out) in all.chunks_exact_mut(self.width.max(1)).enumerate() {
            self.read(row, out);
        }
        all
    }
}

/// Multiplies.
pub fn multiply(pool: &Pool, activations: Activations, matrix: &Arc<Matrix>) -> Product {
    let tiles = matrix.rows.div_ceil(ROWS);
    // Enough pieces to even out the threads, few enough that drawing one costs nothing.
    let pieces = (pool.threads() * 8).min(tiles).max(1);
    let span = tiles.div_ceil(pieces).max(1);
    let pieces = tiles.div_ceil(span);
    let (rows, width) = (activations.rows, matrix.rows);
    let done = pool.run(Multiply {
        activations,
        matrix: Arc::clone(matrix),
        span,
        cursor: Cursor::default(),
        pieces: (0..pieces).map(|_| Mutex::default()).collect(),
    });
    let pieces = done.pieces.into_iter();
    let pieces = pieces.map(|piece| piece.into_inner().unwrap_or_else(PoisonError::into_inner));
    Product { rows, width, span: span * ROWS, pieces: pieces.collect() }
}

struct Multiply {
    activations: Activations,
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
            Level::detect().run(Piece { task: self, tiles: first..last, out: &mut out });
            *self.pieces[piece].lock().unwrap_or_else(PoisonError::into_inner) = out;
        }
    }
}

/// Some tiles against all rows of activations.
struct Piece<'a> {
    task: &'a Multiply,
    tiles: std::ops::Range<usize>,
    out: &'a mut [f32],
}

/// One tile against some rows of activations.
struct Group<'a> {
    tile: Tile<'a>,
    activations: &'a Activations,
    row: usize,
    size: usize,
    out: &'a mut [f32],
    width: usize,
}

impl<'a> Group<'a> {
    /// The rows, each as long as the tile is wide.
    #[inline]
    fn rows<const N: usize>(&self) -> [&'a [Values]; N] {
        std::array::from_fn(|index| {
            &self.activations.row(self.row + index)[..self.tile.scales.len()]
        })
    }
}

impl Piece<'_> {
    /// Walks the tiles and, per tile, the activation rows in groups: of `most` as long as there are
    /// so many, then of 4, 2 and 1.
    #[inline]
    fn each_group(self, most: usize, mut group: impl FnMut(Group<'_>)) {
        let width = self.tiles.len() * ROWS;
        let rows = self.task.activations.rows;
        for (index, tile) in self.tiles.clone().enumerate() {
            let tile = self.task.matrix.tile(tile);
            let mut row = 0;
            while row < rows {
                let size = match rows - row {
                    left if left >= most => most,
                    4.. => 4,
                    2.. => 2,
                    _ => 1,
                };
                group(Group {
                    tile,
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

/// The best instruction set of this processor that has a kernel here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Level {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx512_vnni() {
            return Self::Avx512Vnni;
        } else if x86::has_avx2() {
            return Self::Avx2;
        }
        Self::Plain
    }

    fn run(self, piece: Piece<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86::avx512_vnni(piece),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::avx2(piece),
            Self::Plain => plain(piece),
        }
    }
}

fn plain(piece: Piece<'_>) {
    piece.each_group(1, |group| {
        for index in 0..group.size {
            let row = group.activations.row(group.row + index);
            let mut sums = [0f32; ROWS];
            for (block, values) in row.iter().enumerate() {
                let quads = values.quads.as_flattened();
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let products = (0..BLOCK).map(|column| {
                        i32::from(group.tile.code(block, lane, column)) * i32::from(quads[column])
                    });
                    let (step, least) = group.tile.step(block, lane);
                    *sum +=
                        products.sum::<i32>() as f32 * (step * values.scale) + least * values.sum;
                }
            }
            group.out[index * group.width..][..ROWS].copy_from_slice(&sums);
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(test)]
mod tests;
