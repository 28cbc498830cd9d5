//! YOLOv8 for detection, from weights that a user brings: names as their training writes them
//! (`model.0.conv.weight`), batch norms folded or not. Widths and depths are those of the file.

use crate::error::LoadError;
use crate::layer::Activation;
use crate::network::{Colours, Network, Sight, cells, sigmoid};
use crate::ops::{Grid, Ops};
use crate::weights::Weights;

/// Pixels of a cell, from the finest map to the coarsest.
const STRIDES: [usize; 3] = [8, 16, 32];
/// A side's distance is a distribution over this many steps.
const STEPS: usize = 16;

/// A chain of bottlenecks of which every link is kept.
struct C2f<O: Ops> {
    /// One convolution in the file, whose two halves are used apart.
    first: (O::Layer, O::Layer),
    bottlenecks: Vec<(O::Layer, O::Layer)>,
    end: O::Layer,
    shortcut: bool,
}

impl<O: Ops> C2f<O> {
    fn load(ops: &O, weights: &Weights, at: usize, shortcut: bool) -> Result<Self, LoadError> {
        let block = |part: String| weights.block(&format!("model.{at}.{part}"), 1);
        let prepared = |part: String| Ok::<_, LoadError>(ops.prepare(block(part)?)?);
        let links =
            (0..).take_while(|link| weights.has(&format!("model.{at}.m.{link}.cv1.conv.weight")));
        let bottlenecks = links
            .map(|link| {
                let first = prepared(format!("m.{link}.cv1"))?;
                Ok((first, prepared(format!("m.{link}.cv2"))?))
            })
            .collect::<Result<_, LoadError>>()?;
        let (left, right) = block("cv1".to_owned())?.halves();
        let first = (ops.prepare(left)?, ops.prepare(right)?);
        Ok(Self { first, bottlenecks, end: prepared("cv2".to_owned())?, shortcut })
    }

    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        let mut links = vec![ops.conv(&self.first.0, map)?, ops.conv(&self.first.1, map)?];
        for (first, second) in &self.bottlenecks {
            let last = &links[links.len() - 1];
            let inner = ops.conv(second, &ops.conv(first, last)?)?;
            let link = if self.shortcut { ops.add(inner, last)? } else { inner };
            links.push(link);
        }
        ops.conv(&self.end, &ops.stack(&links.iter().collect::<Vec<_>>())?)
    }
}

/// Three convolutions, one after the other.
struct Head<O: Ops>([O::Layer; 3]);

impl<O: Ops> Head<O> {
    fn load(ops: &O, weights: &Weights, name: &str) -> Result<Self, LoadError> {
        let last = weights.conv(&format!("{name}.2"), 1, Activation::None)?;
        Ok(Self([
            ops.prepare(weights.block(&format!("{name}.0"), 1)?)?,
            ops.prepare(weights.block(&format!("{name}.1"), 1)?)?,
            ops.prepare(last)?,
        ]))
    }

    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<Grid> {
        let map = ops.conv(&self.0[1], &ops.conv(&self.0[0], map)?)?;
        ops.take(&ops.conv(&self.0[2], &map)?)
    }
}

/// A YOLOv8. Fields are named after the numbers of the modules in the file.
pub struct Yolov8<O: Ops> {
    halving: [O::Layer; 5],
    c2f: [C2f<O>; 4],
    pooling: (O::Layer, O::Layer),
    neck: [C2f<O>; 4],
    up: [O::Layer; 2],
    boxes: Vec<Head<O>>,
    scores: Vec<Head<O>>,
    classes: usize,
}

impl<O: Ops> Yolov8<O> {
    /// Loads a file's layers.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn load(ops: &O, weights: &Weights) -> Result<Self, LoadError> {
        let conv = |name: &str, stride| {
            Ok::<_, LoadError>(ops.prepare(weights.block(&format!("model.{name}"), stride)?)?)
        };
        let c2f = |at, shortcut| C2f::load(ops, weights, at, shortcut);
        let heads = |part: &str| {
            let head = |level| Head::load(ops, weights, &format!("model.22.{part}.{level}"));
            (0..3).map(head).collect::<Result<Vec<_>, _>>()
        };
        let (_, shape) = weights.values("model.22.cv3.0.2.weight")?;
        let (_, sides) = weights.values("model.22.cv2.0.2.weight")?;
        if sides.first() != Some(&(4 * STEPS)) {
            let tensor = "model.22.cv2.0.2.weight".to_owned();
            return Err(LoadError::Shape {
                tensor, found: sides, expected: "[64, …]".to_owned()
            });
        }
        Ok(Self {
            halving: [conv("0", 2)?, conv("1", 2)?, conv("3", 2)?, conv("5", 2)?, conv("7", 2)?],
            c2f: [c2f(2, true)?, c2f(4, true)?, c2f(6, true)?, c2f(8, true)?],
            pooling: (conv("9.cv1", 1)?, conv("9.cv2", 1)?),
            neck: [c2f(12, false)?, c2f(15, false)?, c2f(18, false)?, c2f(21, false)?],
            up: [conv("16", 2)?, conv("19", 2)?],
            boxes: heads("cv2")?,
            scores: heads("cv3")?,
            classes: shape.first().copied().unwrap_or_default(),
        })
    }

    /// The maps of the pyramid, finest first.
    fn pyramid(&self, ops: &O, picture: &Grid) -> candle_core::Result<[O::Map; 3]> {
        let stage =
            |at: usize, map: &O::Map| self.c2f[at].run(ops, &ops.conv(&self.halving[at + 1], map)?);
        let joined = |at: usize, left: &O::Map, right: &O::Map| {
            self.neck[at].run(ops, &ops.stack(&[left, right])?)
        };
        let map = ops.conv(&self.halving[0], &ops.put(picture)?)?;
        let fine = stage(1, &stage(0, &map)?)?;
        let middle = stage(2, &fine)?;
        let coarse = self.pool(ops, &stage(3, &middle)?)?;
        let middle = joined(0, &ops.double(&coarse)?, &middle)?;
        let fine = joined(1, &ops.double(&middle)?, &fine)?;
        let middle = joined(2, &ops.conv(&self.up[0], &fine)?, &middle)?;
        let coarse = joined(3, &ops.conv(&self.up[1], &middle)?, &coarse)?;
        Ok([fine, middle, coarse])
    }

    fn pool(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        let near = ops.conv(&self.pooling.0, map)?;
        let five = ops.pool(&near)?;
        let nine = ops.pool(&five)?;
        let thirteen = ops.pool(&nine)?;
        ops.conv(&self.pooling.1, &ops.stack(&[&near, &five, &nine, &thirteen])?)
    }
}

impl<O> Network<O> for Yolov8<O>
where
    O: Ops,
    O::Layer: Send + Sync,
{
    fn classes(&self) -> usize {
        self.classes
    }

    fn colours(&self) -> Colours {
        Colours::RgbUnit
    }

    fn look(&self, ops: &O, picture: &Grid) -> candle_core::Result<Sight> {
        let maps = self.pyramid(ops, picture)?;
        let mut values = Vec::new();
        for (level, map) in maps.iter().enumerate() {
            let sides = self.boxes[level].run(ops, map)?;
            let mut scores = self.scores[level].run(ops, map)?;
            sigmoid(&mut scores.values);
            decode(&sides, &scores, cells(STRIDES[level]), &mut values);
        }
        Ok(Sight { classes: self.classes, values })
    }
}

/// The four sides' distances from the middle of the cell become a box in pixels. The family does
/// not say whether there is something at all: its scores alone do, which are probabilities already.
fn decode(sides: &Grid, scores: &Grid, stride: f32, into: &mut Vec<f32>) {
    let scores = scores.values.chunks_exact(scores.channels);
    for (at, (place, scores)) in sides.values.chunks_exact(sides.channels).zip(scores).enumerate() {
        let (x, y) = (cells(at % sides.width) + 0.5, cells(at / sides.width) + 0.5);
        let mut distances = place.chunks_exact(STEPS).map(expected);
        let mut next = || distances.next().unwrap_or_default();
        let (left, top, right, bottom) = (next(), next(), next(), next());
        into.extend([
            (x + (right - left) / 2.0) * stride,
            (y + (bottom - top) / 2.0) * stride,
            (left + right) * stride,
            (top + bottom) * stride,
            1.0,
        ]);
        into.extend_from_slice(scores);
    }
}

/// The mean of a distribution that is given by the logarithms of its weights.
fn expected(logits: &[f32]) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut mean) = (0.0, 0.0);
    for (step, logit) in logits.iter().enumerate() {
        let weight = (logit - largest).exp();
        sum += weight;
        mean += weight * cells(step);
    }
    mean / sum
}
