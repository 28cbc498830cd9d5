//! What the networks are made of.

use crate::layer::Layer;

/// Numbers in rows of pixels, the channels of a pixel side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// Numbers of a pixel.
    pub channels: usize,
    /// `height × width × channels` of them.
    pub values: Vec<f32>,
}

/// A way to compute a network. The processor's own kernels never fail; a device may.
pub trait Ops {
    /// A layer in the form that is computed with.
    type Layer;
    /// A map of features.
    type Map;

    /// Brings a layer into that form, once.
    ///
    /// # Errors
    /// What the device says.
    fn prepare(&self, layer: Layer) -> candle_core::Result<Self::Layer>;

    /// Takes a picture in.
    ///
    /// # Errors
    /// What the device says.
    fn put(&self, grid: &Grid) -> candle_core::Result<Self::Map>;

    /// Takes a result out.
    ///
    /// # Errors
    /// What the device says.
    fn take(&self, map: &Self::Map) -> candle_core::Result<Grid>;

    /// Convolves.
    ///
    /// # Errors
    /// What the device says.
    fn conv(&self, layer: &Self::Layer, map: &Self::Map) -> candle_core::Result<Self::Map>;

    /// Convolves each channel by itself, and mixes the channels of each pixel then.
    ///
    /// # Errors
    /// What the device says.
    fn pair(
        &self,
        each: &Self::Layer,
        mix: &Self::Layer,
        map: &Self::Map,
    ) -> candle_core::Result<Self::Map> {
        self.conv(mix, &self.conv(each, map)?)
    }

    /// Adds two maps of the same shape.
    ///
    /// # Errors
    /// What the device says.
    fn add(&self, left: Self::Map, right: &Self::Map) -> candle_core::Result<Self::Map>;

    /// Puts the channels of maps of the same size one after the other.
    ///
    /// # Errors
    /// What the device says.
    fn stack(&self, maps: &[&Self::Map]) -> candle_core::Result<Self::Map>;

    /// Doubles width and height by repeating pixels.
    ///
    /// # Errors
    /// What the device says.
    fn double(&self, map: &Self::Map) -> candle_core::Result<Self::Map>;

    /// The largest of each 5 × 5 neighbourhood. What lies outside of the map counts for nothing.
    ///
    /// # Errors
    /// What the device says.
    fn pool(&self, map: &Self::Map) -> candle_core::Result<Self::Map>;
}
