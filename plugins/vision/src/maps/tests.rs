//! The maps of the kernels against candle's operations.

use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::tensors::Tensors;

/// Numbers between −1 and 1 that do not repeat soon.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn grid(height: usize, width: usize, channels: usize, seed: u64) -> Grid {
    Grid { height, width, channels, values: numbers(height * width * channels, seed) }
}

fn near(left: &Grid, right: &Grid) {
    assert_eq!(
        (left.height, left.width, left.channels),
        (right.height, right.width, right.channels)
    );
    for (a, b) in left.values.iter().zip(&right.values) {
        assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} and {b}");
    }
}

/// Computes by both paths.
fn both(
    threads: usize,
    run: impl Fn(&Maps) -> Result<Grid>,
    plain: impl Fn(&Tensors) -> Result<Grid>,
) {
    let maps = Maps::new(threads).unwrap();
    let expected = plain(&Tensors::new(Device::Cpu)).unwrap();
    near(&run(&maps).unwrap(), &expected);
    // Again, in memory that was used before.
    near(&run(&maps).unwrap(), &expected);
}

fn through<O: Ops>(ops: &O, layer: &Layer, grid: &Grid) -> Result<Grid> {
    ops.take(&ops.conv(&ops.prepare(layer.clone())?, &ops.put(grid)?)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn convolutions_are_those_of_candle(
        (height, width) in (1usize..20, 1usize..20),
        (inputs, outputs) in (1usize..70, 1usize..90),
        (wide, halving, active, each) in any::<(bool, bool, bool, bool)>(),
        threads in 1usize..4,
        seed in any::<u32>(),
    ) {
        let size = if wide || each { 3 } else { 1 };
        let (height, width) = if halving { (2 * height, 2 * width) } else { (height, width) };
        // One channel in is what marks depthwise layers, which have more than one.
        let (inputs, outputs) = if each { (inputs + 1, inputs + 1) } else { (inputs, outputs) };
        let row = if each { 1 } else { inputs };
        let layer = Layer {
            weight: numbers(outputs * row * size * size, u64::from(seed)),
            bias: numbers(outputs, 7),
            inputs,
            outputs,
            size,
            stride: if halving && size == 3 { 2 } else { 1 },
            depthwise: each,
            activation: if active { Activation::Silu } else { Activation::None },
        };
        let grid = grid(height, width, inputs, 11);
        both(threads, |maps| through(maps, &layer, &grid), |plain| through(plain, &layer, &grid));
    }

    #[test]
    fn a_pair_is_its_two_convolutions(
        (height, width) in (1usize..20, 1usize..20),
        (channels, outputs) in (2usize..70, 1usize..90),
        (halving, active) in any::<(bool, bool)>(),
        threads in 1usize..4,
    ) {
        fn run<O: Ops>(ops: &O, each: &Layer, mix: &Layer, grid: &Grid) -> Result<Grid> {
            let (each, mix) = (ops.prepare(each.clone())?, ops.prepare(mix.clone())?);
            ops.take(&ops.pair(&each, &mix, &ops.put(grid)?)?)
        }
        let (height, width) = if halving { (2 * height, 2 * width) } else { (height, width) };
        let activation = if active { Activation::Silu } else { Activation::None };
        let each = Layer {
            weight: numbers(9 * channels, 1),
            bias: numbers(channels, 2),
            inputs: channels,
            outputs: channels,
            size: 3,
            stride: if halving { 2 } else { 1 },
            depthwise: true,
            activation: Activation::Silu,
        };
        let mix = Layer {
            weight: numbers(channels * outputs, 3),
            bias: numbers(outputs, 4),
            outputs,
            size: 1,
            stride: 1,
            depthwise: false,
            activation,
            ..each.clone()
        };
        let grid = grid(height, width, channels, 11);
        both(threads, |maps| run(maps, &each, &mix, &grid), |plain| run(plain, &each, &mix, &grid));
    }

    #[test]
    fn pooling_doubling_stacking_and_adding_are_those_of_candle(
        (height, width, channels) in (1usize..16, 1usize..16, 1usize..40),
        other in 1usize..40,
    ) {
        fn run<O: Ops>(ops: &O, left: &Grid, right: &Grid) -> Result<Grid> {
            let (left, right) = (ops.put(left)?, ops.put(right)?);
            let pooled = ops.pool(&left)?;
            let sum = ops.add(ops.pool(&pooled)?, &left)?;
            ops.take(&ops.double(&ops.stack(&[&sum, &right, &left])?)?)
        }
        let (left, right) = (grid(height, width, channels, 1), grid(height, width, other, 2));
        both(2, |maps| run(maps, &left, &right), |plain| run(plain, &left, &right));
    }
}

#[test]
fn layers_that_do_not_fit_a_map_are_errors() {
    let maps = Maps::new(1).unwrap();
    let map = maps.put(&grid(4, 4, 3, 1)).unwrap();
    let layer = |depthwise, inputs| Layer {
        weight: vec![0.0; 9 * 5 * if depthwise { 1 } else { inputs }],
        bias: vec![0.0; 5],
        inputs,
        outputs: 5,
        size: 3,
        stride: 1,
        depthwise,
        activation: Activation::None,
    };
    for layer in [layer(false, 4), layer(true, 5)] {
        assert!(maps.conv(&maps.prepare(layer).unwrap(), &map).is_err());
    }
    assert!(maps.stack(&[&map, &maps.put(&grid(2, 4, 3, 1)).unwrap()]).is_err());
    assert!(maps.add(maps.put(&grid(4, 4, 2, 1)).unwrap(), &map).is_err());
    assert!(maps.stack(&[]).is_err());
}
