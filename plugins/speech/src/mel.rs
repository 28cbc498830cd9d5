//! The picture of a sound that the network looks at: how loud it is in each of its bands, a hundred times a
//! second, on a logarithmic scale. As Whisper was trained: windows of 25 ms, bands by Slaney's scale.

use candle_core::{Device, Result as Computed, Tensor};

use crate::sound::RATE;

/// Samples of a window.
const WINDOW: usize = 400;
/// Samples from one row to the next.
pub const HOP: usize = 160;
/// Rows of what is looked at together: half a minute.
pub const ROWS: usize = 3_000;
/// Frequencies of a window's spectrum.
const FREQUENCIES: usize = WINDOW / 2 + 1;
/// What is quieter than this is as good as silent.
const FLOOR: f64 = 1e-10;
/// What is quieter than the loudest by this much, in tenfolds of power, is cut off.
const RANGE: f32 = 8.0;

/// A band: its first frequency and how much each counts from there.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// Makes pictures of sounds.
pub struct Mel {
    bands: Vec<Band>,
    /// A window's samples, faded in and out, by cosines and sines: its spectrum is one multiplication.
    waves: Tensor,
}

/// The picture of a sound, and of half a minute of silence after it.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Bands of a row.
    pub bands: usize,
    /// Rows of the sound itself.
    pub rows: usize,
    values: Vec<f32>,
}

impl Mel {
    /// For so many bands.
    ///
    /// # Errors
    /// If the memory cannot be had.
    #[expect(clippy::cast_precision_loss, reason = "a window has 400 samples")]
    #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
    pub fn new(bands: usize) -> Computed<Self> {
        let angle = |of: usize| std::f64::consts::TAU * (of % WINDOW) as f64 / WINDOW as f64;
        let mut waves = Vec::with_capacity(WINDOW * 2 * FREQUENCIES);
        for at in 0..WINDOW {
            let fade = 0.5 - 0.5 * angle(at).cos();
            waves.extend((0..FREQUENCIES).map(|of| (fade * angle(of * at).cos()) as f32));
            waves.extend((0..FREQUENCIES).map(|of| (fade * angle(of * at).sin()) as f32));
        }
        let waves = Tensor::from_vec(waves, (WINDOW, 2 * FREQUENCIES), &Device::Cpu)?;
        Ok(Self { bands: filters(bands), waves })
    }

    /// The picture of a sound.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn picture(&self, sound: &[f32]) -> Computed<Picture> {
        let rows = sound.len() / HOP;
        let all = rows + ROWS;
        let mut values = Vec::with_capacity(all * self.bands.len());
        for first in (0..all).step_by(ROWS) {
            let count = ROWS.min(all - first);
            let mut frames = vec![0.0; count * WINDOW];
            for (row, frame) in frames.chunks_exact_mut(WINDOW).enumerate() {
                cut(sound, (first + row) * HOP, frame);
            }
            let frames = Tensor::from_vec(frames, (count, WINDOW), &Device::Cpu)?;
            let spectra = frames.matmul(&self.waves)?.flatten_all()?.to_vec1::<f32>()?;
            for spectrum in spectra.chunks_exact(2 * FREQUENCIES) {
                self.measure(spectrum, &mut values);
            }
        }
        let loudest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for value in &mut values {
            *value = (value.max(loudest - RANGE) + 4.0) / 4.0;
        }
        Ok(Picture { bands: self.bands.len(), rows, values })
    }

    /// How loud it is in each band.
    #[expect(clippy::cast_possible_truncation, reason = "the network computes in f32")]
    fn measure(&self, spectrum: &[f32], values: &mut Vec<f32>) {
        let (cosines, sines) = spectrum.split_at(FREQUENCIES);
        let square = |value: &f32| f64::from(*value) * f64::from(*value);
        let powers: Vec<f64> =
            cosines.iter().zip(sines).map(|(cosine, sine)| square(cosine) + square(sine)).collect();
        values.extend(self.bands.iter().map(|band| {
            let heard = powers.get(band.first..).unwrap_or_default();
            let sum: f64 = heard.iter().zip(&band.weights).map(|(p, w)| p * w).sum();
            sum.max(FLOOR).log10() as f32
        }));
    }
}

/// The window around `middle`. Before its beginning the sound is mirrored.
fn cut(sound: &[f32], middle: usize, frame: &mut [f32]) {
    let half = WINDOW / 2;
    for (at, value) in frame.iter_mut().enumerate() {
        *value = sound.get((middle + at).abs_diff(half)).copied().unwrap_or_default();
    }
}

impl Picture {
    /// Half a minute of rows from `first` on; none where it is over.
    pub fn part(&self, first: usize) -> &[f32] {
        let values = self.values.get(first * self.bands..).unwrap_or_default();
        values.get(..ROWS * self.bands).unwrap_or(values)
    }
}

/// Triangles over frequencies that lie evenly on Slaney's scale, of equal area.
#[expect(clippy::cast_precision_loss, reason = "a hundred bands and 201 frequencies")]
fn filters(bands: usize) -> Vec<Band> {
    let top = to_mel(f64::from(RATE) / 2.0);
    let edges: Vec<f64> =
        (0..bands + 2).map(|at| to_hertz(top * at as f64 / (bands + 1) as f64)).collect();
    let step = f64::from(RATE) / WINDOW as f64;
    let band = |edges: &[f64]| {
        let &[low, middle, high] = edges else { return Band { first: 0, weights: Vec::new() } };
        let weights: Vec<f64> = (0..FREQUENCIES)
            .map(|at| {
                let hertz = at as f64 * step;
                let (up, down) = ((hertz - low) / (middle - low), (high - hertz) / (high - middle));
                up.min(down).max(0.0) * 2.0 / (high - low)
            })
            .collect();
        let first = weights.iter().position(|weight| 0.0 < *weight).unwrap_or(0);
        let last = weights.iter().rposition(|weight| 0.0 < *weight).map_or(0, |at| at + 1);
        Band { first, weights: weights.get(first..last).unwrap_or_default().to_vec() }
    };
    edges.windows(3).map(band).collect()
}

/// Slaney's scale: even up to 1,000 Hz, logarithmic above.
const LINEAR_HERTZ: f64 = 200.0 / 3.0;
const KNEE_HERTZ: f64 = 1_000.0;
const KNEE_MEL: f64 = KNEE_HERTZ / LINEAR_HERTZ;
/// 27 steps from 1,000 to 6,400 Hz.
const STEPS: f64 = 27.0;

fn to_mel(hertz: f64) -> f64 {
    if hertz < KNEE_HERTZ {
        return hertz / LINEAR_HERTZ;
    }
    KNEE_MEL + (hertz / KNEE_HERTZ).ln() * STEPS / 6.4_f64.ln()
}

fn to_hertz(mel: f64) -> f64 {
    if mel < KNEE_MEL {
        return mel * LINEAR_HERTZ;
    }
    KNEE_HERTZ * ((mel - KNEE_MEL) * 6.4_f64.ln() / STEPS).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bands_are_those_that_whisper_was_trained_with() {
        // From the filters that OpenAI's package ships, 80 bands.
        let bands = filters(80);
        assert_eq!(bands.len(), 80);
        let at = |band: usize, frequency: usize| {
            let Band { first, weights } = &bands[band];
            frequency.checked_sub(*first).and_then(|at| weights.get(at)).copied().unwrap_or(0.0)
        };
        for (band, frequency, weight) in EXPECTED {
            assert!((at(band, frequency) - weight).abs() < 1e-7, "{band} {frequency}");
        }
    }

    const EXPECTED: [(usize, usize, f64); 6] = [
        (0, 1, 0.0248625949),
        (7, 8, 0.0109268408),
        (30, 30, 0.00896277092),
        (55, 77, 0.00728334347),
        (79, 193, 0.00314131333),
        (10, 0, 0.0),
    ];

    #[test]
    fn a_tone_is_brightest_in_its_band() {
        let mel = Mel::new(80).unwrap();
        let tone = |hertz: f32| -> Vec<f32> {
            let turn = std::f32::consts::TAU * hertz / 16_000.0;
            (0..16_000_u16).map(|at| (turn * f32::from(at)).sin() * 0.5).collect()
        };
        let brightest = |hertz| {
            let picture = mel.picture(&tone(hertz)).unwrap();
            assert_eq!((picture.rows, picture.bands), (100, 80));
            let row = &picture.part(50)[..80];
            (0..80).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap()
        };
        let places = [200.0, 1_000.0, 3_000.0, 7_000.0].map(brightest);
        assert!(places.is_sorted() && places[0] < 8 && 70 < places[3], "{places:?}");
    }

    #[test]
    fn any_length_has_a_picture_and_silence_is_flat() {
        let mel = Mel::new(80).unwrap();
        for length in [0, 1, 159, 160, 399, 5_000] {
            let picture = mel.picture(&vec![0.0; length]).unwrap();
            let part = picture.part(0);
            assert_eq!(part.len(), ROWS * 80);
            assert!(part.iter().all(|value| (value - part[0]).abs() < 1e-6));
            assert!(picture.part(usize::from(u16::MAX)).is_empty());
        }
    }
}
