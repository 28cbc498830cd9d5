//! Opus (RFC 6716), decoded to the 48,000 samples a second that it counts in.

use opus_decoder::OpusDecoder;

use super::{Limits, Raw, Tape};
use crate::error::SoundError;

/// Opus counts in samples of 48,000 a second.
const COUNTED: u32 = 48_000;
/// A packet holds 120 ms at most.
const PACKET: usize = 120 * 48;

/// What the header of a stream says (RFC 7845, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    /// Samples at the beginning that are only there to warm the decoder up, as Opus counts.
    skip: u64,
    /// By which the samples are multiplied.
    gain: f32,
}

impl Head {
    pub(super) const MAGIC: &[u8] = b"OpusHead";

    pub(super) fn parse(packet: &[u8]) -> Result<Self, SoundError> {
        let damaged = || SoundError::Damaged("its Opus header is cut off".to_owned());
        let rest = packet.strip_prefix(Self::MAGIC).ok_or_else(damaged)?;
        let &[version, channels, low, high, _, _, _, _, gain_low, gain_high, family, ..] = rest
        else {
            return Err(damaged());
        };
        if 15 < version {
            return Err(SoundError::Codec(format!("Opus of version {version} is not read")));
        }
        if family != 0 || !(1..=2).contains(&channels) {
            return Err(SoundError::Codec(format!("Opus with {channels} channels is not read")));
        }
        let gain = f32::from(i16::from_le_bytes([gain_low, gain_high])) / 256.0;
        let skip = u64::from(u16::from_le_bytes([low, high]));
        Ok(Self { skip, gain: 10.0_f32.powf(gain / 20.0) })
    }
}

/// A stream that is being decoded.
pub(super) struct Stream {
    decoder: OpusDecoder,
    head: Head,
    tape: Tape,
    packet: Vec<f32>,
}

impl Stream {
    pub(super) fn new(head: Head, limits: Limits) -> Result<Self, SoundError> {
        let decoder = OpusDecoder::new(COUNTED, 1)
            .map_err(|error| SoundError::Codec(format!("Opus: {error}")))?;
        // The samples to skip are decoded too, and taken away at the end.
        let limits = Limits { seconds: limits.seconds.saturating_add(2), ..limits };
        let tape = Tape::new(COUNTED, limits)?;
        Ok(Self { decoder, head, tape, packet: vec![0.0; PACKET] })
    }

    pub(super) fn push(&mut self, packet: &[u8]) -> Result<(), SoundError> {
        // To the decoder an empty packet is a lost one.
        if packet.is_empty() {
            return Ok(());
        }
        let count = self
            .decoder
            .decode_float(packet, &mut self.packet, false)
            .map_err(|error| SoundError::Damaged(format!("an Opus packet: {error}")))?;
        let gain = self.head.gain;
        let samples = self.packet.iter().take(count).map(|sample| sample * gain);
        self.tape.push(samples)
    }

    /// The samples, less those at the beginning; `end` says how many there are with them, as Opus counts,
    /// where the container knows.
    pub(super) fn done(self, end: Option<u64>, limits: Limits) -> Result<Raw, SoundError> {
        let place = |counted: u64| usize::try_from(counted).unwrap_or(usize::MAX);
        let mut raw = self.tape.done();
        if let Some(end) = end.filter(|end| self.head.skip <= *end) {
            raw.samples.truncate(place(end));
        }
        let skip = place(self.head.skip).min(raw.samples.len());
        raw.samples.drain(..skip);
        let most = u64::from(limits.seconds) * u64::from(COUNTED);
        if usize::try_from(most).unwrap_or(usize::MAX) < raw.samples.len() {
            return Err(SoundError::Seconds { seconds: limits.seconds });
        }
        Ok(raw)
    }
}
