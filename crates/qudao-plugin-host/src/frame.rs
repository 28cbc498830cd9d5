//! The frames between host and child: length, kind and request id, little endian, then bytes.

use std::io::{self, Read};

use crate::engine::{Incoming, Ticket};

/// A frame's bytes after its header, at most.
const FRAME_BYTES_MAX: usize = 16 << 20;
const HEADER: usize = 16;
const EVENT_HEADER: usize = 24;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Create = 1,
    Created = 2,
    Failed = 3,
    Run = 4,
    Cancel = 5,
    Credit = 6,
    Events = 7,
    Violation = 8,
    Log = 9,
    Drain = 10,
    Confined = 11,
}

impl Kind {
    fn find(number: u16) -> Option<Self> {
        use Kind::{
            Cancel, Confined, Create, Created, Credit, Drain, Events, Failed, Log, Run, Violation,
        };
        let all =
            [Create, Created, Failed, Run, Cancel, Credit, Events, Violation, Log, Drain, Confined];
        all.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Appends a frame to `out`.
pub(crate) fn put(out: &mut Vec<u8>, kind: Kind, id: u64, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&id.to_le_bytes());
    fill(out);
    let len = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// One frame as it was read.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) body: &'a [u8],
}

/// Reads frames out of large reads.
pub(crate) struct Frames<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, buffer: vec![0; 64 * 1024], at: 0, end: 0 }
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        if !self.fill(HEADER)? {
            return Ok(None);
        }
        let header = &self.buffer[self.at..self.at + HEADER];
        let len = number(header, 0, 4);
        let kind = Kind::find(u16::try_from(number(header, 4, 2)).unwrap_or(0));
        let id = number(header, 8, 8);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let Some(kind) = kind.filter(|_| len <= FRAME_BYTES_MAX) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is none"));
        };
        if !self.fill(HEADER + len)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let body = self.at + HEADER;
        self.at = body + len;
        Ok(Some(Frame { kind, id, body: &self.buffer[body..body + len] }))
    }

    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.end - self.at < wanted {
            if self.buffer.len() < self.at + wanted {
                self.buffer.copy_within(self.at..self.end, 0);
                self.end -= self.at;
                self.at = 0;
                if self.buffer.len() < wanted {
                    self.buffer.resize(wanted, 0);
                }
            }
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let part = bytes.get(at..at + len).unwrap_or(&[]);
    part.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn number_u32(bytes: &[u8], at: usize) -> u32 {
    u32::try_from(number(bytes, at, 4)).unwrap_or(0)
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

pub(crate) fn put_run(out: &mut Vec<u8>, ticket: &Ticket) {
    put(out, Kind::Run, ticket.id, |out| {
        out.extend_from_slice(&ticket.kind.to_le_bytes());
        out.extend_from_slice(&ticket.deadline_ns.to_le_bytes());
        out.extend_from_slice(&length(ticket.trace.len()));
        out.extend_from_slice(ticket.trace.as_bytes());
        out.extend_from_slice(&ticket.payload);
    });
}

/// A line of the plugin's log. What it is about is short and goes before it.
pub(crate) fn put_log(out: &mut Vec<u8>, level: u32, target: &[u8], message: &str) {
    let target = target.get(..usize::from(u8::MAX)).unwrap_or(target);
    let id = u64::from(level) | (target.len() as u64) << 32;
    put(out, Kind::Log, id, |out| {
        out.extend_from_slice(target);
        out.extend_from_slice(message.as_bytes());
    });
}

/// The level, target and message of a LOG frame.
pub(crate) fn read_log(id: u64, body: &[u8]) -> (u32, &[u8], &[u8]) {
    let level = u32::try_from(id & u64::from(u32::MAX)).unwrap_or(4);
    let length = usize::try_from(id >> 32).unwrap_or(0);
    let (target, message) = body.split_at_checked(length).unwrap_or((&[], body));
    (level, target, message)
}

/// The kind, deadline, trace and payload of a RUN frame.
pub(crate) fn read_run(body: &[u8]) -> Option<(u32, u64, String, Vec<u8>)> {
    let trace_end = 16 + usize::try_from(number_u32(body, 12)).ok()?;
    let trace = String::from_utf8_lossy(body.get(16..trace_end)?).into_owned();
    Some((number_u32(body, 0), number(body, 4, 8), trace, body[trace_end..].to_vec()))
}

pub(crate) fn put_events(out: &mut Vec<u8>, id: u64, events: &[Incoming<'_>]) {
    put(out, Kind::Events, id, |out| {
        for event in events {
            out.extend_from_slice(&event.kind.to_le_bytes());
            out.extend_from_slice(&event.flags.to_le_bytes());
            out.extend_from_slice(&event.token_id.to_le_bytes());
            out.extend_from_slice(&event.logprob.to_le_bytes());
            out.extend_from_slice(&event.code.to_le_bytes());
            out.extend_from_slice(&length(event.data.len()));
            out.extend_from_slice(&length(event.extra.len()));
            out.extend_from_slice(event.data);
            out.extend_from_slice(event.extra);
        }
    });
}

/// The events of an EVENTS frame; `None` when it is malformed.
pub(crate) fn read_events(mut body: &[u8]) -> Option<Vec<Incoming<'_>>> {
    let mut events = Vec::with_capacity(1);
    while !body.is_empty() {
        let data_end = EVENT_HEADER + usize::try_from(number_u32(body, 16)).ok()?;
        let extra_end = data_end + usize::try_from(number_u32(body, 20)).ok()?;
        let half = |at| u16::try_from(number(body, at, 2)).unwrap_or(0);
        events.push(Incoming {
            kind: half(0),
            flags: half(2),
            token_id: number_u32(body, 4),
            logprob: f32::from_bits(number_u32(body, 8)),
            code: number_u32(body, 12).cast_signed(),
            data: body.get(EVENT_HEADER..data_end)?,
            extra: body.get(data_end..extra_end)?,
        });
        body = &body[extra_end..];
    }
    Some(events)
}

#[cfg(test)]
mod tests;
