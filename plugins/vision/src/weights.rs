//! Layers out of a safetensors file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::LoadError;
use crate::layer::{Activation, Layer};

/// Added to a variance before its root, as both families train with it.
const EPSILON: f32 = 1e-3;

/// The tensors of a file, and what is written beside them.
pub struct Weights {
    tensors: HashMap<String, Tensor>,
    /// The file's own remarks, such as the names of the classes.
    pub metadata: HashMap<String, String>,
}

impl Weights {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let fail = |reason: String| LoadError::Read { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let metadata = metadata(&bytes).ok_or_else(|| fail("no safetensors file".to_owned()))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { tensors, metadata })
    }

    /// Bytes of all tensors in single precision.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| 4 * tensor.elem_count() as u64).sum()
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Numbers and shape of a tensor.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn values(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), LoadError> {
        let tensor = self.tensors.get(name).ok_or_else(|| LoadError::Missing(name.to_owned()))?;
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok((values, tensor.dims().to_vec()))
    }

    /// The convolution `NAME.conv` with the batch norm `NAME.bn`, if there is one, and SiLU.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn block(&self, name: &str, stride: usize) -> Result<Layer, LoadError> {
        let mut layer = self.conv(&format!("{name}.conv"), stride, Activation::Silu)?;
        if self.has(&format!("{name}.bn.weight")) {
            self.fold(&mut layer, &format!("{name}.bn"))?;
        }
        Ok(layer)
    }

    /// The convolution `NAME`.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn conv(
        &self,
        name: &str,
        stride: usize,
        activation: Activation,
    ) -> Result<Layer, LoadError> {
        let tensor = format!("{name}.weight");
        let (weight, shape) = self.values(&tensor)?;
        let wrong = |found: &[usize], tensor: String, expected: &str| LoadError::Shape {
            tensor,
            found: found.to_vec(),
            expected: expected.to_owned(),
        };
        let &[outputs, inputs, size, width] = shape.as_slice() else {
            return Err(wrong(&shape, tensor, "four dimensions"));
        };
        if size != width || !matches!(size, 1 | 3) || outputs == 0 || inputs == 0 {
            return Err(wrong(&shape, tensor, "[outputs, inputs, 1 or 3, the same]"));
        }
        let bias = format!("{name}.bias");
        let bias = match self.has(&bias) {
            false => vec![0.0; outputs],
            true => match self.values(&bias)? {
                (values, shape) if shape == [outputs] => values,
                (_, shape) => return Err(wrong(&shape, bias, "one number per output")),
            },
        };
        // No convolution of the two families but the depthwise ones has one input and many outputs.
        let depthwise = inputs == 1 && outputs > 1;
        let inputs = if depthwise { outputs } else { inputs };
        Ok(Layer { weight, bias, inputs, outputs, size, stride, depthwise, activation })
    }

    fn fold(&self, layer: &mut Layer, name: &str) -> Result<(), LoadError> {
        let part = |what: &str| {
            let tensor = format!("{name}.{what}");
            let (values, found) = self.values(&tensor)?;
            if values.len() == layer.outputs {
                return Ok(values);
            }
            let expected = format!("[{}]", layer.outputs);
            Err(LoadError::Shape { tensor, found, expected })
        };
        let (weight, bias) = (part("weight")?, part("bias")?);
        let (mean, variance) = (part("running_mean")?, part("running_var")?);
        let row = layer.weight.len() / layer.outputs;
        for (output, values) in layer.weight.chunks_exact_mut(row).enumerate() {
            let scale = weight[output] / (variance[output] + EPSILON).sqrt();
            values.iter_mut().for_each(|value| *value *= scale);
            layer.bias[output] = (layer.bias[output] - mean[output]) * scale + bias[output];
        }
        Ok(())
    }
}

/// The field `__metadata__` of the header: eight bytes of length, then JSON.
fn metadata(bytes: &[u8]) -> Option<HashMap<String, String>> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..8usize.checked_add(usize::try_from(length).ok()?)?)?;
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let field = header.get("__metadata__").cloned().unwrap_or_default();
    Some(serde_json::from_value(field).unwrap_or_default())
}
