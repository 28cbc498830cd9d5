//! The classifier: encoder, head, and which words decided.

use std::path::Path;

use qudao_encoder::{Encoder, EncoderError, Read};

use crate::head::{Head, lead, softmax};

/// The class of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The scores of the classes.
    pub logits: Vec<f32>,
    /// The probabilities of the classes.
    pub probabilities: Vec<f32>,
    /// The likeliest class.
    pub class: usize,
}

/// How the part of each word is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The text is judged without the word.
    Occlusion,
    /// The slope of the lead along the word's vectors.
    GradientInput,
}

/// The method that is served; `src/bin/deletion.rs` compares the two.
pub const SERVED: Method = Method::Occlusion;

/// An encoder with its head.
#[derive(Debug)]
pub struct Model {
    encoder: Encoder,
    head: Head,
}

impl Model {
    /// Reads the encoder's file.
    ///
    /// # Errors
    /// Why the file or the head is refused.
    pub fn load(path: &Path) -> Result<Self, String> {
        Self::load_on(path, "cpu")
    }

    /// Reads the encoder's file, and puts its layers where the setting `device` says.
    ///
    /// # Errors
    /// Why the file, the head or the device is refused.
    pub fn load_on(path: &Path, device: &str) -> Result<Self, String> {
        let encoder = Encoder::load_on(path, device).map_err(|error| error.to_string())?;
        let head = Head::trained(encoder.network().hidden)?;
        if head.taps.iter().any(|tap| encoder.network().layers < *tap) {
            return Err("the head reads layers that the encoder does not have".to_owned());
        }
        Ok(Self { encoder, head })
    }

    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Cuts a text into tokens.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn read(&self, text: &str) -> Result<Read, EncoderError> {
        self.encoder.read(&self.encoder.card().query, text)
    }

    /// Judges texts together.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn judge(&self, texts: &[&[u32]]) -> Result<Vec<Judged>, EncoderError> {
        let means = self.encoder.means(texts, &self.head.taps)?;
        let judged = means.iter().map(|means| {
            let logits = self.head.logits(means);
            let probabilities = softmax(&logits);
            let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            Judged { class: best.map_or(0, |(class, _)| class), probabilities, logits }
        });
        Ok(judged.collect())
    }

    /// What each word of a text did for the class it was given.
    ///
    /// # Errors
    /// [`EncoderError`].
    pub fn explain(
        &self,
        text: &Read,
        judged: &Judged,
        method: Method,
    ) -> Result<Vec<f32>, EncoderError> {
        match method {
            Method::Occlusion => {
                let without: Vec<Vec<u32>> = text
                    .words
                    .iter()
                    .map(|word| {
                        let mut ids = text.ids.clone();
                        ids.drain(word.tokens.clone());
                        ids
                    })
                    .collect();
                let without: Vec<&[u32]> = without.iter().map(Vec::as_slice).collect();
                let whole = lead(&judged.logits, judged.class);
                let rest = self.judge(&without)?;
                Ok(rest.iter().map(|rest| whole - lead(&rest.logits, judged.class)).collect())
            }
            Method::GradientInput => {
                let direction = self.head.direction(&judged.probabilities, judged.class);
                let tokens = self.encoder.gradient_input(&text.ids, &self.head.taps, &direction)?;
                let word = |tokens: &[f32]| tokens.iter().sum();
                Ok(text.words.iter().map(|w| word(&tokens[w.tokens.clone()])).collect())
            }
        }
    }
}
