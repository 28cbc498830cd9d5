//! Opening a GGUF file, with every check that can be made before a weight is read.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Shape};

use crate::error::LoadError;

mod scan;

use scan::Fault;

/// An open GGUF file whose tensors are known to be whole.
pub struct Gguf {
    path: PathBuf,
    content: Content,
}

impl Gguf {
    /// Reads the header, without believing it, and compares every tensor's extent with the length
    /// of the file.
    ///
    /// # Errors
    /// [`LoadError::Read`], [`LoadError::NotGguf`], [`LoadError::Header`],
    /// [`LoadError::Truncated`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        // A pipe would be waited for, and a device may have no end.
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(LoadError::NotGguf { path: path.to_owned() });
        }
        let mut file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let present = metadata.len();
        let mut magic = [0u8; 4];
        let magic_read = file.read_exact(&mut magic);
        if magic_read.is_err() || &magic != b"GGUF" {
            return Err(LoadError::NotGguf { path: path.to_owned() });
        }
        let header = |reason| LoadError::Header { path: path.to_owned(), reason };
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut reader = BufReader::new(file);
        scan::scan(&mut reader, present).map_err(|fault| match fault {
            Fault::Header(reason) => header(reason),
            Fault::Beyond(tensor, needed) => {
                LoadError::Truncated { path: path.to_owned(), tensor, needed, present }
            }
        })?;
        reader.seek(SeekFrom::Start(0)).map_err(read)?;
        let content = Content::read(&mut reader).map_err(|error| header(error.to_string()))?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A metadata text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(|value| value.to_string().ok()).map(String::as_str)
    }

    /// A metadata number, whatever its width in the file.
    pub fn number(&self, key: &str) -> Option<u64> {
        number(self.value(key)?)
    }

    /// A metadata fraction.
    pub fn fraction(&self, key: &str) -> Option<f32> {
        self.value(key).and_then(|value| value.to_f32().ok())
    }

    /// A metadata truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.value(key).and_then(|value| value.to_bool().ok())
    }

    /// A metadata list.
    pub fn list(&self, key: &str) -> Option<&[Value]> {
        self.value(key).and_then(|value| value.to_vec().ok()).map(Vec::as_slice)
    }

    /// The shape of a tensor, rows first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|info| info.shape.dims())
    }

    /// Number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.content.tensor_infos.values().map(|info| info.shape.elem_count() as u64).sum()
    }

    /// Bytes of all tensors as the file has them.
    pub fn tensor_bytes(&self) -> u64 {
        let bytes = |info: &TensorInfo| bytes_of(info.ggml_dtype, info.shape.elem_count());
        self.content.tensor_infos.values().map(bytes).sum()
    }

    /// Reads a tensor as it is to a device.
    ///
    /// # Errors
    /// [`LoadError::Missing`] without that tensor, [`LoadError::Read`], [`LoadError::Weights`].
    pub fn quantised(&self, name: &str, device: &Device) -> Result<QTensor, LoadError> {
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| LoadError::Missing(name.to_owned()))?;
        let read = |source| LoadError::Read { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(read)?;
        Ok(info.read(&mut file, self.content.tensor_data_offset, device)?)
    }

    /// Reads rows `from .. from + count` of a tensor as they are, with their type and width.
    ///
    /// # Errors
    /// [`LoadError::Missing`] without that tensor, [`LoadError::Read`].
    pub fn packed_rows(
        &self,
        name: &str,
        from: usize,
        count: usize,
    ) -> Result<(GgmlDType, usize, Vec<u8>), LoadError> {
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| LoadError::Missing(name.to_owned()))?;
        let width = info.shape.dims().last().copied().unwrap_or(1);
        let row = bytes_of(info.ggml_dtype, width);
        let start = self.content.tensor_data_offset + info.offset + row * from as u64;
        let length =
            usize::try_from(row * count as u64).map_err(|_| LoadError::Missing(name.to_owned()))?;
        let read = |source| LoadError::Read { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(read)?;
        file.seek(SeekFrom::Start(start)).map_err(read)?;
        let mut bytes = vec![0u8; length];
        file.read_exact(&mut bytes).map_err(read)?;
        Ok((info.ggml_dtype, width, bytes))
    }

    /// Reads rows `from .. from + count` of a tensor as plain numbers.
    ///
    /// # Errors
    /// As [`Gguf::packed_rows`], and [`LoadError::Weights`].
    pub fn rows(&self, name: &str, from: usize, count: usize) -> Result<Vec<f32>, LoadError> {
        let (kind, width, bytes) = self.packed_rows(name, from, count)?;
        plain(kind, width, count, bytes)
    }

    /// Reads a vector of `length` values.
    ///
    /// # Errors
    /// As [`Gguf::rows`], and [`LoadError::Shape`].
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        self.expect(name, &[length])?;
        self.rows(name, 0, 1)
    }

    /// Checks that a tensor exists in this shape.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn expect(&self, name: &str, expected: &[usize]) -> Result<(), LoadError> {
        let found = self.shape(name).ok_or_else(|| LoadError::Missing(name.to_owned()))?;
        if found == expected {
            return Ok(());
        }
        Err(LoadError::Shape {
            tensor: name.to_owned(),
            found: found.to_vec(),
            expected: expected.to_vec(),
        })
    }
}

/// Rows of any type as plain numbers.
///
/// # Errors
/// [`LoadError::Weights`].
pub(crate) fn plain(
    kind: GgmlDType,
    width: usize,
    rows: usize,
    bytes: Vec<u8>,
) -> Result<Vec<f32>, LoadError> {
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, kind)?;
    let tensor = QTensor::new(storage, Shape::from((rows, width)))?;
    Ok(tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// A number out of any of the integer types of the format.
pub fn number(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => Some(v.into()),
        Value::U64(v) => Some(v),
        Value::I8(v) => v.try_into().ok(),
        Value::I16(v) => v.try_into().ok(),
        Value::I32(v) => v.try_into().ok(),
        Value::I64(v) => v.try_into().ok(),
        _ => None,
    }
}

fn bytes_of(kind: GgmlDType, values: usize) -> u64 {
    (values.div_ceil(kind.block_size()) * kind.type_size()) as u64
}
