//! MP3.

use nanomp3::{Options, SliceReader};

use super::{Limits, Raw, Tape};
use crate::error::SoundError;

pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Raw, SoundError> {
    let damaged = |reason: &str| SoundError::Damaged(reason.to_owned());
    // The length is not asked, so the file need not be walked through first.
    let options = Options::default().skip_scan(true);
    let mut frames = SliceReader::<f32>::with_options(bytes, options);
    let mut tape: Option<Tape> = None;
    loop {
        let frame = frames.read_frame().map_err(|error| damaged(&error.to_string()))?;
        let Some(frame) = frame.map(<[f32]>::to_vec) else { break };
        if frame.is_empty() {
            break;
        }
        let channels = frames.channels().map_or(1, |channels| usize::from(channels.num()));
        let tape = match &mut tape {
            Some(tape) => tape,
            None => tape.insert(Tape::new(frames.sample_rate(), limits)?),
        };
        tape.mix(&frame, channels)?;
    }
    tape.map(Tape::done).ok_or_else(|| damaged("there is no MP3 frame in it"))
}
