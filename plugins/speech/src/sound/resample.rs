//! From one rate to another: each sample is a weighted sum of those around its place, by a sine cardinal that
//! fades out (Kaiser's window). What the lower rate cannot hold is taken away, or it would sound as something
//! else.

/// Crossings of zero on each side of the sine cardinal.
const CROSSINGS: f64 = 16.0;
/// How steeply the window falls: what should be gone is 80 dB lower.
const STEEPNESS: f64 = 8.0;
/// The part of the lower rate's frequencies that is kept whole.
const KEPT: f64 = 0.94;

/// Samples of one rate as samples of another.
pub(super) fn to_rate(samples: Vec<f32>, from: u32, to: u32) -> Vec<f32> {
    if from == to || from == 0 || to == 0 || samples.is_empty() {
        return samples;
    }
    let common = common_divisor(from, to);
    let size = |rate: u32| usize::try_from(rate / common).unwrap_or(1);
    let (up, down) = (size(to), size(from));
    let width = KEPT * (f64::from(to) / f64::from(from)).min(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundreds")]
    let half = (CROSSINGS / width).ceil() as usize;
    let phases: Vec<f32> = (0..up).flat_map(|phase| weights(phase, up, half, width)).collect();
    let count = (samples.len() * up).div_ceil(down);
    // So that every sum finds what it wants.
    let mut padded = vec![0.0; half - 1];
    padded.extend(&samples);
    padded.resize(padded.len() + half + 1, 0.0);
    let sample = |at: usize| {
        let (place, phase) = (at * down / up, at * down % up);
        let around = padded.get(place..place + 2 * half).unwrap_or_default();
        let weights = phases.get(phase * 2 * half..(phase + 1) * 2 * half).unwrap_or_default();
        crate::rows::dot(around, weights)
    };
    (0..count).map(sample).collect()
}

/// The weights of the samples around a place that lies `phase` of `up` parts after one. Together they are 1.
#[expect(clippy::cast_precision_loss, reason = "places within a filter")]
#[expect(clippy::cast_possible_truncation, reason = "samples are of f32")]
fn weights(phase: usize, up: usize, half: usize, width: f64) -> Vec<f32> {
    let after = phase as f64 / up as f64;
    let weights: Vec<f64> = (0..2 * half)
        .map(|at| {
            let distance = at as f64 - (half - 1) as f64 - after;
            let fade = (1.0 - (distance / half as f64).powi(2)).max(0.0).sqrt();
            sine_cardinal(distance * width) * bessel(STEEPNESS * fade)
        })
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| (weight / sum) as f32).collect()
}

fn sine_cardinal(x: f64) -> f64 {
    let angle = std::f64::consts::PI * x;
    if angle.abs() < 1e-9 { 1.0 } else { angle.sin() / angle }
}

/// The modified Bessel function of the first kind and order 0, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for at in 1..40 {
        term *= (x / (2.0 * f64::from(at))).powi(2);
        sum += term;
    }
    sum
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "samples are of f32")]
    fn tone(hertz: f64, rate: u16) -> Vec<f32> {
        let turn = std::f64::consts::TAU * hertz / f64::from(rate);
        (0..rate).map(|at| (turn * f64::from(at)).sin() as f32).collect()
    }

    #[test]
    fn a_tone_stays_the_same_tone() {
        for rate in [8_000, 11_025, 22_050, 24_000, 44_100, 48_000] {
            let out = to_rate(tone(440.0, rate), u32::from(rate), 16_000);
            let expected = tone(440.0, 16_000);
            assert_eq!(out.len(), 16_000, "{rate}");
            let worst = out[500..15_500].iter().zip(&expected[500..15_500]);
            let worst = worst.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{rate}: {worst}");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let out = to_rate(tone(12_000.0, 48_000), 48_000, 16_000);
        let loudest = out[500..15_500].iter().fold(0.0_f32, |most, sample| most.max(sample.abs()));
        assert!(loudest < 1e-3, "{loudest}");
    }
}
