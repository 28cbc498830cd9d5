use proptest::prelude::*;

use super::*;

/// Gives its bytes in pieces of these sizes, in turns.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    turn: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()];
        self.turn += 1;
        let count = size.min(into.len()).min(self.bytes.len() - self.at);
        into[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn frames(bytes: Vec<u8>, sizes: Vec<usize>) -> Frames<Pieces> {
    Frames::new(Pieces { bytes, at: 0, sizes, turn: 0 })
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(1usize..700, 1..5)
}

proptest! {
    #[test]
    fn frames_arrive_as_they_were_put_however_the_stream_is_cut(
        bodies in proptest::collection::vec((0u16..12, any::<u64>(), bytes(900)), 0..8),
        sizes in sizes(),
    ) {
        let mut out = Vec::new();
        for (kind, id, body) in &bodies {
            let Some(kind) = Kind::find(*kind) else { continue };
            put(&mut out, kind, *id, |out| out.extend_from_slice(body));
        }
        let mut read = frames(out, sizes);
        for (kind, id, body) in &bodies {
            let Some(kind) = Kind::find(*kind) else { continue };
            let frame = read.next().unwrap().unwrap();
            prop_assert_eq!((frame.kind, frame.id, frame.body), (kind, *id, body.as_slice()));
        }
        prop_assert!(read.next().unwrap().is_none());
    }

    #[test]
    fn any_bytes_are_frames_or_refused_and_take_no_more_memory_than_a_frame_may(
        bytes in bytes(400),
        sizes in sizes(),
        lengths in proptest::collection::vec(any::<u32>(), 1..4),
    ) {
        let mut crafted = bytes.clone();
        for (length, at) in lengths.iter().zip((0..).step_by(HEADER)) {
            if let Some(place) = crafted.get_mut(at..at + 6) {
                place[..4].copy_from_slice(&length.to_le_bytes());
                place[4..6].copy_from_slice(&7u16.to_le_bytes());
            }
        }
        for bytes in [bytes, crafted] {
            let mut read = frames(bytes, sizes.clone());
            while let Ok(Some(frame)) = read.next() {
                let _ = read_events(frame.body).map(|events| events.len());
                drop(read_run(frame.body));
                let (_, target, message) = read_log(frame.id, frame.body);
                prop_assert_eq!(target.len() + message.len(), frame.body.len());
            }
            prop_assert!(read.buffer.len() <= FRAME_BYTES_MAX + HEADER);
        }
    }

    #[test]
    fn events_arrive_as_they_were_put(
        events in proptest::collection::vec(
            (any::<u16>(), any::<u16>(), any::<u32>(), any::<i32>(), bytes(60), bytes(60)),
            0..6,
        ),
    ) {
        let put: Vec<_> = events
            .iter()
            .map(|(kind, flags, token_id, code, data, extra)| Incoming {
                kind: *kind,
                flags: *flags,
                token_id: *token_id,
                logprob: 0.5,
                code: *code,
                data,
                extra,
            })
            .collect();
        let mut out = Vec::new();
        put_events(&mut out, 9, &put);
        let read = read_events(&out[HEADER..]).unwrap();
        prop_assert_eq!(format!("{read:?}"), format!("{put:?}"));
        for end in 0..out.len() - HEADER {
            // Cut anywhere, it is fewer events or none, and never others.
            if let Some(fewer) = read_events(&out[HEADER..HEADER + end]) {
                prop_assert!(fewer.len() < put.len());
            }
        }
    }

    #[test]
    fn a_line_of_the_log_and_its_target_arrive_apart(
        level in any::<u32>(),
        target in bytes(300),
        message in "\\PC{0,40}",
    ) {
        let mut out = Vec::new();
        put_log(&mut out, level, &target, &message);
        let id = number(&out, 8, 8);
        let kept = &target[..target.len().min(255)];
        prop_assert_eq!(read_log(id, &out[HEADER..]), (level, kept, message.as_bytes()));
    }
}
