//! WAV with numbers as they are.

use std::io::Cursor;

use hound::{Error, SampleFormat, WavReader};

use super::{Limits, Raw, Tape};
use crate::error::SoundError;

/// What a program writes for the length while it does not know it.
const UNKNOWN: u32 = 0x7fff_0000;

pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Raw, SoundError> {
    let open = WavReader::new(Cursor::new(bytes)).map_err(|error| match error {
        Error::Unsupported => {
            SoundError::Codec("of WAV files those with plain numbers are read".to_owned())
        }
        other => damaged(&other),
    })?;
    let spec = open.spec();
    let channels = usize::from(spec.channels);
    let mut tape = Tape::new(spec.sample_rate, limits)?;
    let endless = UNKNOWN <= open.len().saturating_mul(u32::from(spec.bits_per_sample).div_ceil(8));
    match spec.sample_format {
        SampleFormat::Float => mix(open.into_samples::<f32>(), channels, endless, &mut tape)?,
        SampleFormat::Int => {
            let bits = i32::from(spec.bits_per_sample.clamp(1, 32)) - 1;
            let full = 0.5_f32.powi(bits);
            #[expect(clippy::cast_precision_loss, reason = "24 bits of a sample are kept")]
            let samples = open.into_samples::<i32>().map(|sample| sample.map(|s| s as f32 * full));
            mix(samples, channels, endless, &mut tape)?;
        }
    }
    Ok(tape.done())
}

fn mix(
    samples: impl Iterator<Item = Result<f32, Error>>,
    channels: usize,
    endless: bool,
    tape: &mut Tape,
) -> Result<(), SoundError> {
    let mut frame = Vec::with_capacity(channels);
    for sample in samples {
        match sample {
            Ok(sample) => frame.push(sample),
            Err(_) if endless => break,
            Err(error) => return Err(damaged(&error)),
        }
        if frame.len() == channels {
            tape.mix(&frame, channels)?;
            frame.clear();
        }
    }
    Ok(())
}

fn damaged(error: &Error) -> SoundError {
    SoundError::Damaged(format!("it is no WAV file that is whole: {error}"))
}
