//! The side of the network that listens: half a minute becomes 1,500 places.

use pulp::Arch;
use qudao_kernels::{AskShape, Bend, Crew, Norm, Panels, Shape};

use crate::{
    error::LoadError,
    file::{File, Measures},
    mel::ROWS,
};

/// Rows that a convolution sees at once.
const SEEN: usize = 3;

struct Layer {
    attention_norm: Norm,
    /// Queries, keys and values side by side; the queries are scaled already.
    attention: Panels,
    mixed: Panels,
    norm: Norm,
    up: Panels,
    down: Panels,
}

/// The listening side.
pub(crate) struct Encoder {
    measures: Measures,
    arch: Arch,
    first: Panels,
    second: Panels,
    places: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

fn linear(
    file: &File<'_>,
    name: &str,
    rows: usize,
    columns: usize,
    shape: Shape,
) -> Result<Panels, LoadError> {
    let weight = file.numbers(&format!("{name}.weight"), &[rows, columns])?;
    let bias = file.numbers(&format!("{name}.bias"), &[rows])?;
    Ok(Panels::new(&weight, &bias, columns, shape))
}

/// A convolution over three rows, as a matrix for those rows one after the other.
fn convolution(
    file: &File<'_>,
    name: &str,
    inputs: usize,
    shape: Shape,
) -> Result<Panels, LoadError> {
    let hidden = file.measures.hidden;
    let weight = file.numbers(&format!("{name}.weight"), &[hidden, inputs, SEEN])?;
    let bias = file.numbers(&format!("{name}.bias"), &[hidden])?;
    let mut by_row = Vec::with_capacity(weight.len());
    for output in weight.chunks_exact(inputs * SEEN) {
        for row in 0..SEEN {
            by_row.extend(output.iter().skip(row).step_by(SEEN));
        }
    }
    Ok(Panels::new(&by_row, &bias, SEEN * inputs, shape))
}

impl Layer {
    fn read(file: &File<'_>, at: usize, shape: Shape) -> Result<Self, LoadError> {
        let Measures { hidden, heads, .. } = file.measures;
        let name = |part: &str| format!("model.encoder.layers.{at}.{part}");
        #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen numbers")]
        let scale = 1.0 / ((hidden / heads) as f32).sqrt();
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (part, factor) in [("q", scale), ("k", 1.0), ("v", 1.0)] {
            let part = name(&format!("self_attn.{part}_proj"));
            let numbers = file.numbers(&format!("{part}.weight"), &[hidden, hidden])?;
            weight.extend(numbers.into_iter().map(|number| number * factor));
            if part.ends_with("k_proj") {
                bias.resize(2 * hidden, 0.0);
            } else {
                let numbers = file.numbers(&format!("{part}.bias"), &[hidden])?;
                bias.extend(numbers.into_iter().map(|number| number * factor));
            }
        }
        Ok(Self {
            attention_norm: file.norm(&name("self_attn_layer_norm"))?,
            attention: Panels::new(&weight, &bias, hidden, shape),
            mixed: linear(file, &name("self_attn.out_proj"), hidden, hidden, shape)?,
            norm: file.norm(&name("final_layer_norm"))?,
            up: linear(file, &name("fc1"), 4 * hidden, hidden, shape)?,
            down: linear(file, &name("fc2"), hidden, 4 * hidden, shape)?,
        })
    }
}

impl Encoder {
    pub(crate) fn read(file: &File<'_>) -> Result<Self, LoadError> {
        let measures = file.measures;
        let Measures { layers, hidden, mels, positions, .. } = measures;
        let arch = Arch::new();
        let shape = arch.dispatch(AskShape);
        Ok(Self {
            measures,
            arch,
            first: convolution(file, "model.encoder.conv1", mels, shape)?,
            second: convolution(file, "model.encoder.conv2", hidden, shape)?,
            places: file.numbers("model.encoder.embed_positions.weight", &[positions, hidden])?,
            layers: (0..layers).map(|at| Layer::read(file, at, shape)).collect::<Result<_, _>>()?,
            norm: file.norm("model.encoder.layer_norm")?,
        })
    }

    /// What is heard in half a minute of a picture: places by the network's width. Computed by the threads
    /// of the pool in which it is asked.
    pub(crate) fn listen(&self, picture: &[f32]) -> Vec<f32> {
        let Measures { mels, hidden, heads, .. } = self.measures;
        let crew = Crew { arch: self.arch, threads: rayon::current_num_threads() };
        let mut rows = vec![0.0; ROWS * hidden];
        crew.multiply(&gather(picture, mels, ROWS, 1), &self.first, Bend::Gelu, &mut rows);
        let length = ROWS / 2;
        let mut stream = vec![0.0; length * hidden];
        let seen = gather(&rows, hidden, length, 2);
        crew.multiply(&seen, &self.second, Bend::Gelu, &mut stream);
        add(&mut stream, &self.places);
        let (mut normed, mut heard) = (vec![0.0; stream.len()], vec![0.0; stream.len()]);
        let (mut wide, mut inner) = (vec![0.0; 3 * stream.len()], vec![0.0; 4 * stream.len()]);
        for layer in &self.layers {
            normed.copy_from_slice(&stream);
            crew.norm(&mut normed, &layer.attention_norm);
            crew.multiply(&normed, &layer.attention, Bend::Straight, &mut wide);
            crew.attend(&wide, &[length], heads, &mut heard);
            crew.multiply(&heard, &layer.mixed, Bend::Straight, &mut normed);
            add(&mut stream, &normed);
            normed.copy_from_slice(&stream);
            crew.norm(&mut normed, &layer.norm);
            crew.multiply(&normed, &layer.up, Bend::Gelu, &mut inner);
            crew.multiply(&inner, &layer.down, Bend::Straight, &mut normed);
            add(&mut stream, &normed);
        }
        crew.norm(&mut stream, &self.norm);
        stream
    }
}

fn add(to: &mut [f32], other: &[f32]) {
    to.iter_mut().zip(other).for_each(|(to, other)| *to += other);
}

/// For each row of the result the rows before, at and after its place, one after the other; zeros beyond
/// the ends. Places are `stride` rows apart.
fn gather(rows: &[f32], width: usize, count: usize, stride: usize) -> Vec<f32> {
    let mut seen = vec![0.0; count * SEEN * width];
    for (at, out) in seen.chunks_exact_mut(SEEN * width).enumerate() {
        for (part, out) in out.chunks_exact_mut(width).enumerate() {
            let Some(row) = (at * stride + part).checked_sub(1) else { continue };
            if let Some(row) = rows.get(row * width..(row + 1) * width) {
                out.copy_from_slice(row);
            }
        }
    }
    seen
}
