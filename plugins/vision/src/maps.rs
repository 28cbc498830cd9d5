//! The networks on the processor, by kernels that the plugins share.
//!
//! A map has a border of one pixel of zeros around it: a kernel of 3 × 3 then needs no case for the
//! edges. The memory of a map that is no longer needed is used again, borders and all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use pulp::Arch;
use qudao_kernels::{AskShape, Bend, EachRow, Mix, Panels, Shape, Whole};
use rayon::prelude::*;

use crate::error::LoadError;
use crate::layer::{Activation, Layer};
use crate::ops::{Grid, Ops};

/// Below this many multiplications a row, sharing a map out costs more than it brings.
const WORTH_SHARING: usize = 100_000;

type Size = (usize, usize, usize);

/// Memory of maps by their size.
#[derive(Default)]
struct Store(Mutex<HashMap<Size, Vec<Vec<f32>>>>);

/// A map of features with its border.
pub struct Map {
    height: usize,
    width: usize,
    channels: usize,
    values: Vec<f32>,
    store: Arc<Store>,
}

impl Map {
    fn pitch(&self) -> usize {
        (self.width + 2) * self.channels
    }

    /// A row from its left border to its right; 0 is the border above the first.
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.pitch()..][..self.pitch()]
    }

    /// The rows within the border, without their left and right borders.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let (pitch, channels, width) = (self.pitch(), self.channels, self.width);
        let rows = self.values.chunks_exact(pitch).skip(1).take(self.height);
        rows.map(move |row| &row[channels..][..width * channels])
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let (pitch, channels, width) = (self.pitch(), self.channels, self.width);
        let rows = self.values.chunks_exact_mut(pitch).skip(1).take(self.height);
        rows.map(move |row| &mut row[channels..][..width * channels])
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let size = (self.height, self.width, self.channels);
        let mut store = self.store.0.lock().unwrap_or_else(PoisonError::into_inner);
        store.entry(size).or_default().push(std::mem::take(&mut self.values));
    }
}

/// The processor.
pub struct Maps {
    arch: Arch,
    shape: Shape,
    threads: rayon::ThreadPool,
    store: Arc<Store>,
}

impl Maps {
    /// Computes with this many threads.
    ///
    /// # Errors
    /// [`LoadError::Threads`].
    pub fn new(threads: usize) -> std::result::Result<Self, LoadError> {
        let arch = Arch::new();
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("qudao-vision-{index}"))
            .build()?;
        Ok(Self { arch, shape: arch.dispatch(AskShape), threads, store: Arc::default() })
    }

    /// Runs `work` on the threads of this path, so that what it computes is shared out among them.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.install(work)
    }

    fn empty(&self, height: usize, width: usize, channels: usize) -> Map {
        let size = (height, width, channels);
        let mut store = self.store.0.lock().unwrap_or_else(PoisonError::into_inner);
        let values = store.get_mut(&size).and_then(Vec::pop);
        drop(store);
        let values = values.unwrap_or_else(|| vec![0.0; (height + 2) * (width + 2) * channels]);
        Map { height, width, channels, values, store: Arc::clone(&self.store) }
    }

    /// Computes one row of a map.
    fn mix(&self, panels: &Panels, rows: &[&[f32]], step: usize, bend: Bend, out: &mut [f32]) {
        let out = Whole { values: out, step: panels.outputs };
        self.arch.dispatch(Mix { panels, part: 0..panels.count(), rows, step, bend, out });
    }

    /// Lets `fill` write each row within the border; `cost` is what a row takes, in multiplications.
    fn fill(&self, map: &mut Map, cost: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        self.fill_by_way(map, cost, 0, |_, row, out| fill(row, out));
    }

    /// As [`Self::fill`], with so many numbers beside it that `fill` may write on its way.
    fn fill_by_way(
        &self,
        map: &mut Map,
        cost: usize,
        beside: usize,
        fill: impl Fn(&mut [f32], usize, &mut [f32]) + Sync,
    ) {
        let (height, threads) = (map.height, self.threads.current_num_threads());
        if threads == 1 || cost * height < WORTH_SHARING {
            let mut way = vec![0.0; beside];
            map.rows_mut().enumerate().for_each(|(row, out)| fill(&mut way, row, out));
            return;
        }
        let (pitch, channels, width) = (map.pitch(), map.channels, map.width);
        let within = &mut map.values[pitch..][..height * pitch];
        within
            .par_chunks_exact_mut(pitch)
            .enumerate()
            .with_min_len(height.div_ceil(4 * threads))
            .for_each_init(
                || vec![0.0; beside],
                |way, (row, out)| fill(way, row, &mut out[channels..][..width * channels]),
            );
    }
}

/// A layer in the order in which it is computed.
pub struct MapLayer {
    stride: usize,
    bend: Bend,
    kind: Kind,
}

enum Kind {
    Mix { panels: Panels, size: usize },
    Each { weight: Vec<f32>, bias: Vec<f32> },
}

impl Ops for Maps {
    type Layer = MapLayer;
    type Map = Map;

    fn prepare(&self, layer: Layer) -> Result<MapLayer> {
        let kind = if layer.depthwise {
            if layer.size != 3 {
                candle_core::bail!("a depthwise kernel of {0} × {0}", layer.size);
            }
            let mut weight = vec![0.0; layer.weight.len()];
            for (channel, values) in layer.weight.chunks_exact(9).enumerate() {
                for (place, value) in values.iter().enumerate() {
                    weight[place * layer.outputs + channel] = *value;
                }
            }
            Kind::Each { weight, bias: layer.bias }
        } else {
            let panels = Panels::new(&layer.weight, &layer.bias, layer.inputs, self.shape);
            Kind::Mix { panels, size: layer.size }
        };
        let bend = match layer.activation {
            Activation::Silu => Bend::Silu,
            Activation::None => Bend::Straight,
        };
        Ok(MapLayer { stride: layer.stride, bend, kind })
    }

    fn put(&self, grid: &Grid) -> Result<Map> {
        let mut map = self.empty(grid.height, grid.width, grid.channels);
        let rows = grid.values.chunks_exact(grid.width * grid.channels);
        map.rows_mut().zip(rows).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(map)
    }

    fn take(&self, map: &Map) -> Result<Grid> {
        let (height, width, channels) = (map.height, map.width, map.channels);
        let mut values = Vec::with_capacity(height * width * channels);
        map.rows().for_each(|row| values.extend_from_slice(row));
        Ok(Grid { height, width, channels, values })
    }

    fn conv(&self, layer: &MapLayer, map: &Map) -> Result<Map> {
        let (stride, bend) = (layer.stride, layer.bend);
        let (height, width) = (map.height.div_ceil(stride), map.width.div_ceil(stride));
        match &layer.kind {
            Kind::Each { weight, bias } => {
                if bias.len() != map.channels {
                    candle_core::bail!("{} channels where {} go in", map.channels, bias.len());
                }
                let mut out = self.empty(height, width, map.channels);
                self.fill(&mut out, width * weight.len(), |row, out| {
                    let rows = [0, 1, 2].map(|line| map.row(row * stride + line));
                    self.arch.dispatch(EachRow { weight, bias, rows, stride, bend, out });
                });
                Ok(out)
            }
            Kind::Mix { panels, size } => {
                if panels.inputs != map.channels {
                    candle_core::bail!("{} channels where {} go in", map.channels, panels.inputs);
                }
                let mut out = self.empty(height, width, panels.outputs);
                let cost = width * panels.outputs * panels.inputs * panels.places;
                // The border is one pixel wide: a kernel of 1 × 1 begins within it.
                let margin = 1 - size / 2;
                self.fill(&mut out, cost, |row, out| {
                    let mut rows: [&[f32]; 9] = [&[]; 9];
                    for (place, from) in rows.iter_mut().take(size * size).enumerate() {
                        let (line, column) = (place / size + margin, place % size + margin);
                        *from = &map.row(row * stride + line)[column * map.channels..];
                    }
                    let rows = &rows[..size * size];
                    let step = stride * map.channels;
                    self.mix(panels, rows, step, bend, out);
                });
                Ok(out)
            }
        }
    }

    /// A row at a time: what stands between the two is read while it is still near the processor.
    fn pair(&self, each: &MapLayer, mix: &MapLayer, map: &Map) -> Result<Map> {
        let (Kind::Each { weight, bias }, Kind::Mix { panels, size: 1 }, 1) =
            (&each.kind, &mix.kind, mix.stride)
        else {
            return self.conv(mix, &self.conv(each, map)?);
        };
        if bias.len() != map.channels || panels.inputs != map.channels {
            candle_core::bail!("{} channels where {} go in", map.channels, panels.inputs);
        }
        let (stride, channels) = (each.stride, map.channels);
        let (height, width) = (map.height.div_ceil(stride), map.width.div_ceil(stride));
        let mut out = self.empty(height, width, panels.outputs);
        let cost = width * channels * (panels.outputs + 9);
        self.fill_by_way(&mut out, cost, width * channels, |way, row, out| {
            let rows = [0, 1, 2].map(|line| map.row(row * stride + line));
            self.arch.dispatch(EachRow {
                weight,
                bias,
                rows,
                stride,
                bend: each.bend,
                out: &mut *way,
            });
            self.mix(panels, &[way], channels, mix.bend, out);
        });
        Ok(out)
    }

    fn add(&self, mut left: Map, right: &Map) -> Result<Map> {
        if left.values.len() != right.values.len() || left.channels != right.channels {
            candle_core::bail!("maps of different shapes cannot be added");
        }
        left.values.iter_mut().zip(&right.values).for_each(|(to, value)| *to += value);
        Ok(left)
    }

    fn stack(&self, maps: &[&Map]) -> Result<Map> {
        let Some(first) = maps.first() else { candle_core::bail!("no maps to stack") };
        let channels = maps.iter().map(|map| map.channels).sum();
        if maps.iter().any(|map| (map.height, map.width) != (first.height, first.width)) {
            candle_core::bail!("maps of different sizes cannot be stacked");
        }
        let mut out = self.empty(first.height, first.width, channels);
        self.fill(&mut out, first.width * channels, |row, out| {
            let mut from = 0;
            for map in maps {
                let values = map.row(row + 1)[map.channels..].chunks_exact(map.channels);
                for (to, values) in out.chunks_exact_mut(channels).zip(values) {
                    to[from..from + map.channels].copy_from_slice(values);
                }
                from += map.channels;
            }
        });
        Ok(out)
    }

    fn double(&self, map: &Map) -> Result<Map> {
        let mut out = self.empty(2 * map.height, 2 * map.width, map.channels);
        self.fill(&mut out, 2 * map.width * map.channels, |row, to| {
            let from = &map.row(row / 2 + 1)[map.channels..];
            let pairs = to.chunks_exact_mut(2 * map.channels).zip(from.chunks_exact(map.channels));
            for (to, pixel) in pairs {
                let (left, right) = to.split_at_mut(map.channels);
                left.copy_from_slice(pixel);
                right.copy_from_slice(pixel);
            }
        });
        Ok(out)
    }

    fn pool(&self, map: &Map) -> Result<Map> {
        let channels = map.channels;
        let mut wide = self.empty(map.height, map.width, channels);
        let cost = 5 * map.width * channels;
        self.fill(&mut wide, cost, |row, to| {
            let from = &map.row(row + 1)[channels..][..map.width * channels];
            for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
                let reach = pixel.saturating_sub(2) * channels..(pixel + 3) * channels;
                let from = &from[reach.start..reach.end.min(from.len())];
                largest(to, from.chunks_exact(channels));
            }
        });
        let mut out = self.empty(map.height, map.width, channels);
        let rows: Vec<&[f32]> = wide.rows().collect();
        self.fill(&mut out, cost, |row, to| {
            let reach = row.saturating_sub(2)..(row + 3).min(rows.len());
            largest(to, rows[reach].iter().copied());
        });
        Ok(out)
    }
}

/// The largest of the numbers at each place.
fn largest<'a>(to: &mut [f32], from: impl Iterator<Item = &'a [f32]>) {
    to.fill(f32::NEG_INFINITY);
    for values in from {
        to.iter_mut().zip(values).for_each(|(to, value)| *to = to.max(*value));
    }
}

#[cfg(test)]
mod tests;
