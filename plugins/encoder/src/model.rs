//! The network as a whole.

use std::{
    ops::Range,
    path::Path,
    sync::{Mutex, PoisonError},
};

use candle_core::Device;
use pulp::Arch;
use qudao_device::Target;
use qudao_kernels::{AddNorm, AskShape, Crew, Norm};
use rayon::prelude::*;

use crate::{
    error::EncoderError,
    file::{Card, File, Network, Rows, read},
    layer::{Layer, Sheet, norm},
    placed::{BATCH_BYTES, Placed},
    share::shares,
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
    arch: Arch,
    threads: rayon::ThreadPool,
    /// Memory of earlier batches.
    sheets: Mutex<Vec<Sheet>>,
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
        let arch = Arch::new();
        let shape = arch.dispatch(AskShape);
        let layers = (0..layers).map(|at| Layer::read(&file, at, shape));
        Ok(Self {
            network,
            reader,
            words,
            places,
            first: norm(&file, "embeddings.LayerNorm")?,
            layers: layers.collect::<Result<_, _>>()?,
            placed: None,
            card: file.card,
            arch,
            threads: threads()?,
            sheets: Mutex::default(),
        })
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
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        if let Some(placed) = &self.placed {
            let mut rows = vec![0.0; lengths.iter().sum::<usize>() * self.network.hidden];
            self.first_rows(texts, &mut rows);
            return Ok(placed.means(&rows, &lengths, taps)?);
        }
        let shares = shares(&lengths, self.threads.current_num_threads());
        let threads = if shares.len() == 1 { self.threads.current_num_threads() } else { 1 };
        let share =
            |share: Range<usize>| self.share(&texts[share.clone()], &lengths[share], taps, threads);
        Ok(self.threads.install(|| match shares.as_slice() {
            [all] => share(all.clone()),
            _ => shares.into_par_iter().with_max_len(1).flat_map_iter(share).collect(),
        }))
    }

    /// Brings texts through all layers.
    fn share(
        &self,
        texts: &[&[u32]],
        lengths: &[usize],
        taps: &[usize],
        threads: usize,
    ) -> Vec<Vec<f32>> {
        let crew = Crew { arch: self.arch, threads };
        let sheets = || self.sheets.lock().unwrap_or_else(PoisonError::into_inner);
        let sheet = sheets().pop();
        let mut sheet = sheet.unwrap_or_default();
        sheet.fit(lengths.iter().sum(), &self.network);
        self.first_rows(texts, &mut sheet.stream);
        let hidden = self.network.hidden;
        let mut means = vec![Vec::with_capacity(taps.len() * hidden); texts.len()];
        for (at, layer) in self.layers.iter().enumerate() {
            layer.forward(&mut sheet, lengths, self.network.heads, &crew);
            if taps.contains(&(at + 1)) {
                pool(&sheet.stream, hidden, lengths, &mut means);
            }
        }
        sheets().push(sheet);
        means
    }

    /// The stream before the first layer.
    pub(crate) fn first_rows(&self, texts: &[&[u32]], rows: &mut [f32]) {
        let hidden = self.network.hidden;
        let places = texts.iter().flat_map(|text| text.iter().enumerate());
        for (row, (at, id)) in rows.chunks_exact_mut(hidden).zip(places) {
            let id = usize::try_from(*id).unwrap_or(0).min(self.network.vocabulary - 1);
            self.words.row(id, row);
            let at = at.min(self.network.positions - 1) * hidden;
            for (number, place) in row.iter_mut().zip(&self.places[at..at + hidden]) {
                *number += place;
            }
        }
        self.arch.dispatch(AddNorm { rows, with: &[], by: &self.first });
    }
}

/// Adds the mean of each text's rows to what is known of it.
fn pool(stream: &[f32], hidden: usize, lengths: &[usize], means: &mut [Vec<f32>]) {
    let mut rest = stream;
    for (length, means) in lengths.iter().zip(means) {
        let (rows, later) = rest.split_at(length * hidden);
        rest = later;
        let begin = means.len();
        means.resize(begin + hidden, 0.0);
        let mean = &mut means[begin..];
        for row in rows.chunks_exact(hidden) {
            mean.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
        }
        #[expect(clippy::cast_precision_loss, reason = "a text has a few hundred tokens")]
        let share = 1.0 / (*length).max(1) as f32;
        mean.iter_mut().for_each(|number| *number *= share);
    }
}

/// As many as the machine has cores, or as `RAYON_NUM_THREADS` says.
fn threads() -> Result<rayon::ThreadPool, EncoderError> {
    let name = |index| format!("qudao-encoder-{index}");
    Ok(rayon::ThreadPoolBuilder::new().thread_name(name).build()?)
}
