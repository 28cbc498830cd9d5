//! YOLOX with depthwise or plain convolutions: CSPDarknet, a feature pyramid, decoupled heads
//! without anchors. Widths and depths are those of the file.

use crate::error::LoadError;
use crate::layer::Activation;
use crate::network::{Colours, Network, Sight, cells, sigmoid};
use crate::ops::{Grid, Ops};
use crate::weights::Weights;

/// Pixels of a cell, from the finest map to the coarsest.
const STRIDES: [usize; 3] = [8, 16, 32];

/// One convolution, or a depthwise one and the pointwise one behind it.
enum Conv<O: Ops> {
    Plain(O::Layer),
    Pair(O::Layer, O::Layer),
}

impl<O: Ops> Conv<O> {
    fn load(ops: &O, weights: &Weights, name: &str, stride: usize) -> Result<Self, LoadError> {
        if !weights.has(&format!("{name}.dconv.conv.weight")) {
            return Ok(Self::Plain(ops.prepare(weights.block(name, stride)?)?));
        }
        let each = weights.block(&format!("{name}.dconv"), stride)?;
        let mix = weights.block(&format!("{name}.pconv"), 1)?;
        Ok(Self::Pair(ops.prepare(each)?, ops.prepare(mix)?))
    }

    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        match self {
            Self::Plain(layer) => ops.conv(layer, map),
            Self::Pair(each, mix) => ops.pair(each, mix, map),
        }
    }
}

/// Two ways through, one of them by bottlenecks, and the two put together again.
struct Csp<O: Ops> {
    main: Conv<O>,
    side: Conv<O>,
    end: Conv<O>,
    bottlenecks: Vec<(Conv<O>, Conv<O>)>,
    shortcut: bool,
}

impl<O: Ops> Csp<O> {
    fn load(ops: &O, weights: &Weights, name: &str, shortcut: bool) -> Result<Self, LoadError> {
        let conv = |part: &str| Conv::load(ops, weights, &format!("{name}.{part}"), 1);
        let count = (0..).take_while(|at| weights.has(&format!("{name}.m.{at}.conv1.conv.weight")));
        let bottlenecks = count
            .map(|at| Ok((conv(&format!("m.{at}.conv1"))?, conv(&format!("m.{at}.conv2"))?)))
            .collect::<Result<_, LoadError>>()?;
        let (main, side, end) = (conv("conv1")?, conv("conv2")?, conv("conv3")?);
        Ok(Self { main, side, end, bottlenecks, shortcut })
    }

    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        let mut main = self.main.run(ops, map)?;
        let side = self.side.run(ops, map)?;
        for (first, second) in &self.bottlenecks {
            let inner = second.run(ops, &first.run(ops, &main)?)?;
            main = if self.shortcut { ops.add(inner, &main)? } else { inner };
        }
        self.end.run(ops, &ops.stack(&[&main, &side])?)
    }
}

/// Boxes and classes from one map.
struct Head<O: Ops> {
    stem: Conv<O>,
    classes: [Conv<O>; 2],
    boxes: [Conv<O>; 2],
    class: O::Layer,
    /// Four numbers of the box and one for whether there is something.
    place: O::Layer,
}

impl<O: Ops> Head<O> {
    fn load(ops: &O, weights: &Weights, level: usize) -> Result<Self, LoadError> {
        let conv = |part: &str| Conv::load(ops, weights, &format!("head.{part}"), 1);
        let plain = |part: &str| weights.conv(&format!("head.{part}.{level}"), 1, Activation::None);
        let place = plain("reg_preds")?.beside(&plain("obj_preds")?);
        Ok(Self {
            stem: conv(&format!("stems.{level}"))?,
            classes: [
                conv(&format!("cls_convs.{level}.0"))?,
                conv(&format!("cls_convs.{level}.1"))?,
            ],
            boxes: [conv(&format!("reg_convs.{level}.0"))?, conv(&format!("reg_convs.{level}.1"))?],
            class: ops.prepare(plain("cls_preds")?)?,
            place: ops.prepare(place)?,
        })
    }

    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<(Grid, Grid)> {
        let map = self.stem.run(ops, map)?;
        let through = |convs: &[Conv<O>; 2], last: &O::Layer| {
            let map = convs[1].run(ops, &convs[0].run(ops, &map)?)?;
            ops.take(&ops.conv(last, &map)?)
        };
        Ok((through(&self.boxes, &self.place)?, through(&self.classes, &self.class)?))
    }
}

/// A convolution, mostly one that changes the size of the map, and what follows it.
struct Stage<O: Ops>(Conv<O>, Csp<O>);

impl<O: Ops> Stage<O> {
    fn run(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        self.1.run(ops, &self.0.run(ops, map)?)
    }
}

/// A YOLOX.
pub struct Yolox<O: Ops> {
    stem: Conv<O>,
    dark2: Stage<O>,
    dark3: Stage<O>,
    dark4: Stage<O>,
    dark5: Stage<O>,
    /// Within `dark5`, around the pooling.
    pooling: (Conv<O>, Conv<O>),
    /// From the coarsest map down to the finest, and up again.
    down: [Stage<O>; 2],
    up: [Stage<O>; 2],
    heads: Vec<Head<O>>,
    classes: usize,
}

impl<O: Ops> Yolox<O> {
    /// Loads a file's layers.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Shape`].
    pub fn load(ops: &O, weights: &Weights) -> Result<Self, LoadError> {
        let conv =
            |name: &str, stride| Conv::load(ops, weights, &format!("backbone.{name}"), stride);
        let stage = |first: &str, stride, then: &str, shortcut| {
            let then = Csp::load(ops, weights, &format!("backbone.{then}"), shortcut)?;
            Ok::<_, LoadError>(Stage(conv(first, stride)?, then))
        };
        let (_, shape) = weights.values("head.cls_preds.0.weight")?;
        Ok(Self {
            stem: conv("backbone.stem.conv", 1)?,
            dark2: stage("backbone.dark2.0", 2, "backbone.dark2.1", true)?,
            dark3: stage("backbone.dark3.0", 2, "backbone.dark3.1", true)?,
            dark4: stage("backbone.dark4.0", 2, "backbone.dark4.1", true)?,
            dark5: stage("backbone.dark5.0", 2, "backbone.dark5.2", false)?,
            pooling: (conv("backbone.dark5.1.conv1", 1)?, conv("backbone.dark5.1.conv2", 1)?),
            down: [
                stage("lateral_conv0", 1, "C3_p4", false)?,
                stage("reduce_conv1", 1, "C3_p3", false)?,
            ],
            up: [stage("bu_conv2", 2, "C3_n3", false)?, stage("bu_conv1", 2, "C3_n4", false)?],
            heads: (0..3).map(|level| Head::load(ops, weights, level)).collect::<Result<_, _>>()?,
            classes: shape.first().copied().unwrap_or_default(),
        })
    }

    /// The maps of the pyramid, finest first.
    fn pyramid(&self, ops: &O, picture: &Grid) -> candle_core::Result<[O::Map; 3]> {
        let map = self.stem.run(ops, &ops.put(&focus(picture))?)?;
        let fine = self.dark3.run(ops, &self.dark2.run(ops, &map)?)?;
        let middle = self.dark4.run(ops, &fine)?;
        let map = self.pool(ops, &self.dark5.0.run(ops, &middle)?)?;
        let coarse = self.dark5.1.run(ops, &map)?;

        let coarse = self.down[0].0.run(ops, &coarse)?;
        let middle = self.down[0].1.run(ops, &ops.stack(&[&ops.double(&coarse)?, &middle])?)?;
        let middle = self.down[1].0.run(ops, &middle)?;
        let fine = self.down[1].1.run(ops, &ops.stack(&[&ops.double(&middle)?, &fine])?)?;

        let up = self.up[0].0.run(ops, &fine)?;
        let middle = self.up[0].1.run(ops, &ops.stack(&[&up, &middle])?)?;
        let up = self.up[1].0.run(ops, &middle)?;
        let coarse = self.up[1].1.run(ops, &ops.stack(&[&up, &coarse])?)?;
        Ok([fine, middle, coarse])
    }

    /// Neighbourhoods of 5, 9 and 13: a pooling of a pooling sees that much farther.
    fn pool(&self, ops: &O, map: &O::Map) -> candle_core::Result<O::Map> {
        let near = self.pooling.0.run(ops, map)?;
        let five = ops.pool(&near)?;
        let nine = ops.pool(&five)?;
        let thirteen = ops.pool(&nine)?;
        self.pooling.1.run(ops, &ops.stack(&[&near, &five, &nine, &thirteen])?)
    }
}

impl<O> Network<O> for Yolox<O>
where
    O: Ops,
    O::Layer: Send + Sync,
{
    fn classes(&self) -> usize {
        self.classes
    }

    fn colours(&self) -> Colours {
        Colours::BgrBytes
    }

    fn look(&self, ops: &O, picture: &Grid) -> candle_core::Result<Sight> {
        let maps = self.pyramid(ops, picture)?;
        let mut values = Vec::new();
        for ((map, head), stride) in maps.iter().zip(&self.heads).zip(STRIDES) {
            let (places, mut classes) = head.run(ops, map)?;
            sigmoid(&mut classes.values);
            decode(&places, &classes, cells(stride), &mut values);
        }
        Ok(Sight { classes: self.classes, values })
    }
}

/// Every second pixel of every second row, four times: half the side, four times the channels.
fn focus(picture: &Grid) -> Grid {
    /// Red, green and blue.
    const THREE: usize = 3;
    let (height, width) = (picture.height / 2, picture.width / 2);
    let mut values = vec![0.0; height * width * 4 * THREE];
    let pairs = picture.values.chunks_exact(2 * picture.width * THREE);
    for (pair, out) in pairs.zip(values.chunks_exact_mut(width * 4 * THREE)) {
        let (above, below) = pair.split_at(picture.width * THREE);
        let (above, below) = (above.as_chunks::<{ 2 * THREE }>().0, below.as_chunks().0);
        let out = out.as_chunks_mut::<{ 4 * THREE }>().0;
        for ((above, below), out) in above.iter().zip(below).zip(out) {
            let (a, b): (&[f32; 2 * THREE], &[f32; 2 * THREE]) = (above, below);
            *out = [a[0], a[1], a[2], b[0], b[1], b[2], a[3], a[4], a[5], b[3], b[4], b[5]];
        }
    }
    Grid { height, width, channels: 4 * THREE, values }
}

/// A cell's numbers are relative to it; here they become pixels and probabilities. Those of the classes
/// are that already.
fn decode(places: &Grid, classes: &Grid, stride: f32, into: &mut Vec<f32>) {
    into.reserve(places.height * places.width * (5 + classes.channels));
    let scores = classes.values.chunks_exact(classes.channels);
    let places_of = places.values.chunks_exact(places.channels);
    for (at, (place, scores)) in places_of.zip(scores).enumerate() {
        let (x, y) = (cells(at % places.width), cells(at / places.width));
        into.extend([
            (place[0] + x) * stride,
            (place[1] + y) * stride,
            place[2].exp() * stride,
            place[3].exp() * stride,
            1.0 / (1.0 + (-place[4]).exp()),
        ]);
        into.extend_from_slice(scores);
    }
}
