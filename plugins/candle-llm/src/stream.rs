//! From tokens to the text that may be shown: whole characters only, and nothing of a stop
//! string, even when it comes in pieces.

/// Holds back what may still turn out to be half a character or the start of a stop string.
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes of an unfinished character.
    bytes: Vec<u8>,
    /// Text that a stop string may still begin in.
    text: String,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends at any of these strings.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, bytes: Vec::new(), text: String::new(), stopped: false }
    }

    /// Whether a stop string has come.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes the bytes of a token and returns what can be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        let first = self.stops.iter().filter_map(|stop| self.text.find(stop.as_str())).min();
        if let Some(at) = first {
            self.stopped = true;
            self.bytes.clear();
            self.text.truncate(at);
            return std::mem::take(&mut self.text);
        }
        let held = self.stops.iter().map(|stop| overlap(&self.text, stop)).max().unwrap_or(0);
        let rest = self.text.split_off(self.text.len() - held);
        std::mem::replace(&mut self.text, rest)
    }

    /// Returns what was held back, at the end of a reply that no stop string ended. Half a
    /// character becomes one replacement character.
    pub fn finish(&mut self) -> String {
        if !self.stopped && !self.bytes.is_empty() {
            self.bytes.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.text)
    }

    /// Moves whole characters over. A byte that can never become one is replaced.
    fn take_characters(&mut self) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.text.push_str(text);
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let good = error.valid_up_to();
                    self.text.push_str(&String::from_utf8_lossy(&self.bytes[..good]));
                    let Some(bad) = error.error_len() else {
                        self.bytes.drain(..good);
                        return;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..good + bad);
                }
            }
        }
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|length| {
            let from = text.len() - length;
            text.is_char_boundary(from) && stop.as_bytes().starts_with(&text.as_bytes()[from..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&[u8]]) -> (String, Vec<String>) {
        let mut stream = TextStream::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut shown: Vec<String> = pieces.iter().map(|piece| stream.push(piece)).collect();
        shown.push(stream.finish());
        (shown.concat(), shown)
    }

    #[test]
    fn characters_are_shown_only_when_whole() {
        let text = "你好，😀!";
        for size in 1..5 {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (all, shown) = stream(&[], &pieces);
            assert_eq!(all, text);
            assert!(!shown.concat().contains(char::REPLACEMENT_CHARACTER));
        }
    }

    #[test]
    fn a_reply_cut_inside_a_character_ends_with_one_replacement() {
        let (all, _) = stream(&[], &["好".as_bytes(), &"😀".as_bytes()[..2]]);
        assert_eq!(all, "好\u{fffd}");
    }

    #[test]
    fn bytes_that_are_no_character_do_not_stop_the_rest() {
        let (all, _) = stream(&[], &[&[0xff, 0xfe], b"ok"]);
        assert_eq!(all, "\u{fffd}\u{fffd}ok");
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        let (all, shown) = stream(&["END"], &[b"one E", b"N", b"D two"]);
        assert_eq!(all, "one ");
        assert_eq!(shown[0], "one ");
    }

    #[test]
    fn text_that_only_begins_like_a_stop_string_is_shown_in_the_end() {
        assert_eq!(stream(&["END"], &[b"the E", b"N", b"C"]).0, "the ENC");
        assert_eq!(stream(&["END"], &[b"the EN"]).0, "the EN");
    }

    #[test]
    fn the_earliest_of_several_stop_strings_wins() {
        assert_eq!(stream(&["three", "two"], &[b"one two three"]).0, "one ");
    }

    #[test]
    fn a_chinese_stop_string_split_inside_a_character_is_found() {
        let stop = "用户：";
        let reply = format!("好的。{stop}再说");
        let pieces: Vec<&[u8]> = reply.as_bytes().chunks(2).collect();
        assert_eq!(stream(&[stop], &pieces).0, "好的。");
    }
}
