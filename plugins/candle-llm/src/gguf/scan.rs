//! Reads the header of a GGUF file without believing it, before candle does: its reader makes a
//! value of 32 bytes out of each byte of an array, multiplies dimensions that overflow, and lets
//! tensors lie where they like. Nothing is kept here, so a file costs no memory until it is
//! known to be one.

use std::{
    collections::HashSet,
    io::{self, Read},
};

/// Bytes before the first tensor.
const HEADER_BYTES_MAX: u64 = 256 << 20;
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;
/// Of keys and of the names of tensors, in bytes.
const NAME_BYTES_MAX: u64 = 1024;
/// Of a text that stands alone, such as a chat template, in bytes.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Of a text in a list, such as a token, in bytes.
const ITEM_BYTES_MAX: u64 = 4096;
/// In all lists together: the largest vocabularies have a quarter of a million tokens.
const ITEMS_MAX: u64 = 1 << 22;
/// Values of one tensor.
const VALUES_MAX: u64 = 1 << 40;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;

/// The number of a type, values in a block of it, and bytes of a block.
const TYPES: &[(u32, u64, u64)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (30, 1, 2),
];

/// Why a header is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It ends too early, or says what cannot be.
    Header(String),
    /// A tensor that the file does not hold to its end: its name, and the bytes it would take.
    Beyond(String, u64),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Header(reason)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Header("it ends within its header".to_owned());
        }
        Self::Header(error.to_string())
    }
}

fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::Header(reason())) }
}

/// A tensor's place, in bytes from the first one.
struct Extent {
    name: String,
    from: u64,
    length: u64,
}

/// Reads the header of a file of `size` bytes from its first byte on.
///
/// # Errors
/// [`Fault`].
pub(super) fn scan(from: impl Read, size: u64) -> Result<(), Fault> {
    let mut header = Header { from, at: 0, size, items: 0 };
    header.skip(4)?;
    let version = header.u32()?;
    require((2..=3).contains(&version), || format!("version {version} is not supported"))?;
    let (tensors, keys) = (header.u64()?, header.u64()?);
    require(tensors <= TENSORS_MAX, || format!("{tensors} tensors, at most {TENSORS_MAX}"))?;
    require(keys <= KEYS_MAX, || format!("{keys} keys, at most {KEYS_MAX}"))?;
    let mut alignment = ALIGNMENT_DEFAULT;
    let mut names = HashSet::new();
    for _ in 0..keys {
        let key = header.name()?;
        let number = header.value(&key)?;
        if key == ALIGNMENT {
            alignment = number.unwrap_or(0);
            let fits = alignment.is_power_of_two() && (8..=65_536).contains(&alignment);
            require(fits, || format!("`{ALIGNMENT}` is no power of two from 8 to 65536"))?;
        }
        require(names.insert(key.clone()), || format!("the key `{key}` is there twice"))?;
    }
    names.clear();
    let mut extents = Vec::new();
    for _ in 0..tensors {
        let extent = header.tensor(alignment)?;
        let name = extent.name.clone();
        require(names.insert(name), || format!("tensor `{}` is there twice", extent.name))?;
        extents.push(extent);
    }
    check_places(extents, header.at.next_multiple_of(alignment), size)
}

fn check_places(mut extents: Vec<Extent>, start: u64, size: u64) -> Result<(), Fault> {
    extents.sort_by_key(|extent| extent.from);
    let mut end = 0;
    for extent in extents {
        require(end <= extent.from, || format!("tensor `{}` lies in another one", extent.name))?;
        end = extent.from.saturating_add(extent.length);
        let needed = start.saturating_add(end);
        if size < needed {
            return Err(Fault::Beyond(extent.name, needed));
        }
    }
    Ok(())
}

struct Header<R> {
    from: R,
    at: u64,
    size: u64,
    items: u64,
}

impl<R: Read> Header<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.passed(N as u64)?;
        Ok(bytes)
    }

    fn passed(&mut self, bytes: u64) -> Result<(), Fault> {
        self.at += bytes;
        require(self.at <= HEADER_BYTES_MAX, || {
            format!("it has more than {HEADER_BYTES_MAX} bytes before its first tensor")
        })
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), Fault> {
        require(count <= self.size.saturating_sub(self.at), || {
            format!("something of {count} bytes does not fit in the file")
        })?;
        let passed = io::copy(&mut (&mut self.from).take(count), &mut io::sink())?;
        if passed < count {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.passed(count)
    }

    fn text(&mut self, what: &str, max: u64) -> Result<(), Fault> {
        let length = self.u64()?;
        require(length <= max, || format!("{what} of {length} bytes, at most {max}"))?;
        self.skip(length)
    }

    /// A key, or the name of a tensor. Bytes that are no UTF-8 are kept apart by their escapes.
    fn name(&mut self) -> Result<String, Fault> {
        let length = self.u64()?;
        let fits = (1..=NAME_BYTES_MAX).contains(&length);
        require(fits, || format!("a name of {length} bytes, at most {NAME_BYTES_MAX}"))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.from.read_exact(&mut bytes)?;
        self.passed(length)?;
        String::from_utf8(bytes).map_err(|_| "a name that is not UTF-8".to_owned().into())
    }

    /// Passes a value; its number, if it is a whole one.
    fn value(&mut self, key: &str) -> Result<Option<u64>, Fault> {
        let kind = self.u32()?;
        match kind {
            8 => self.text(key, TEXT_BYTES_MAX)?,
            9 => self.list(key)?,
            _ => return self.number(kind, key),
        }
        Ok(None)
    }

    fn number(&mut self, kind: u32, key: &str) -> Result<Option<u64>, Fault> {
        Ok(match kind {
            0 | 1 => Some(self.bytes::<1>()?[0].into()),
            2 | 3 => Some(u16::from_le_bytes(self.bytes()?).into()),
            4 | 5 => Some(self.u32()?.into()),
            6 => self.bytes::<4>().map(|_| None)?,
            7 => {
                let [byte] = self.bytes()?;
                require(byte < 2, || format!("`{key}` is neither true nor false"))?;
                None
            }
            // candle reads the alignment from numbers of up to 32 bits.
            10 | 11 if key != ALIGNMENT => Some(self.u64()?),
            12 => self.bytes::<8>().map(|_| None)?,
            _ => return Err(format!("`{key}` is of the unknown type {kind}").into()),
        })
    }

    fn list(&mut self, key: &str) -> Result<(), Fault> {
        let (kind, count) = (self.u32()?, self.u64()?);
        self.items = self.items.saturating_add(count);
        require(self.items <= ITEMS_MAX, || {
            format!("`{key}` has {count} items, all lists together at most {ITEMS_MAX}")
        })?;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    self.text(key, ITEM_BYTES_MAX)?;
                }
                return Ok(());
            }
            9 => return Err(format!("`{key}` is a list of lists").into()),
            _ => return Err(format!("`{key}` is a list of the unknown type {kind}").into()),
        };
        self.skip(count * width)
    }

    fn tensor(&mut self, alignment: u64) -> Result<Extent, Fault> {
        let name = self.name()?;
        let dimensions = self.u32()?;
        require((1..=DIMENSIONS_MAX).contains(&dimensions), || {
            format!("tensor `{name}` has {dimensions} dimensions, from 1 to {DIMENSIONS_MAX}")
        })?;
        let (mut values, mut row) = (1u64, 0);
        for dimension in 0..dimensions {
            let width = self.u64()?;
            if dimension == 0 {
                row = width;
            }
            values = values.checked_mul(width).filter(|values| *values <= VALUES_MAX).unwrap_or(0);
            require(0 < values, || {
                format!("tensor `{name}` has an impossible dimension of {width}")
            })?;
        }
        let (kind, from) = (self.u32()?, self.u64()?);
        let known = TYPES.iter().find(|(number, ..)| *number == kind);
        let Some((_, block, bytes)) = known else {
            return Err(format!("tensor `{name}` is of the unknown type {kind}").into());
        };
        require(row.is_multiple_of(*block), || {
            format!("tensor `{name}` has rows of {row} values, not whole blocks of {block}")
        })?;
        require(from.is_multiple_of(alignment), || {
            format!("tensor `{name}` begins at {from}, no multiple of {alignment}")
        })?;
        Ok(Extent { name, from, length: values / block * bytes })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sizes_of_types_are_those_of_candle() {
        use GgmlDType::{
            BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8_1, Q8K,
        };
        let all =
            [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K, BF16];
        for (kind, (number, block, bytes)) in all.into_iter().zip(TYPES) {
            let ours = (kind.block_size() as u64, kind.type_size() as u64);
            assert_eq!(ours, (*block, *bytes), "{number}");
        }
    }

    fn file(bytes: &[u8]) -> Vec<u8> {
        [b"GGUF\x03\0\0\0".as_slice(), bytes].concat()
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_passed_and_never_believed(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            tensors in 0u64..4,
            keys in 0u64..4,
        ) {
            let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
            for bytes in [file(&bytes), file(&[counts, bytes].concat())] {
                // What passes here is read by candle without a panic.
                if scan(bytes.as_slice(), bytes.len() as u64).is_ok() {
                    let mut cursor = std::io::Cursor::new(&bytes);
                    drop(candle_core::quantized::gguf_file::Content::read(&mut cursor));
                }
            }
        }
    }
}
