//! Ogg with Opus in it (RFC 7845): voice messages of Telegram, `WhatsApp` and Firefox.

use std::io::Cursor;

use ogg::reading::PacketReader;

use super::{
    Limits, Raw,
    opus::{Head, Stream},
};
use crate::error::SoundError;

pub(super) fn read(bytes: &[u8], limits: Limits) -> Result<Raw, SoundError> {
    let mut packets = PacketReader::new(Cursor::new(bytes));
    let mut next = || {
        packets.read_packet().map_err(|error| SoundError::Damaged(format!("its pages: {error}")))
    };
    let empty = || SoundError::Damaged("it has no packets".to_owned());
    let first = next()?.ok_or_else(empty)?;
    if !first.data.starts_with(Head::MAGIC) {
        return Err(SoundError::Codec("of Ogg files those with Opus are read".to_owned()));
    }
    let serial = first.stream_serial();
    let mut stream = Stream::new(Head::parse(&first.data)?, limits)?;
    let (mut place, mut end) = (0, None);
    while let Some(packet) = next()? {
        if packet.stream_serial() != serial {
            continue;
        }
        place += 1;
        // The second packet holds comments.
        if place == 1 {
            continue;
        }
        stream.push(&packet.data)?;
        if packet.last_in_stream() {
            end = Some(packet.absgp_page());
            break;
        }
    }
    stream.done(end, limits)
}
