//! The side of the network that speaks: one token after the other, each a walk through the layers with one
//! row. What it costs is to read the weights, so they stay in half precision.

use pulp::Arch;
use qudao_kernels::{AddNorm, AskShape, Bend, Bent, Crew, Norm, Panels, Shape, Softmax};
use rayon::prelude::*;

use crate::{
    error::LoadError,
    file::{File, Measures},
    rows::{Matrix, dot},
};

/// A matrix and what is added.
struct Linear {
    weight: Matrix,
    bias: Option<Vec<f32>>,
}

struct Layer {
    attention_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    mixed: Linear,
    heard_norm: Norm,
    heard_query: Linear,
    /// Keys and values of what is heard, side by side, for all places at once.
    heard: Panels,
    heard_mixed: Linear,
    norm: Norm,
    up: Linear,
    down: Linear,
}

/// The speaking side.
pub(crate) struct Decoder {
    measures: Measures,
    arch: Arch,
    tokens: Matrix,
    places: Matrix,
    layers: Vec<Layer>,
    norm: Norm,
}

/// What was heard in half a minute, as one layer sees it: by head, then by place.
#[derive(Debug)]
struct Heard {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What was heard in half a minute.
#[derive(Debug)]
pub(crate) struct Memory(Vec<Heard>);

/// What was said so far: keys and values of each layer, by place.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    length: usize,
}

impl Linear {
    fn read(file: &File<'_>, name: &str, rows: usize, columns: usize) -> Result<Self, LoadError> {
        Ok(Self {
            weight: file.matrix(&format!("{name}.weight"), rows, columns)?,
            bias: Some(file.numbers(&format!("{name}.bias"), &[rows])?),
        })
    }

    fn times(&self, row: &[f32], out: &mut [f32]) {
        self.weight.times(row, self.bias.as_deref(), out);
    }
}

impl Layer {
    fn read(file: &File<'_>, at: usize, shape: Shape) -> Result<Self, LoadError> {
        let hidden = file.measures.hidden;
        let name = |part: &str| format!("model.decoder.layers.{at}.{part}");
        let square = |part: &str| Linear::read(file, &name(part), hidden, hidden);
        let (mut heard, mut heard_bias) = (Vec::new(), vec![0.0; hidden]);
        for part in ["k", "v"] {
            let part = name(&format!("encoder_attn.{part}_proj.weight"));
            heard.extend(file.numbers(&part, &[hidden, hidden])?);
        }
        heard_bias.extend(file.numbers(&name("encoder_attn.v_proj.bias"), &[hidden])?);
        Ok(Self {
            attention_norm: file.norm(&name("self_attn_layer_norm"))?,
            query: square("self_attn.q_proj")?,
            key: Linear {
                weight: file.matrix(&name("self_attn.k_proj.weight"), hidden, hidden)?,
                bias: None,
            },
            value: square("self_attn.v_proj")?,
            mixed: square("self_attn.out_proj")?,
            heard_norm: file.norm(&name("encoder_attn_layer_norm"))?,
            heard_query: square("encoder_attn.q_proj")?,
            heard: Panels::new(&heard, &heard_bias, hidden, shape),
            heard_mixed: square("encoder_attn.out_proj")?,
            norm: file.norm(&name("final_layer_norm"))?,
            up: Linear::read(file, &name("fc1"), 4 * hidden, hidden)?,
            down: Linear::read(file, &name("fc2"), hidden, 4 * hidden)?,
        })
    }
}

impl Decoder {
    pub(crate) fn read(file: &File<'_>) -> Result<Self, LoadError> {
        let measures = file.measures;
        let Measures { layers, hidden, text_positions, vocabulary, .. } = measures;
        let arch = Arch::new();
        let shape = arch.dispatch(AskShape);
        Ok(Self {
            measures,
            arch,
            tokens: file.matrix("model.decoder.embed_tokens.weight", vocabulary, hidden)?,
            places: file.matrix("model.decoder.embed_positions.weight", text_positions, hidden)?,
            layers: (0..layers).map(|at| Layer::read(file, at, shape)).collect::<Result<_, _>>()?,
            norm: file.norm("model.decoder.layer_norm")?,
        })
    }

    /// Prepares what was heard for every layer, by the threads of the pool in which it is asked.
    pub(crate) fn remember(&self, heard: &[f32]) -> Memory {
        let Measures { hidden, heads, .. } = self.measures;
        let crew = Crew { arch: self.arch, threads: rayon::current_num_threads() };
        let mut rows = vec![0.0; 2 * heard.len()];
        let layers = self.layers.iter().map(|layer| {
            crew.multiply(heard, &layer.heard, Bend::Straight, &mut rows);
            let by_head = |from: usize| {
                let mut part = Vec::with_capacity(heard.len());
                for head in 0..heads {
                    let from = from + head * hidden / heads;
                    for row in rows.chunks_exact(2 * hidden) {
                        part.extend_from_slice(&row[from..from + hidden / heads]);
                    }
                }
                part
            };
            Heard { keys: by_head(0), values: by_head(hidden) }
        });
        Memory(layers.collect())
    }

    /// Nothing said yet.
    pub(crate) fn begin(&self) -> Said {
        Said { layers: vec![Default::default(); self.layers.len()], length: 0 }
    }

    /// Says a token. Returns how likely each is to come next, as logits; `None` where the network has no
    /// more places.
    pub(crate) fn say(&self, token: u32, said: &mut Said, memory: &Memory) -> Option<Vec<f32>> {
        let Measures { hidden, heads, text_positions, vocabulary, .. } = self.measures;
        if text_positions <= said.length {
            return None;
        }
        let (mut row, mut scratch) = (vec![0.0; hidden], vec![0.0; hidden]);
        self.tokens.row(usize::try_from(token).ok()?, &mut row);
        self.places.row(said.length, &mut scratch);
        add(&mut row, &scratch);
        let mut inner = vec![0.0; 4 * hidden];
        let (mut query, mut out) = (vec![0.0; hidden], vec![0.0; hidden]);
        let layers = self.layers.iter().zip(&mut said.layers).zip(&memory.0);
        for ((layer, (keys, values)), heard) in layers {
            normed(&layer.attention_norm, &row, &mut scratch);
            layer.query.times(&scratch, &mut query);
            layer.key.times(&scratch, &mut out);
            keys.extend_from_slice(&out);
            layer.value.times(&scratch, &mut out);
            values.extend_from_slice(&out);
            recall(&query, keys, values, heads, &mut scratch);
            layer.mixed.times(&scratch, &mut out);
            add(&mut row, &out);
            normed(&layer.heard_norm, &row, &mut scratch);
            layer.heard_query.times(&scratch, &mut query);
            heard.attend(&query, heads, &mut scratch);
            layer.heard_mixed.times(&scratch, &mut out);
            add(&mut row, &out);
            normed(&layer.norm, &row, &mut scratch);
            layer.up.times(&scratch, &mut inner);
            self.arch.dispatch(Bent { values: &mut inner, bend: Bend::Gelu });
            layer.down.times(&inner, &mut out);
            add(&mut row, &out);
        }
        said.length += 1;
        normed(&self.norm, &row, &mut scratch);
        let mut logits = vec![0.0; vocabulary];
        self.tokens.times(&scratch, None, &mut logits);
        Some(logits)
    }
}

impl Heard {
    /// What a query finds in what was heard.
    fn attend(&self, query: &[f32], heads: usize, out: &mut [f32]) {
        let size = query.len() / heads;
        let length = self.keys.len() / heads;
        let parts = out.par_chunks_mut(size).zip(query.par_chunks(size));
        let memory = self.keys.par_chunks(length).zip(self.values.par_chunks(length));
        parts.zip(memory).for_each(|((out, query), (keys, values))| {
            look(query, keys.chunks_exact(size), values.chunks_exact(size), out);
        });
    }
}

/// What a query finds in what was said, where heads lie side by side in each place.
fn recall(query: &[f32], keys: &[f32], values: &[f32], heads: usize, out: &mut [f32]) {
    let size = query.len() / heads;
    for (head, (out, query)) in out.chunks_exact_mut(size).zip(query.chunks_exact(size)).enumerate()
    {
        let of_head = |rows: &'_ [f32]| {
            let mut part = Vec::with_capacity(rows.len() / heads);
            for row in rows.chunks_exact(size * heads) {
                part.extend_from_slice(row.get(head * size..(head + 1) * size).unwrap_or_default());
            }
            part
        };
        let (keys, values) = (of_head(keys), of_head(values));
        look(query, keys.chunks_exact(size), values.chunks_exact(size), out);
    }
}

/// One head's look at places.
fn look<'a>(
    query: &[f32],
    keys: impl Iterator<Item = &'a [f32]>,
    values: impl Iterator<Item = &'a [f32]>,
    out: &mut [f32],
) {
    #[expect(clippy::cast_precision_loss, reason = "a head has a few dozen numbers")]
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut weights: Vec<f32> = keys.map(|key| dot(query, key) * scale).collect();
    let width = weights.len().max(1);
    Arch::new().dispatch(Softmax { values: &mut weights, width });
    out.fill(0.0);
    for (weight, value) in weights.iter().zip(values) {
        for (out, number) in out.iter_mut().zip(value) {
            *out += weight * number;
        }
    }
}

/// A row brought to where the layer learnt to want it.
fn normed(by: &Norm, row: &[f32], out: &mut [f32]) {
    out.copy_from_slice(row);
    Arch::new().dispatch(AddNorm { rows: out, with: &[], by });
}

fn add(row: &mut [f32], other: &[f32]) {
    for (number, other) in row.iter_mut().zip(other) {
        *number += other;
    }
}
