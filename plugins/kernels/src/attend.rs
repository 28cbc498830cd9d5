//! What the tokens of a text hear of each other.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::{
    bend::Bend,
    mix::Mix,
    panels::Panels,
    rows::{Columns, Whole},
    softmax::Softmax,
};

/// Tokens whose scores are kept at a time: those of a long text would take the processor's caches.
const TOKENS: usize = 48;
/// The score of a key that only fills a vector up.
const NO_KEY: f32 = -1e30;

/// Attention of one text, without a mask, by some of the heads.
#[derive(Debug)]
pub struct Attend<'a, 'b> {
    /// For each token the queries of all heads (scaled already), then the keys, then the values.
    pub wide: &'a [f32],
    /// All heads.
    pub heads: usize,
    /// Those that are computed.
    pub part: Range<usize>,
    /// For each token what they hear.
    pub out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Attend<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { wide, heads, part, out } = self;
        let tokens = out.len();
        if tokens == 0 {
            return;
        }
        let step = wide.len() / tokens;
        let (hidden, size) = (step / 3, step / 3 / heads);
        let padded = tokens.next_multiple_of(S::F32_LANES);
        let mut keys = Panels::empty(size, padded, S::F32_LANES);
        keys.bias[tokens..].fill(NO_KEY);
        let mut values = Panels::empty(tokens, size, S::F32_LANES);
        let mut scores = vec![0.0; TOKENS.min(tokens) * padded];
        for head in part.clone() {
            let own = head * size;
            for (token, row) in wide.chunks_exact(step).enumerate() {
                keys.set_output(token, &row[hidden + own..][..size]);
                values.set_input(token, &row[2 * hidden + own..][..size]);
            }
            let from = (head - part.start) * size;
            for (block, out) in out.chunks_mut(TOKENS).enumerate() {
                let scores = &mut scores[..out.len() * padded];
                simd.vectorize(Mix {
                    panels: &keys,
                    part: 0..keys.count(),
                    rows: &[&wide[block * TOKENS * step + own..]],
                    step,
                    bend: Bend::Straight,
                    out: Whole { values: &mut *scores, step: padded },
                });
                simd.vectorize(Softmax { values: &mut *scores, width: padded });
                simd.vectorize(Mix {
                    panels: &values,
                    part: 0..values.count(),
                    rows: &[scores],
                    step: padded,
                    bend: Bend::Straight,
                    out: Columns { rows: out, from },
                });
            }
        }
    }
}
