//! The conversion itself, piece by piece.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::QuantizeError;
use crate::family::{Change, Plan, Planned, Weight};
use crate::gguf::{Info, Meta, pad, write_header};
use crate::source::Source;
use crate::tokenizer;

/// Numbers of a matrix that one thread holds at once.
const PIECE: usize = 4 << 20;
/// The format's numbers for what most of a file is made of.
const FILE_TYPE_Q8_0: u32 = 7;
const FILE_TYPE_Q4_K_M: u32 = 15;
/// Factors of the angles.
const STRETCH: &str = "rope_freqs.weight";

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 8.5 bits a number.
    Q8_0,
    /// 4.5 bits a number, 6.6 where rounding is felt more; as llama.cpp's Q4_K_M.
    Q4K,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Tensors in the file.
    pub tensors: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of the numbers that it was made of.
    pub source_bytes: u64,
    /// Checksum of the file.
    pub sha256: String,
}

impl Kind {
    /// How a tensor is stored. Rows that do not divide into blocks keep more bits.
    fn of(self, tensor: &Planned) -> GgmlDType {
        let [_, columns] = tensor.shape[..] else { return GgmlDType::F32 };
        let fits = |kind: GgmlDType| columns.is_multiple_of(kind.block_size());
        let wanted = match (self, tensor.weight) {
            (Self::Q8_0, _) => GgmlDType::Q8_0,
            (Self::Q4K, Weight::Felt) => GgmlDType::Q6K,
            (Self::Q4K, Weight::Plain) => GgmlDType::Q4K,
        };
        [wanted, GgmlDType::Q8_0].into_iter().find(|kind| fits(*kind)).unwrap_or(GgmlDType::F16)
    }
}

/// Converts the folder `from` to the file `to`. `progress` hears of each tensor: done, of how many.
///
/// # Errors
/// [`QuantizeError`]; then `to` is as it was.
pub fn convert(
    from: &Path,
    to: &Path,
    kind: Kind,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary, QuantizeError> {
    let source = Source::open(from)?;
    let plan = Plan::of(&source)?;
    let mut metadata = plan.metadata.clone();
    metadata.extend(tokenizer::metadata(&source, plan.vocabulary)?);
    let file_type = if kind == Kind::Q8_0 { FILE_TYPE_Q8_0 } else { FILE_TYPE_Q4_K_M };
    metadata.push(("general.file_type".to_owned(), Meta::Number(file_type)));
    metadata.push(("general.quantization_version".to_owned(), Meta::Number(2)));
    let mut infos: Vec<Info> = plan
        .tensors
        .iter()
        .map(|tensor| Info {
            name: tensor.to.clone(),
            shape: tensor.shape.clone(),
            kind: kind.of(tensor),
        })
        .collect();
    if let Some(factors) = &plan.stretch {
        let (name, shape) = (STRETCH.to_owned(), vec![factors.len()]);
        infos.push(Info { name, shape, kind: GgmlDType::F32 });
    }
    let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let file = tempfile::NamedTempFile::new_in(folder).map_err(QuantizeError::file(folder))?;
    let mut out = Output::new(file.as_file());
    let disk = |error| QuantizeError::file(to)(error);
    write_header(&mut out, &metadata, &infos).map_err(disk)?;
    for (at, (tensor, info)) in plan.tensors.iter().zip(&infos).enumerate() {
        write_tensor(&source, tensor, info, &mut out, to)?;
        progress(at + 1, infos.len());
    }
    if let Some(factors) = &plan.stretch {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        out.write_all(&bytes).and_then(|()| pad(&mut out, bytes.len() as u64)).map_err(disk)?;
        progress(infos.len(), infos.len());
    }
    let (bytes, sha256) = out.end().map_err(disk)?;
    file.persist(to).map_err(|error| disk(error.error))?;
    Ok(Summary { tensors: infos.len(), bytes, source_bytes: source.bytes(), sha256 })
}

/// Counts and hashes what is written.
struct Output<'a> {
    file: BufWriter<&'a File>,
    hash: Sha256,
    written: u64,
}

impl<'a> Output<'a> {
    fn new(file: &'a File) -> Self {
        Self { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), written: 0 }
    }

    fn end(self) -> io::Result<(u64, String)> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((self.written, hex::encode(self.hash.finalize())))
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_tensor(
    source: &Source,
    tensor: &Planned,
    info: &Info,
    out: &mut Output<'_>,
    to: &Path,
) -> Result<(), QuantizeError> {
    let (rows, columns) = match tensor.shape[..] {
        [rows, columns] => (rows, columns),
        _ => (1, tensor.shape.iter().product()),
    };
    // A change moves rows within a head, so that such a matrix is read whole.
    let piece = match tensor.change {
        Change::Pair { .. } => rows,
        Change::None | Change::AddOne => (PIECE / columns.max(1)).clamp(1, rows),
    };
    let starts: Vec<usize> = (0..rows).step_by(piece).collect();
    for starts in starts.chunks(rayon::current_num_threads().max(1)) {
        let pieces: Vec<Vec<u8>> = starts
            .par_iter()
            .map(|start| {
                let numbers = source.rows(&tensor.from, *start, piece.min(rows - start))?;
                compress(&numbers, tensor.change, info.kind).map_err(|source| {
                    QuantizeError::Compute { tensor: tensor.from.clone(), source }
                })
            })
            .collect::<Result<_, _>>()?;
        for piece in &pieces {
            out.write_all(piece).map_err(QuantizeError::file(to))?;
        }
    }
    pad(out, info.bytes()).map_err(QuantizeError::file(to))
}

fn compress(numbers: &Tensor, change: Change, kind: GgmlDType) -> candle_core::Result<Vec<u8>> {
    let numbers = match change {
        Change::None => numbers.clone(),
        Change::AddOne => (numbers + 1.0)?,
        Change::Pair { heads } => pair(numbers, heads)?,
    };
    Ok(QTensor::quantize(&numbers.to_device(&Device::Cpu)?, kind)?.data()?.into_owned())
}

/// Each head's first half of rows and its second are put in turns: 0, 4, 1, 5, 2, 6, 3, 7.
fn pair(numbers: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = numbers.shape().clone();
    let rows = shape.dims()[0];
    let columns = shape.elem_count() / rows;
    let halves = numbers.reshape((heads, 2, rows / heads / 2, columns))?;
    halves.transpose(1, 2)?.contiguous()?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_heads_become_pairs() {
        let numbers = Tensor::arange(0f32, 16.0, &Device::Cpu).unwrap().reshape((16, 1)).unwrap();
        let paired = pair(&numbers, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];
        assert_eq!(paired, expected.map(|row| row as f32));
        let vector = Tensor::arange(0f32, 8.0, &Device::Cpu).unwrap();
        let paired = pair(&vector, 1).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(paired, [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    }

    #[test]
    fn rows_that_do_not_divide_into_blocks_keep_more_bits() {
        let tensor = |columns, weight| Planned {
            from: String::new(),
            to: String::new(),
            shape: vec![4, columns],
            change: Change::None,
            weight,
        };
        assert_eq!(Kind::Q4K.of(&tensor(512, Weight::Plain)), GgmlDType::Q4K);
        assert_eq!(Kind::Q4K.of(&tensor(512, Weight::Felt)), GgmlDType::Q6K);
        assert_eq!(Kind::Q4K.of(&tensor(576, Weight::Plain)), GgmlDType::Q8_0);
        assert_eq!(Kind::Q8_0.of(&tensor(100, Weight::Plain)), GgmlDType::F16);
    }
}
