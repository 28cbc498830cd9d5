//! The network as a whole.

use std::path::Path;

use candle_core::{Device, Tensor};

use qudao_device::Target;

use crate::{
    error::EncoderError,
    file::{Card, File, Network, Rows, read},
    layer::{Group, Layer, Norm},
    placed::{BATCH_BYTES, Placed},
    slices::{AddNorm, normalise},
    text::{Read, Reader},
};

/// Tokens that are computed together at most: more of them would not go faster and would take the
/// processor's caches.
pub const BATCH_TOKENS: usize = 2048;

/// An encoder in memory.
pub struct Encoder {
    pub(crate) network: Network,
    card: Card,
    reader: Reader,
    words: Rows,
    /// The vectors of the places, with that of the one type of text in each.
    places: Vec<f32>,
    first: Norm,
    pub(crate) layers: Vec<Layer>,
    /// The layers once more, where they do not compute on the processor.
    placed: Option<Placed>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Encoder {
    /// Reads a file that `qudao model pull` put together.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn load(path: &Path) -> Result<Self, EncoderError> {
        let bytes = read(path)?;
        let file = File::parse(path, &bytes)?;
        let network = file.network;
        let Network { layers, hidden, positions, vocabulary, .. } = network;
        let words = file.rows("embeddings.word_embeddings.weight", vocabulary, hidden)?;
        let mut places =
            file.numbers("embeddings.position_embeddings.weight", positions * hidden)?;
        let kind = file.numbers("embeddings.token_type_embeddings.weight", hidden)?;
        for place in places.chunks_exact_mut(hidden) {
            for (number, kind) in place.iter_mut().zip(&kind) {
                *number += kind;
            }
        }
        let reader = Reader::new(&file.tokenizer, &file.card, vocabulary)?;
        let layers = (0..layers).map(|at| Layer::read(&file, at)).collect::<Result<_, _>>()?;
        let first = Norm::read(&file, "embeddings.LayerNorm")?;
        let placed = None;
        Ok(Self { network, card: file.card, reader, words, places, first, layers, placed })
    }

    /// Reads a file, and puts its layers where the setting `device` says.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn load_on(path: &Path, device: &str) -> Result<Self, EncoderError> {
        let target = Target::parse(device)?;
        let mut encoder = Self::load(path)?;
        if target != Target::Cpu {
            let device = target.open(encoder.network.weight_bytes() + BATCH_BYTES)?;
            encoder.place(device)?;
        }
        Ok(encoder)
    }

    /// Puts the layers on a device, by the operations that every device knows.
    ///
    /// # Errors
    /// [`EncoderError::Compute`].
    pub fn place(&mut self, device: Device) -> Result<(), EncoderError> {
        self.placed = Some(Placed::new(&self.layers, self.network.heads, device)?);
        Ok(())
    }

    /// How it wants to be asked.
    #[must_use]
    pub const fn card(&self) -> &Card {
        &self.card
    }

    /// Its measures.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Cuts a text into tokens, with something put before it.
    ///
    /// # Errors
    /// [`EncoderError::Tokenizer`].
    pub fn read(&self, prefix: &str, text: &str) -> Result<Read, EncoderError> {
        self.reader.read(prefix, text)
    }

    /// The mean of each text's tokens after each of the layers `taps` (from 1), one after the other.
    /// Texts of any number and length, in any order.
    ///
    /// # Errors
    /// [`EncoderError::Compute`].
    pub fn means(&self, texts: &[&[u32]], taps: &[usize]) -> Result<Vec<Vec<f32>>, EncoderError> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|at| texts[*at].len());
        let mut means = vec![Vec::new(); texts.len()];
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|at| {
                tokens += texts[**at].len();
                tokens <= BATCH_TOKENS
            });
            let (batch, later) = rest.split_at(fits.count().max(1));
            rest = later;
            let of_batch: Vec<&[u32]> = batch.iter().map(|at| texts[*at]).collect();
            for (at, mean) in batch.iter().zip(self.batch(&of_batch, taps)?) {
                means[*at] = mean;
            }
        }
        Ok(means)
    }

    /// As [`Self::means`], for texts in order of their length that fit into one batch.
    fn batch(&self, texts: &[&[u32]], taps: &[usize]) -> Result<Vec<Vec<f32>>, EncoderError> {
        if let Some(placed) = &self.placed {
            let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
            return Ok(placed.means(&self.first_rows(texts), &lengths, taps)?);
        }
        let groups = groups(texts);
        let mut stream = self.first(texts)?;
        let mut means = vec![Vec::with_capacity(taps.len() * self.network.hidden); texts.len()];
        for (at, layer) in self.layers.iter().enumerate() {
            stream = layer.forward(&stream, &groups, self.network.heads)?;
            if taps.contains(&(at + 1)) {
                self.pool(&stream, texts, &mut means)?;
            }
        }
        Ok(means)
    }

    /// The stream before the first layer.
    pub(crate) fn first(&self, texts: &[&[u32]]) -> Result<Tensor, EncoderError> {
        let rows = self.first_rows(texts);
        let hidden = self.network.hidden;
        Ok(Tensor::from_vec(rows, ((), hidden), &Device::Cpu)?)
    }

    fn first_rows(&self, texts: &[&[u32]]) -> Vec<f32> {
        let hidden = self.network.hidden;
        let tokens = texts.iter().map(|text| text.len()).sum::<usize>();
        let mut rows = vec![0.0; tokens * hidden];
        let zeros = vec![0.0; hidden];
        let by: AddNorm<'_> = self.first.after(&zeros);
        let places = texts.iter().flat_map(|text| text.iter().enumerate());
        for (row, (at, id)) in rows.chunks_exact_mut(hidden).zip(places) {
            let id = usize::try_from(*id).unwrap_or(0).min(self.network.vocabulary - 1);
            self.words.row(id, row);
            let at = at.min(self.network.positions - 1) * hidden;
            for (number, place) in row.iter_mut().zip(&self.places[at..at + hidden]) {
                *number += place;
            }
            normalise(row, &by);
        }
        rows
    }

    fn pool(
        &self,
        stream: &Tensor,
        texts: &[&[u32]],
        means: &mut [Vec<f32>],
    ) -> Result<(), EncoderError> {
        let rows = stream.flatten_all()?.to_vec1::<f32>()?;
        let hidden = self.network.hidden;
        let mut rows = rows.chunks_exact(hidden);
        for (text, mean) in texts.iter().zip(means) {
            let begin = mean.len();
            mean.resize(begin + hidden, 0.0);
            for row in rows.by_ref().take(text.len()) {
                for (sum, number) in mean[begin..].iter_mut().zip(row) {
                    *sum += number;
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "a text has a few hundred tokens")]
            let share = 1.0 / text.len().max(1) as f32;
            mean[begin..].iter_mut().for_each(|number| *number *= share);
        }
        Ok(())
    }
}

/// Texts that follow each other and have the same length.
fn groups(texts: &[&[u32]]) -> Vec<Group> {
    let mut start = 0;
    let same = texts.chunk_by(|a, b| a.len() == b.len());
    same.map(|texts| {
        let length = texts[0].len();
        let group = Group { start, texts: texts.len(), length };
        start += texts.len() * length;
        group
    })
    .collect()
}

#[cfg(test)]
mod tests;
