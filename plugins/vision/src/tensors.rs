//! The networks on candle's tensors, on any device that candle knows.

use candle_core::{Device, Result, Tensor};

use crate::layer::{Activation, Layer};
use crate::ops::{Grid, Ops};

/// A device of candle's.
pub struct Tensors {
    device: Device,
}

impl Tensors {
    /// Computes on this device.
    pub fn new(device: Device) -> Self {
        Self { device }
    }
}

/// A layer on the device.
pub struct TensorLayer {
    weight: Tensor,
    bias: Tensor,
    layer: Layer,
}

impl Ops for Tensors {
    type Layer = TensorLayer;
    /// `[1, channels, height, width]`.
    type Map = Tensor;

    fn prepare(&self, mut layer: Layer) -> Result<TensorLayer> {
        let inputs = if layer.depthwise { 1 } else { layer.inputs };
        let shape = (layer.outputs, inputs, layer.size, layer.size);
        let weight = Tensor::from_vec(std::mem::take(&mut layer.weight), shape, &self.device)?;
        let bias = std::mem::take(&mut layer.bias);
        let bias = Tensor::from_vec(bias, (1, layer.outputs, 1, 1), &self.device)?;
        Ok(TensorLayer { weight, bias, layer })
    }

    fn put(&self, grid: &Grid) -> Result<Tensor> {
        let shape = (1, grid.height, grid.width, grid.channels);
        Tensor::from_slice(&grid.values, shape, &self.device)?.permute((0, 3, 1, 2))?.contiguous()
    }

    fn take(&self, map: &Tensor) -> Result<Grid> {
        let (_, channels, height, width) = map.dims4()?;
        let values = map.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?;
        Ok(Grid { height, width, channels, values })
    }

    fn conv(
        &self,
        TensorLayer { weight, bias, layer }: &TensorLayer,
        map: &Tensor,
    ) -> Result<Tensor> {
        let groups = if layer.depthwise { layer.outputs } else { 1 };
        let map = map.conv2d(weight, layer.size / 2, layer.stride, 1, groups)?;
        let map = map.broadcast_add(bias)?;
        match layer.activation {
            Activation::None => Ok(map),
            Activation::Silu => map.silu(),
        }
    }

    fn add(&self, left: Tensor, right: &Tensor) -> Result<Tensor> {
        left + right
    }

    fn stack(&self, maps: &[&Tensor]) -> Result<Tensor> {
        Tensor::cat(maps, 1)
    }

    fn double(&self, map: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = map.dims4()?;
        map.upsample_nearest2d(2 * height, 2 * width)
    }

    fn pool(&self, map: &Tensor) -> Result<Tensor> {
        // Repeating the edge adds no value that a neighbourhood at the edge does not hold anyway,
        // while padding with zeros would: SiLU goes below zero.
        map.pad_with_same(2, 2, 2)?.pad_with_same(3, 2, 2)?.max_pool2d_with_stride(5, 1)
    }
}
