//! The kernels against plain loops, on each vector width that this machine has.

use proptest::prelude::*;
use pulp::{Scalar, Simd};

use super::*;

/// Numbers between −1 and 1 that do not repeat soon.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Something that is checked on one width.
trait Check {
    fn check<S: Simd>(&self, simd: S);
}

fn on_each_width(what: &impl Check) {
    what.check(Scalar::new());
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V3::try_new() {
            what.check(simd);
        }
        if let Some(simd) = pulp::x86::V4::try_new() {
            what.check(simd);
        }
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(simd) = pulp::aarch64::Neon::try_new() {
        what.check(simd);
    }
}

fn near(found: &[f32], exact: impl Iterator<Item = f64>, about: f64) {
    for (at, (found, exact)) in found.iter().zip(exact).enumerate() {
        let apart = (f64::from(*found) - exact).abs();
        assert!(apart <= about * (1.0 + exact.abs()), "at {at}: {found} for {exact}");
    }
}

fn exact_bend(bend: Bend, x: f64) -> f64 {
    match bend {
        Bend::Straight => x,
        Bend::Silu => x / (1.0 + (-x).exp()),
        Bend::Gelu => {
            // Φ by its series, which converges quickly for what is computed here.
            let (mut term, mut sum) = (x, x);
            for at in 1..200 {
                term *= x * x / f64::from(2 * at + 1);
                sum += term;
            }
            x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
        }
    }
}

/// A multiplication whose columns and rows are cut into parts.
#[derive(Debug)]
struct Product {
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// Parts by rows, and by panels.
    parts: (usize, usize),
    bend: Bend,
    seed: u64,
}

fn shares(count: usize, parts: usize) -> Vec<std::ops::Range<usize>> {
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

impl Check for Product {
    fn check<S: Simd>(&self, simd: S) {
        let Self { rows, inputs, outputs, parts, bend, seed } = *self;
        let weight = numbers(outputs * inputs, seed);
        let bias = numbers(outputs, seed + 1);
        let values = numbers(rows * inputs, seed + 2);
        let panels = Panels::new(&weight, &bias, inputs, simd.vectorize(AskShape));
        let mut out = vec![f32::NAN; rows * outputs];
        let by_panels = shares(panels.count(), parts.1.min(panels.count()));
        let columns: Vec<_> = by_panels.iter().map(|part| panels.columns(part)).collect();
        let by_rows = shares(rows, parts.0);
        for (at, mut part) in cut(&mut out, outputs, &by_rows, &columns).into_iter().enumerate() {
            let first = by_rows[at / columns.len()].start;
            simd.vectorize(Mix {
                panels: &panels,
                part: by_panels[at % columns.len()].clone(),
                rows: &[&values[first * inputs..]],
                step: inputs,
                bend,
                out: Columns { rows: &mut part, from: 0 },
            });
        }
        let exact = (0..rows * outputs).map(|at| {
            let (row, output) = (at / outputs, at % outputs);
            let pairs = values[row * inputs..].iter().zip(&weight[output * inputs..]);
            let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
            exact_bend(bend, f64::from(bias[output]) + pairs.take(inputs).map(product).sum::<f64>())
        });
        near(&out, exact, 2e-5);
        let plain = panels.plain();
        for (at, number) in plain.iter().enumerate() {
            assert!(*number == weight[at % outputs * inputs + at / outputs]);
        }
        assert_eq!(panels.bias(), bias);
    }
}

/// Attention whose heads are shared out.
#[derive(Debug)]
struct Hearing {
    tokens: usize,
    heads: usize,
    size: usize,
    parts: usize,
    seed: u64,
}

impl Check for Hearing {
    fn check<S: Simd>(&self, simd: S) {
        let Self { tokens, heads, size, parts, seed } = *self;
        let hidden = heads * size;
        let wide = numbers(tokens * 3 * hidden, seed);
        let mut out = vec![f32::NAN; tokens * hidden];
        let by_heads = shares(heads, parts.min(heads));
        let columns: Vec<_> =
            by_heads.iter().map(|part| part.start * size..part.end * size).collect();
        let cut = cut(&mut out, hidden, std::slice::from_ref(&(0..tokens)), &columns);
        for (mut out, part) in cut.into_iter().zip(by_heads) {
            simd.vectorize(Attend { wide: &wide, heads, part, out: &mut out });
        }
        let row = |token: usize, part: usize, head: usize| {
            let from = token * 3 * hidden + part * hidden + head * size;
            wide[from..from + size].iter().map(|number| f64::from(*number)).collect::<Vec<_>>()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let exact = (0..tokens).flat_map(|token| {
            (0..heads).flat_map(move |head| {
                let query = row(token, 0, head);
                let weight = (0..tokens).map(|key| dot(&query, &row(key, 1, head)).exp());
                let weight: Vec<f64> = weight.collect();
                let sum: f64 = weight.iter().sum();
                let mut heard = vec![0.0; size];
                for (key, weight) in weight.iter().enumerate() {
                    let value = row(key, 2, head);
                    heard.iter_mut().zip(value).for_each(|(to, v)| *to += weight / sum * v);
                }
                heard
            })
        });
        near(&out, exact, 1e-5);
    }
}

struct Normed {
    width: u16,
    with: bool,
}

impl Check for Normed {
    fn check<S: Simd>(&self, simd: S) {
        let width = usize::from(self.width);
        let mut rows = numbers(3 * width, 5);
        let with = if self.with { numbers(3 * width, 6) } else { Vec::new() };
        let sums: Vec<f64> = (0..3 * width)
            .map(|at| f64::from(rows[at]) + with.get(at).map_or(0.0, |with| f64::from(*with)))
            .collect();
        let by = Norm { weight: numbers(width, 7), shift: numbers(width, 8), epsilon: 1e-5 };
        simd.vectorize(AddNorm { rows: &mut rows, with: &with, by: &by });
        for (found, sums) in rows.chunks_exact(width).zip(sums.chunks_exact(width)) {
            let count = f64::from(self.width);
            let mean = sums.iter().sum::<f64>() / count;
            let square = sums.iter().map(|sum| (sum - mean) * (sum - mean)).sum::<f64>() / count;
            let scale = 1.0 / (square + 1e-5).sqrt();
            let by = by.weight.iter().zip(&by.shift);
            let exact = sums.iter().zip(by).map(|(sum, (weight, shift))| {
                (sum - mean) * scale * f64::from(*weight) + f64::from(*shift)
            });
            near(found, exact, 1e-4);
        }
    }
}

/// A function of one number.
struct Curve(Bend);

impl Check for Curve {
    fn check<S: Simd>(&self, simd: S) {
        let range: Vec<f32> = (-8_000i16..8_001).map(|step| f32::from(step) / 1000.0).collect();
        let mut values = range.clone();
        simd.vectorize(Bent { values: &mut values, bend: self.0 });
        near(&values, range.iter().map(|x| exact_bend(self.0, f64::from(*x))), 2e-6);
        let mut far = [1000.0, 30.0, 0.0, -30.0, -1000.0];
        simd.vectorize(Bent { values: &mut far, bend: self.0 });
        near(&far[..3], [1000.0, 30.0, 0.0].into_iter(), 1e-6);
        assert!(self.0 == Bend::Straight || far[3].abs().max(far[4].abs()) < 1e-3, "{far:?}");
    }
}

/// Rows of scores as shares.
struct Shared(usize);

impl Check for Shared {
    fn check<S: Simd>(&self, simd: S) {
        let width = self.0;
        let mut rows: Vec<f32> = numbers(3 * width, 9).iter().map(|n| n * 30.0).collect();
        rows[0] = f32::NEG_INFINITY;
        let scores = rows.clone();
        simd.vectorize(Softmax { values: &mut rows, width });
        for (found, scores) in rows.chunks_exact(width).zip(scores.chunks_exact(width)).skip(1) {
            let exact: Vec<f64> = scores.iter().map(|score| f64::from(*score).exp()).collect();
            let sum: f64 = exact.iter().sum();
            near(found, exact.iter().map(|weight| weight / sum), 1e-6);
        }
        assert!(width == 1 || rows[0] < 1e-30, "what was ruled out gets {}", rows[0]);
        assert!(rows[..width].iter().all(|share| (0.0..=1.000_001).contains(share)));
    }
}

#[test]
fn scores_become_shares_of_one() {
    for width in [1, 3, 16, 33, 450] {
        on_each_width(&Shared(width));
    }
}

#[test]
fn curves_are_those_of_the_books() {
    for bend in [Bend::Straight, Bend::Silu, Bend::Gelu] {
        on_each_width(&Curve(bend));
    }
}

#[test]
fn a_row_is_normed_whatever_its_length() {
    for width in [1, 2, 15, 16, 17, 384] {
        for with in [false, true] {
            on_each_width(&Normed { width, with });
        }
    }
}

#[test]
fn a_text_of_no_token_hears_nothing() {
    on_each_width(&Hearing { tokens: 0, heads: 2, size: 4, parts: 1, seed: 1 });
}

#[test]
fn a_long_text_hears_all_of_itself() {
    on_each_width(&Hearing { tokens: 131, heads: 2, size: 32, parts: 2, seed: 1 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn products_are_those_of_a_plain_loop(
        rows in 1usize..40,
        inputs in 1usize..70,
        outputs in 1usize..130,
        parts in (1usize..4, 1usize..5),
        bend in prop_oneof![Just(Bend::Straight), Just(Bend::Silu), Just(Bend::Gelu)],
        seed in any::<u32>(),
    ) {
        on_each_width(&Product { rows, inputs, outputs, parts, bend, seed: seed.into() });
    }

    #[test]
    fn attention_is_that_of_a_plain_loop(
        tokens in 1usize..70,
        heads in 1usize..5,
        size in 1usize..40,
        parts in 1usize..4,
        seed in any::<u32>(),
    ) {
        on_each_width(&Hearing { tokens, heads, size, parts, seed: seed.into() });
    }
}
