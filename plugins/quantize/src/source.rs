//! The folder as it was published. Its files are strangers' bytes: what a header says is compared with
//! the file before anything is read by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::error::QuantizeError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Headers above this are refused, in bytes; the format's own bound.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Settings and tokenizers above this are refused, in bytes.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    kind: String,
    shape: Vec<usize>,
    /// From the file's beginning.
    at: u64,
}

/// A folder with weights.
#[derive(Debug)]
pub(crate) struct Source {
    folder: PathBuf,
    /// `config.json`.
    pub(crate) config: Value,
    tensors: BTreeMap<String, Place>,
}

/// Numbers in the forms that weights are published in.
fn number_kind(kind: &str) -> Option<DType> {
    match kind {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}

impl Source {
    /// Reads the settings and the headers.
    pub(crate) fn open(folder: &Path) -> Result<Self, QuantizeError> {
        let path = folder.join("config.json");
        let config = json(&path)?.ok_or_else(|| {
            QuantizeError::form(&path, "it is not there: this is no folder of published weights")
        })?;
        let mut tensors = BTreeMap::new();
        for file in files(folder)? {
            for (name, place) in header(&file)? {
                if tensors.insert(name.clone(), place).is_some() {
                    let reason = format!("the tensor {name} is in another file as well");
                    return Err(QuantizeError::form(&file, reason));
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), config, tensors })
    }

    /// A JSON file of the folder, if it is there.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>, QuantizeError> {
        json(&self.folder.join(name))
    }

    /// A text of the folder, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(name)).ok()
    }

    /// What the folder is called.
    pub(crate) fn name(&self) -> String {
        let folder = self.folder.canonicalize().unwrap_or_else(|_| self.folder.clone());
        folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, rows first.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.shape.as_slice())
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |place: &Place| {
            let size = number_kind(&place.kind).map_or(0, |kind| kind.size_in_bytes());
            (place.shape.iter().product::<usize>() * size) as u64
        };
        self.tensors.values().map(of).sum()
    }

    /// `count` rows of a tensor from the row `from`, as plain numbers; a vector is one row.
    pub(crate) fn rows(
        &self,
        name: &str,
        from: usize,
        count: usize,
    ) -> Result<Tensor, QuantizeError> {
        let unknown = || QuantizeError::Unknown(format!("it has no tensor {name}"));
        let place = self.tensors.get(name).ok_or_else(unknown)?;
        let kind = number_kind(&place.kind).ok_or_else(|| {
            QuantizeError::Unknown(format!("{name} holds {}, not plain numbers", place.kind))
        })?;
        let width = place.shape.last().copied().unwrap_or(1);
        let row = (width * kind.size_in_bytes()) as u64;
        let mut file = File::open(&place.file).map_err(QuantizeError::file(&place.file))?;
        file.seek(SeekFrom::Start(place.at + row * from as u64))
            .map_err(QuantizeError::file(&place.file))?;
        let mut bytes = vec![0; width * kind.size_in_bytes() * count];
        file.read_exact(&mut bytes).map_err(QuantizeError::file(&place.file))?;
        let shape: &[usize] = if place.shape.len() == 1 { &[width] } else { &[count, width] };
        Tensor::from_raw_buffer(&bytes, kind, shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|source| QuantizeError::Compute { tensor: name.to_owned(), source })
    }
}

fn json(path: &Path) -> Result<Option<Value>, QuantizeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(QuantizeError::file(path)(error)),
    };
    let mut text = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut text).map_err(QuantizeError::file(path))?;
    if JSON_BYTES_MAX < text.len() as u64 {
        return Err(QuantizeError::form(path, "it is too long"));
    }
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| QuantizeError::form(path, error.to_string()))
}

/// The files with weights: those of the index, or the only one.
fn files(folder: &Path) -> Result<Vec<PathBuf>, QuantizeError> {
    let index = folder.join(INDEX);
    let Some(list) = json(&index)? else { return Ok(vec![folder.join(SINGLE)]) };
    let map = list["weight_map"]
        .as_object()
        .ok_or_else(|| QuantizeError::form(&index, "it has no weight_map"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let plain = |name: &&str| {
        let mut parts = Path::new(name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    if let Some(elsewhere) = names.iter().find(|name| !plain(name)) {
        return Err(QuantizeError::form(&index, format!("{elsewhere:?} leads elsewhere")));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The tensors that a safetensors file says it has, each compared with the length of the file.
fn header(path: &Path) -> Result<Vec<(String, Place)>, QuantizeError> {
    let wrong = |reason: String| QuantizeError::form(path, reason);
    let mut file = File::open(path).map_err(QuantizeError::file(path))?;
    let present = file.metadata().map_err(QuantizeError::file(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(QuantizeError::file(path))?;
    let length = u64::from_le_bytes(length);
    let start = 8 + length.min(HEADER_BYTES_MAX + 1);
    if HEADER_BYTES_MAX < length || present < start {
        return Err(wrong(
            "its header is impossible; perhaps it is a pointer to the file".to_owned(),
        ));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(QuantizeError::file(path))?;
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let mut places = Vec::new();
    for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let place = place(path, &entry, start, present);
        let place = place.ok_or_else(|| wrong(format!("the tensor {name} is not whole")))?;
        places.push((name, place));
    }
    Ok(places)
}

fn place(path: &Path, entry: &Value, start: u64, present: u64) -> Option<Place> {
    let numbers = |value: &Value| -> Option<Vec<u64>> {
        value.as_array()?.iter().map(Value::as_u64).collect()
    };
    let shape = numbers(&entry["shape"])?;
    let offsets = numbers(&entry["data_offsets"])?;
    let (&[from, to], 1..=4) = (offsets.as_slice(), shape.len()) else { return None };
    let kind = entry["dtype"].as_str()?.to_owned();
    let count = shape.iter().try_fold(1u64, |product, side| product.checked_mul(*side))?;
    let bytes = to.checked_sub(from)?;
    // Other kinds are not read, so that their size does not matter.
    if let Some(kind) = number_kind(&kind)
        && count.checked_mul(kind.size_in_bytes() as u64) != Some(bytes)
    {
        return None;
    }
    if present < start.checked_add(to)? || count == 0 {
        return None;
    }
    let shape = shape.into_iter().map(usize::try_from).collect::<Result<_, _>>().ok()?;
    Some(Place { file: path.to_owned(), kind, shape, at: start + from })
}
