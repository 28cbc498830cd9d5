//! Writing GGUF, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{self, Write};

use candle_core::quantized::GgmlDType;

/// Tensors begin at multiples of this, in bytes.
const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meta {
    Number(u32),
    Fraction(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
    Fractions(Vec<f32>),
}

/// What the header says of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    pub(crate) name: String,
    /// Rows first, as everywhere but in the file.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: GgmlDType,
}

impl Info {
    /// Bytes of its numbers.
    pub(crate) fn bytes(&self) -> u64 {
        let count: usize = self.shape.iter().product();
        (count / self.kind.block_size() * self.kind.type_size()) as u64
    }
}

/// The format's numbers for kinds of tensors.
fn kind_number(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F16 => 1,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q4K => 12,
        GgmlDType::Q6K => 14,
        // Nothing else is written.
        _ => 0,
    }
}

/// Writes everything before the tensors' numbers, padding included.
pub(crate) fn write_header(
    out: &mut impl Write,
    metadata: &[(String, Meta)],
    tensors: &[Info],
) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend_from_slice(b"GGUF");
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&mut head, &tensor.name);
        let sides = u32::try_from(tensor.shape.len()).map_err(io::Error::other)?;
        head.extend_from_slice(&sides.to_le_bytes());
        for side in tensor.shape.iter().rev() {
            head.extend_from_slice(&(*side as u64).to_le_bytes());
        }
        head.extend_from_slice(&kind_number(tensor.kind).to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.write_all(&head)?;
    pad(out, head.len() as u64)
}

/// Fills up to where the next tensor begins.
pub(crate) fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&[0; 32][..usize::try_from(missing).unwrap_or(0)])
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_list<T>(out: &mut Vec<u8>, kind: u32, list: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.extend_from_slice(&9u32.to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&(list.len() as u64).to_le_bytes());
    list.iter().for_each(|item| put(out, item));
}

fn put_value(out: &mut Vec<u8>, value: &Meta) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend_from_slice(&kind.to_le_bytes());
    match value {
        Meta::Number(number) => {
            kind(out, 4);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Meta::Fraction(fraction) => {
            kind(out, 6);
            out.extend_from_slice(&fraction.to_le_bytes());
        }
        Meta::Flag(flag) => {
            kind(out, 7);
            out.push(u8::from(*flag));
        }
        Meta::Text(text) => {
            kind(out, 8);
            put_text(out, text);
        }
        Meta::Texts(texts) => put_list(out, 8, texts, |out, text| put_text(out, text)),
        Meta::Integers(numbers) => {
            put_list(out, 5, numbers, |out, number| out.extend_from_slice(&number.to_le_bytes()));
        }
        Meta::Fractions(numbers) => {
            put_list(out, 6, numbers, |out, number| out.extend_from_slice(&number.to_le_bytes()));
        }
    }
}
