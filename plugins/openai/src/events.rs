//! Cuts a byte stream into server-sent events without copying them.

use memchr::memchr;

/// More than any provider puts into one event; a stream without line ends must not fill memory.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// The stream holds an event that is larger than we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the provider sent an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLarge;

/// Bytes that have come and not yet made a whole event.
///
/// Events are cut at line ends, so a character that is split over two network reads is whole
/// again when its event is seen.
#[derive(Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    /// Everything before has been handed out.
    read: usize,
    /// Data lines of the event that is being read, when there is more than one.
    joined: Vec<u8>,
}

/// Where the data of an event lies.
enum Data {
    None,
    One(std::ops::Range<usize>),
    Joined,
}

impl Events {
    /// Takes what the network brought.
    ///
    /// # Errors
    /// [`TooLarge`] when the unread rest grows beyond all measure.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.bytes.drain(..self.read);
        self.read = 0;
        if self.bytes.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The data of the next whole event. Comments, names and ids are passed over.
    pub fn next_data(&mut self) -> Option<&[u8]> {
        loop {
            match self.next_event()? {
                Data::None => {}
                Data::One(range) => return self.bytes.get(range),
                Data::Joined => return Some(&self.joined),
            }
        }
    }

    /// Lines up to an empty one; `None` leaves them for the next push.
    fn next_event(&mut self) -> Option<Data> {
        let mut at = self.read;
        let mut data = Data::None;
        loop {
            let length = memchr(b'\n', self.bytes.get(at..)?)?;
            let line = at..at + length;
            at = line.end + 1;
            let text = self.bytes.get(line.clone())?;
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.is_empty() {
                self.read = at;
                return Some(data);
            }
            let Some(value) = text.strip_prefix(b"data:") else { continue };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let end = line.start + text.len();
            let range = end - value.len()..end;
            data = match data {
                Data::None => Data::One(range),
                Data::One(first) => {
                    self.joined.clear();
                    self.joined.extend_from_slice(self.bytes.get(first)?);
                    append(&mut self.joined, self.bytes.get(range)?);
                    Data::Joined
                }
                Data::Joined => {
                    append(&mut self.joined, self.bytes.get(range)?);
                    Data::Joined
                }
            };
        }
    }
}

fn append(joined: &mut Vec<u8>, line: &[u8]) {
    joined.push(b'\n');
    joined.extend_from_slice(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(events: &mut Events) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(data) = events.next_data() {
            found.push(String::from_utf8(data.to_vec()).unwrap());
        }
        found
    }

    #[test]
    fn events_are_the_same_wherever_the_network_cuts_them() {
        let stream = ": hello\r\n\r\nevent: x\ndata: {\"a\":\"价格 🙂\"}\n\ndata:one\ndata: two\n\n\
                      id: 4\n\ndata: [DONE]\r\n\r\n";
        let expected = ["{\"a\":\"价格 🙂\"}", "one\ntwo", "[DONE]"];
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                events.push(piece).unwrap();
                found.extend(all(&mut events));
            }
            assert_eq!(found, expected, "pieces of {size} bytes");
        }
    }

    #[test]
    fn an_event_without_its_empty_line_is_not_handed_out() {
        let mut events = Events::default();
        events.push(b"data: half").unwrap();
        assert_eq!(events.next_data(), None);
        events.push(b"\n").unwrap();
        assert_eq!(events.next_data(), None);
    }

    #[test]
    fn a_stream_without_line_ends_does_not_fill_memory() {
        let mut events = Events::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..32).find_map(|_| events.push(&piece).err());
        assert_eq!(refused, Some(TooLarge));
    }
}
