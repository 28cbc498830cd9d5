//! UTF-8 at token boundaries: a token may end in the middle of a code point.

/// Collects the bytes of tokens and gives out whole code points only.
#[derive(Debug, Default, Clone)]
pub struct TokenText {
    rest: Vec<u8>,
}

impl TokenText {
    /// Adds the bytes of one token and returns the text that is complete by now, maybe empty.
    /// Bytes that can never become UTF-8 turn into U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.rest.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.rest[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.rest.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.rest.drain(..valid + bad);
                }
            }
        }
    }

    /// The end of the answer: what is still incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.rest).into_owned();
        self.rest.clear();
        text
    }
}

#[cfg(test)]
mod tests;
