//! A sound's file becomes numbers: one channel, 16,000 a second.
//!
//! The decoders are others' and read strangers' bytes. They are written without `unsafe`; a panic of one is
//! caught here and means that the file is damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::SoundError;

mod mp3;
mod ogg;
mod opus;
mod resample;
mod wav;
mod webm;

/// Numbers of a second.
pub const RATE: u32 = 16_000;
/// The rates that are read, in numbers a second.
const RATES: std::ops::RangeInclusive<u32> = 4_000..=192_000;

/// How much of a sound is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of its file.
    pub bytes: usize,
    /// The longest, in seconds.
    pub seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // What fits a request of 16 MiB in base64, and what is listened to in a minute or two.
        Self { bytes: 12 << 20, seconds: 600 }
    }
}

/// Samples as a decoder gives them, channels mixed.
struct Raw {
    rate: u32,
    samples: Vec<f32>,
}

/// Collects samples up to a limit.
struct Tape {
    raw: Raw,
    most: usize,
    limits: Limits,
}

impl Tape {
    fn new(rate: u32, limits: Limits) -> Result<Self, SoundError> {
        if !RATES.contains(&rate) {
            return Err(SoundError::Codec(format!("{rate} samples a second are not read")));
        }
        let most = u64::from(rate) * u64::from(limits.seconds);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(Self { raw: Raw { rate, samples: Vec::new() }, most, limits })
    }

    /// Appends samples of one channel.
    fn push(&mut self, samples: impl IntoIterator<Item = f32>) -> Result<(), SoundError> {
        for sample in samples {
            if self.most <= self.raw.samples.len() {
                return Err(SoundError::Seconds { seconds: self.limits.seconds });
            }
            // A file may hold any number, also none.
            let sample = if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
            self.raw.samples.push(sample);
        }
        Ok(())
    }

    /// Appends samples of several channels, mixed to one.
    fn mix(&mut self, samples: &[f32], channels: usize) -> Result<(), SoundError> {
        #[expect(clippy::cast_precision_loss, reason = "a handful of channels")]
        let share = 1.0 / channels.max(1) as f32;
        self.push(
            samples.chunks_exact(channels.max(1)).map(|frame| frame.iter().sum::<f32>() * share),
        )
    }

    fn done(self) -> Raw {
        self.raw
    }
}

/// Reads a file.
///
/// # Errors
/// [`SoundError`].
pub fn read(bytes: &[u8], limits: Limits) -> Result<Vec<f32>, SoundError> {
    if limits.bytes < bytes.len() {
        return Err(SoundError::Bytes { bytes: bytes.len(), limit: limits.bytes });
    }
    let decode = match bytes {
        [b'O', b'g', b'g', b'S', ..] => ogg::read,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => webm::read,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => wav::read,
        _ if nanomp3::detect(bytes) => mp3::read,
        _ => return Err(SoundError::Format),
    };
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        decode(bytes, limits).map(|raw| resample::to_rate(raw.samples, raw.rate, RATE))
    }));
    decoded.unwrap_or_else(|_| Err(SoundError::Damaged("its decoder gave up".to_owned())))
}

/// Seconds of a sound, begun ones counted.
pub fn seconds(sound: &[f32]) -> u32 {
    let rate = usize::try_from(RATE).unwrap_or(usize::MAX);
    u32::try_from(sound.len().div_ceil(rate)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
