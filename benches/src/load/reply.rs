//! Finds the end of an HTTP/1.1 reply and counts its events, without keeping the body.

use anyhow::{Result, bail};

/// What one read brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Got {
    /// Server-sent events that began in it.
    pub(super) events: usize,
    /// Text of the answer came.
    pub(super) content: bool,
    /// The reply is whole.
    pub(super) done: bool,
    /// It is a refusal that says when to come again: 429 or 503.
    pub(super) refused: bool,
}

/// Where the reader stands.
#[derive(Debug, Default)]
enum Body {
    #[default]
    Head,
    Length {
        left: usize,
    },
    /// Until the last chunk, whose bytes may be spread over reads.
    Chunked,
}

/// Reads one reply.
#[derive(Debug, Default)]
pub(super) struct Reader {
    body: Body,
    /// Whether a refusal for a while is an answer like others.
    tolerant: bool,
    refused: bool,
    /// The head while it is incomplete, then the last bytes of the body, so that a mark that is
    /// split over two reads is still found.
    kept: Vec<u8>,
}

const HEAD_END: &[u8] = b"\r\n\r\n";
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
const EVENT: &[u8] = b"data: ";
const CONTENT: &[u8] = b"\"content\":\"";

impl Reader {
    /// One that takes a refusal for a while, 429 or 503, as an answer.
    pub(super) fn tolerant() -> Self {
        Self { tolerant: true, ..Self::default() }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// A status that is neither of success nor a refusal for a while, or a reply without a length.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Got> {
        let got = self.read(bytes)?;
        Ok(Got { refused: self.refused, ..got })
    }

    fn read(&mut self, bytes: &[u8]) -> Result<Got> {
        match &mut self.body {
            Body::Head => {
                self.kept.extend_from_slice(bytes);
                let Some(end) = find(&self.kept, HEAD_END) else { return Ok(Got::default()) };
                let all = std::mem::take(&mut self.kept);
                let (head, rest) = all.split_at(end + HEAD_END.len());
                self.refused = self.tolerant
                    && head.get(9..12).is_some_and(|status| status == b"429" || status == b"503");
                self.body = kind(head, rest, self.refused)?;
                if let Body::Chunked = self.body {
                    self.kept = b"\r\n".to_vec();
                }
                match self.body {
                    Body::Length { left: 0 } => Ok(Got { done: true, ..Got::default() }),
                    _ if rest.is_empty() => Ok(Got::default()),
                    _ => self.read(rest),
                }
            }
            Body::Length { left } => {
                *left = left.saturating_sub(bytes.len());
                Ok(Got { content: true, done: *left == 0, ..Got::default() })
            }
            Body::Chunked => Ok(self.chunked(bytes)),
        }
    }

    fn chunked(&mut self, bytes: &[u8]) -> Got {
        let kept = self.kept.len();
        self.kept.extend_from_slice(bytes);
        let seen = &self.kept;
        let events = count(seen, EVENT, kept.saturating_sub(EVENT.len() - 1));
        let (content, done) = (has_text(seen), seen.ends_with(LAST_CHUNK));
        let got = Got { events, content, done, ..Got::default() };
        let tail = seen.len().saturating_sub(CONTENT.len() + 1);
        self.kept.drain(..tail);
        got
    }
}

fn kind(head: &[u8], rest: &[u8], refused: bool) -> Result<Body> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !refused && !text.starts_with("http/1.1 2") {
        bail!("{}{}", String::from_utf8_lossy(head), String::from_utf8_lossy(rest));
    }
    for line in text.lines() {
        if let Some(length) = line.strip_prefix("content-length:") {
            return Ok(Body::Length { left: length.trim().parse()? });
        }
        if line.starts_with("transfer-encoding:") && line.contains("chunked") {
            return Ok(Body::Chunked);
        }
    }
    bail!("a reply without a length: {text}");
}

/// A `content` that is not empty.
fn has_text(bytes: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = find(bytes.get(from..).unwrap_or_default(), CONTENT) {
        from += at + CONTENT.len();
        if bytes.get(from).is_some_and(|&byte| byte != b'"') {
            return true;
        }
    }
    false
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

/// How many marks begin at `from` or later.
fn count(bytes: &[u8], mark: &[u8], from: usize) -> usize {
    let bytes = bytes.get(from..).unwrap_or_default();
    bytes.windows(mark.len()).filter(|window| *window == mark).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        24\r\ndata: {\"delta\":{\"content\":\"\"}}\n\nabc\r\n\
        24\r\ndata: {\"delta\":{\"content\":\"Hi\"}}\n\na\r\n\
        e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

    #[test]
    fn a_reply_without_a_body_is_whole_at_the_end_of_its_head() {
        for size in [1, 7, 1000] {
            let got = read_in_pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", size);
            assert!(got.last().unwrap().done);
            assert_eq!(got.iter().filter(|got| got.done).count(), 1);
        }
    }

    fn read_in_pieces(bytes: &[u8], size: usize) -> Vec<Got> {
        let mut reader = Reader::default();
        bytes.chunks(size).map(|piece| reader.push(piece).unwrap()).collect()
    }

    #[test]
    fn a_stream_is_read_alike_whatever_the_size_of_the_reads() {
        for size in 1..=STREAM.len() {
            let got = read_in_pieces(STREAM, size);
            assert_eq!(got.iter().map(|g| g.events).sum::<usize>(), 3, "reads of {size}");
            assert!(got.iter().any(|g| g.content), "reads of {size}");
            assert_eq!(got.iter().filter(|g| g.done).count(), 1, "reads of {size}");
            assert!(got.last().is_some_and(|g| g.done), "reads of {size}");
        }
    }

    #[test]
    fn a_reply_with_a_length_ends_at_its_length() {
        let got = read_in_pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 5);
        assert_eq!(got.iter().position(|g| g.done), Some(got.len() - 1));
    }

    #[test]
    fn a_refusal_is_an_error_with_its_words() {
        let refused = b"HTTP/1.1 402 Payment Required\r\ncontent-length: 5\r\n\r\nempty";
        let error = Reader::default().push(refused).unwrap_err().to_string();
        assert!(error.contains("402") && error.contains("empty"), "{error}");
    }
}
