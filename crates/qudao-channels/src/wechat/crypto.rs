//! The cipher and the signature that WeCom, WeChat and DingTalk's callbacks share: AES-256-CBC with
//! a key of 43 characters, in which a message is `16 random bytes ‖ length ‖ message ‖ receiver`,
//! and SHA-1 over the sorted texts with a token between them.

use base64::{
    Engine as _, alphabet,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD},
    },
};

use crate::{ciphers, signature};

/// The padding goes to multiples of this many bytes.
const PADDED_TO: u8 = 32;
/// Random bytes before the message.
const RANDOM: usize = 16;
/// Keys are 43 characters; the bits that the last one has too many are whatever they are.
const KEYS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key by which messages are sealed and opened.
#[derive(Clone, Copy)]
pub(super) struct Cipher([u8; 32]);

impl Cipher {
    /// The cipher of an `EncodingAESKey`; `None` if it is none.
    pub(super) fn new(key: &str) -> Option<Self> {
        if key.len() != 43 {
            return None;
        }
        Some(Self(KEYS.decode(key).ok()?.try_into().ok()?))
    }

    /// Opens a message for `receiver`, and for nobody else. The signature over it is to be checked
    /// before.
    pub(super) fn open(&self, sealed: &str, receiver: &str) -> Option<Vec<u8>> {
        let sealed = STANDARD.decode(sealed).ok()?;
        let padded = ciphers::open(&self.0, self.iv(), &sealed)?;
        let opened = ciphers::unpad(padded, PADDED_TO)?;
        let (length, rest) = opened.get(RANDOM..)?.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (message, to) = rest.split_at_checked(length)?;
        signature::same(to, receiver.as_bytes()).then(|| message.to_vec())
    }

    /// Seals a message for `receiver`. `seed` has to differ from message to message.
    pub(super) fn seal(&self, seed: &[u8], message: &[u8], receiver: &str) -> String {
        // Derived with the key, the bytes are as random to others as any.
        let random = signature::hmac_sha256(&self.0, &[seed, b"\0", message]);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let parts = [&random[..RANDOM], length.as_slice(), message, receiver.as_bytes()];
        let padded = ciphers::pad(parts.concat(), PADDED_TO);
        STANDARD.encode(ciphers::seal(&self.0, self.iv(), &padded))
    }

    /// The vector is the key's first half.
    fn iv(&self) -> &[u8; 16] {
        self.0.first_chunk().unwrap_or(&[0; 16])
    }
}

/// The signature over texts, as hexadecimal digits.
pub(super) fn sign(token: &str, texts: &[&str]) -> String {
    let mut sorted: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    sorted.push(token.as_bytes());
    sorted.sort_unstable();
    hex::encode(signature::sha1(&sorted))
}

/// Whether any of the tokens makes this signature. No text may be empty: then two sets of texts
/// would have one signature.
pub(super) fn is_signed(tokens: &[&str], texts: &[&str], shown: &str) -> bool {
    !texts.iter().any(|text| text.is_empty())
        && signature::any(tokens.iter().copied(), shown.as_bytes(), |token| {
            sign(token, texts).into_bytes()
        })
}
