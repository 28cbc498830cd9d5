//! AES-256-CBC as Feishu, WeCom and WeChat use it. It hides and does not prove: what was opened is
//! believed only where a signature over it was right.

use aes::Aes256;
use cbc::cipher::{
    BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _, block_padding::NoPadding,
};

/// The bytes of a block.
const BLOCK: usize = 16;

/// Opens whole blocks; the padding stays. `None` if they are not whole or there is none.
pub(crate) fn open(key: &[u8; 32], iv: &[u8; BLOCK], sealed: &[u8]) -> Option<Vec<u8>> {
    if sealed.is_empty() || !sealed.len().is_multiple_of(BLOCK) {
        return None;
    }
    let cipher = cbc::Decryptor::<Aes256>::new(key.into(), iv.into());
    cipher.decrypt_padded_vec::<NoPadding>(sealed).ok()
}

/// Seals bytes that were padded to whole blocks.
pub(crate) fn seal(key: &[u8; 32], iv: &[u8; BLOCK], padded: &[u8]) -> Vec<u8> {
    debug_assert!(padded.len().is_multiple_of(BLOCK));
    cbc::Encryptor::<Aes256>::new(key.into(), iv.into()).encrypt_padded_vec::<NoPadding>(padded)
}

/// Takes PKCS#7 padding of at most `block` bytes away; `None` if it is not such a padding.
pub(crate) fn unpad(mut bytes: Vec<u8>, block: u8) -> Option<Vec<u8>> {
    let count = *bytes.last()?;
    let keep = bytes.len().checked_sub(usize::from(count))?;
    let padding = bytes.get(keep..)?;
    if count == 0 || block < count || padding.iter().any(|byte| *byte != count) {
        return None;
    }
    bytes.truncate(keep);
    Some(bytes)
}

/// Pads to a multiple of `block` bytes as PKCS#7 does.
pub(crate) fn pad(mut bytes: Vec<u8>, block: u8) -> Vec<u8> {
    let over = bytes.len() % usize::from(block);
    // At most `block`, which is a byte.
    let count = block - u8::try_from(over).unwrap_or_default();
    bytes.resize(bytes.len() + usize::from(count), count);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.2.5 and F.2.6, the first block.
    #[test]
    fn the_published_block_is_sealed_and_opened() {
        let key = hex::decode("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let key: [u8; 32] = key.unwrap().try_into().unwrap();
        let iv: [u8; 16] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        let plain = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();
        let sealed = seal(&key, &iv, &plain);
        assert_eq!(hex::encode(&sealed), "f58c4c04d6e5f1ba779eabfb5f7bfbd6");
        assert_eq!(open(&key, &iv, &sealed), Some(plain));
        assert_eq!(open(&key, &iv, &sealed[1..]), None);
        assert_eq!(open(&key, &iv, b""), None);
    }

    #[test]
    fn a_padding_is_exact_or_none() {
        for length in 0..70 {
            let padded = pad(vec![9; length], 32);
            assert!(padded.len().is_multiple_of(32) && length < padded.len());
            assert_eq!(unpad(padded, 32), Some(vec![9; length]));
        }
        assert_eq!(unpad(vec![1, 2, 3, 2], 32), None);
        assert_eq!(unpad(vec![7, 0], 32), None);
        assert_eq!(unpad(vec![33; 33], 32), None);
        assert_eq!(unpad(vec![5], 32), None);
        assert_eq!(unpad(Vec::new(), 32), None);
    }
}
