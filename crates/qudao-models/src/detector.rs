//! Detectors become safetensors files with the names that their families train with, so that the
//! `vision` plugin finds each layer by its name.

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::assemble::ordered;
use crate::error::ModelsError;
use crate::onnx::{Array, Onnx};
use crate::package::sha256;

/// Checksums of detectors that were compared with ONNX Runtime, by the names that they are added under.
const KNOWN: &[(&str, &str)] =
    &[("yolox-nano", "e8af074932d4ed7e232278e3055cefcdea3edf178874a3694ae292649fb464dd")];
/// Says in a file's metadata that a detector is in it.
const KIND: (&str, &str) = ("qudao.kind", "detect");
/// Bytes of a safetensors header that are looked at.
const HEADER_MAX: u64 = 4 << 20;

/// Puts a detector in ONNX among the models in `directory`, as `NAME.safetensors`. A name of this program's
/// list has to have that list's checksum; another one is taken only with `accept_unverified`.
///
/// # Errors
/// [`ModelsError::Checksum`], [`ModelsError::Unverified`], [`ModelsError::Convert`],
/// [`ModelsError::File`]; [`ModelsError::Catalogue`] for a name that is none.
pub fn add_detector(
    name: &str,
    onnx: &Path,
    directory: &Path,
    accept_unverified: bool,
) -> Result<PathBuf, ModelsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        let reason = format!("`{name}` is not a name: letters, digits, `.`, `_`, `-`");
        return Err(ModelsError::Catalogue { path: "(detectors)".to_owned(), reason });
    }
    let what = onnx.display().to_string();
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, expected)) => {
            let found = sha256(onnx)?;
            if found != *expected {
                return Err(ModelsError::Mismatch {
                    what,
                    expected: (*expected).to_owned(),
                    found,
                });
            }
        }
        None if accept_unverified => {}
        None => return Err(ModelsError::Unverified { what }),
    }
    let io = |source| ModelsError::File { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let to = directory.join(format!("{name}.safetensors"));
    convert_detector(onnx, &to)?;
    Ok(to)
}

/// The detectors among the models in `directory`, by name.
pub fn detectors(directory: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"))
        .filter(|path| is_detector(path).unwrap_or(false))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path)))
        .collect()
}

fn is_detector(path: &Path) -> std::io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if HEADER_MAX < length {
        return Ok(false);
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    Ok(header["__metadata__"][KIND.0] == KIND.1)
}

/// Rewrites a YOLOX or YOLOv8 detector in ONNX as safetensors.
///
/// An export of YOLOX folds batch norms into convolutions and forgets most names; what it keeps is the
/// order in which the convolutions are computed, and the order tells the names. An export of YOLOv8
/// keeps them.
///
/// # Errors
/// [`ModelsError::Convert`] if the file is none of the two; [`ModelsError::File`].
pub fn convert_detector(onnx: &Path, to: &Path) -> Result<(), ModelsError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelsError::File { path, source }
    };
    let bytes = std::fs::read(onnx).map_err(io(onnx))?;
    let fail = |reason| ModelsError::Convert { path: onnx.to_owned(), reason };
    let file = Onnx::read(&bytes).map_err(fail)?;
    let named = named(&file).map_err(fail)?;
    let mut remarks = BTreeMap::from([KIND]);
    for key in ["names", "imgsz"] {
        if let Some(value) = file.remarks.get(key) {
            remarks.insert(key, value.as_str());
        }
    }
    let partial = to.with_extension("safetensors.part");
    let mut out = std::fs::File::create(&partial).map_err(io(&partial))?;
    write(&named, &remarks, &mut out).map_err(io(&partial))?;
    out.sync_all().map_err(io(&partial))?;
    std::fs::rename(&partial, to).map_err(io(to))
}

type Named<'a> = BTreeMap<String, &'a Array>;

fn named(file: &Onnx) -> Result<Named<'_>, String> {
    let kept: Named<'_> = file
        .arrays
        .iter()
        .filter(|(name, _)| name.starts_with("model."))
        .map(|(name, array)| (name.clone(), array))
        .collect();
    if kept.contains_key("model.22.cv2.0.0.conv.weight") {
        return Ok(kept);
    }
    let names = yolox_names(file)?;
    let mut named = Named::new();
    for (name, (weight, bias)) in names.iter().zip(&file.convolutions) {
        let mut add = |part: &str, from: &str| {
            let array = file.arrays.get(from).ok_or_else(|| format!("`{from}` is not there"))?;
            named.insert(format!("{name}.{part}"), array);
            Ok::<_, String>(())
        };
        add("weight", weight)?;
        if let Some(bias) = bias {
            add("bias", bias)?;
        }
    }
    Ok(named)
}

/// Names of a YOLOX's convolutions in the order in which they are computed.
fn yolox_names(file: &Onnx) -> Result<Vec<String>, String> {
    if !file.arrays.contains_key("head.cls_preds.0.weight") {
        return Err("it is neither YOLOX nor YOLOv8".to_owned());
    }
    let shapes: Vec<&[usize]> = file
        .convolutions
        .iter()
        .map(|(weight, _)| file.arrays.get(weight).map_or(&[][..], |array| &array.shape))
        .collect();
    let mut order = Order { shapes: &shapes, names: Vec::new() };
    order.backbone();
    order.neck();
    for level in 0..3 {
        order.head(level);
    }
    if order.names.len() == shapes.len() && order.fits(file) {
        return Ok(order.names);
    }
    Err(format!(
        "its {} convolutions are not those of a YOLOX ({} expected)",
        shapes.len(),
        order.names.len()
    ))
}

/// Walks through a YOLOX as it computes. How many bottlenecks a part has, and whether a convolution is
/// split in a depthwise and a pointwise one, is seen by the shapes that come next.
struct Order<'a> {
    shapes: &'a [&'a [usize]],
    names: Vec<String>,
}

impl Order<'_> {
    fn next(&self) -> &[usize] {
        self.shapes.get(self.names.len()).copied().unwrap_or_default()
    }

    fn next_is_depthwise(&self) -> bool {
        matches!(self.next(), [outputs, 1, 3, 3] if *outputs > 1)
    }

    fn plain(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    fn conv(&mut self, name: &str) {
        if self.next_is_depthwise() {
            self.plain(&format!("{name}.dconv.conv"));
            self.plain(&format!("{name}.pconv.conv"));
        } else {
            self.plain(&format!("{name}.conv"));
        }
    }

    /// Bottlenecks come in twos of a pointwise convolution and one that is 3 wide; the part ends with a
    /// pointwise one that is followed by something else or reads both ways' channels.
    fn csp(&mut self, name: &str) {
        let width = self.next().first().copied().unwrap_or_default();
        self.conv(&format!("{name}.conv1"));
        self.conv(&format!("{name}.conv2"));
        let mut at = 0;
        while matches!(self.next(), [_, inputs, 1, 1] if *inputs == width) {
            self.conv(&format!("{name}.m.{at}.conv1"));
            self.conv(&format!("{name}.m.{at}.conv2"));
            at += 1;
        }
        self.conv(&format!("{name}.conv3"));
    }

    fn backbone(&mut self) {
        let name = "backbone.backbone";
        self.conv(&format!("{name}.stem.conv"));
        for stage in 2..=4 {
            self.conv(&format!("{name}.dark{stage}.0"));
            self.csp(&format!("{name}.dark{stage}.1"));
        }
        self.conv(&format!("{name}.dark5.0"));
        self.conv(&format!("{name}.dark5.1.conv1"));
        self.conv(&format!("{name}.dark5.1.conv2"));
        self.csp(&format!("{name}.dark5.2"));
    }

    fn neck(&mut self) {
        let parts = [
            ("lateral_conv0", "C3_p4"),
            ("reduce_conv1", "C3_p3"),
            ("bu_conv2", "C3_n3"),
            ("bu_conv1", "C3_n4"),
        ];
        for (conv, csp) in parts {
            self.conv(&format!("backbone.{conv}"));
            self.csp(&format!("backbone.{csp}"));
        }
    }

    fn head(&mut self, level: usize) {
        self.conv(&format!("head.stems.{level}"));
        for (convs, preds) in [("cls_convs", "cls_preds"), ("reg_convs", "reg_preds")] {
            self.conv(&format!("head.{convs}.{level}.0"));
            self.conv(&format!("head.{convs}.{level}.1"));
            self.plain(&format!("head.{preds}.{level}"));
        }
        self.plain(&format!("head.obj_preds.{level}"));
    }

    /// The names that the export has kept stand where they should.
    fn fits(&self, file: &Onnx) -> bool {
        let kept = self.names.iter().zip(&file.convolutions);
        kept.filter(|(name, _)| name.contains("_preds."))
            .all(|(name, (weight, _))| *weight == format!("{name}.weight"))
    }
}

/// The form of safetensors: the length of a JSON header, the header, then the numbers.
fn write(
    named: &Named<'_>,
    remarks: &BTreeMap<&str, &str>,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(remarks));
    let mut at = 0;
    for (name, array) in named {
        let end = at + 4 * array.values.len();
        let entry = json!({ "dtype": "F32", "shape": array.shape, "data_offsets": [at, end] });
        header.insert(name.clone(), entry);
        at = end;
    }
    let mut header = ordered(Value::Object(header));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for array in named.values() {
        let bytes: Vec<u8> = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
