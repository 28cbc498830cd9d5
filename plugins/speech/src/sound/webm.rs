//! `WebM` and Matroska with Opus in them: what Chromium records.

use std::io::Cursor;

use matroska_demuxer::{Frame, MatroskaFile, TrackType};

use super::{
    Limits, Raw,
    opus::{Head, Stream},
};
use crate::error::SoundError;

const OPUS: &str = "A_OPUS";

pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Raw, SoundError> {
    let damaged = |error: &dyn std::fmt::Display| SoundError::Damaged(error.to_string());
    let mut file = MatroskaFile::open(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    let sounds = || file.tracks().iter().filter(|track| track.track_type() == TrackType::Audio);
    let Some(track) = sounds().find(|track| track.codec_id() == OPUS) else {
        return Err(match sounds().next() {
            None => SoundError::Codec("there is no sound in it".to_owned()),
            Some(other) => SoundError::Codec(format!(
                "of WebM files those with Opus are read: {}",
                other.codec_id()
            )),
        });
    };
    let head = Head::parse(track.codec_private().unwrap_or_default())?;
    let number = track.track_number().get();
    let mut stream = Stream::new(head, limits)?;
    let mut frame = Frame::default();
    while file.next_frame(&mut frame).map_err(|error| damaged(&error))? {
        if frame.track == number {
            stream.push(&frame.data)?;
        }
    }
    stream.done(None, limits)
}
