//! The engine: several replies at once, one step at a time, on the caller's thread.
//!
//! A step gives every running reply its next token and, beside that, reads a piece of the longest
//! waiting prompt; so a long prompt slows the others' tokens but never stops them. What a prompt
//! begins with is not computed again where it is known already: from the last question of the
//! conversation, or from another conversation of the same tenant. Who waits takes turns by tenant,
//! and a reply whose reader is slow gives its place to one that waits.

use std::sync::Arc;

use crate::backend::Backend;
use crate::config::Config;
use crate::constraint::{Form, FormError, Grammars};
use crate::decoder::{Cache, Span};
use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::logprobs::{Held, TokenLogprob};
use crate::prompt;
use crate::sampling::{Sampler, Settings};
use crate::shape::Shape;
use crate::store::Store;
use crate::stream::TextStream;
use crate::template::{ChatTemplate, Message};
use crate::tokens::Tokens;
use crate::turns::Turns;

use reply::Reply;

mod reply;

/// Prompt tokens read in one step: long enough for the matrix kernels, short enough (some
/// hundred milliseconds) that running replies do not stutter.
const PROMPT_PIECE: usize = 128;

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct Job {
    /// The conversation, oldest message first.
    pub messages: Vec<Message>,
    /// Limit of the reply, in tokens.
    pub max_tokens: usize,
    /// Texts that end the reply.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub settings: Settings,
    /// The form of the reply.
    pub form: Option<Form>,
    /// Of how many alternatives the probabilities are told; `None` tells none at all.
    pub logprobs: Option<usize>,
    /// Whom it is for, opaque: jobs of the same salt share what was computed, and take turns with
    /// the others.
    pub salt: String,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model or a stop string ended it.
    Stop,
    /// The limit of the reply or of the context.
    Length,
}

/// Something for the caller of one reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Text to show.
    Text {
        /// Whole characters.
        text: String,
        /// The token that completed them.
        token: u32,
        /// Natural logarithm of its probability, if that was asked for; else 0.
        logprob: f32,
    },
    /// The tokens whose text has been shown, with their probabilities.
    Logprobs(Vec<TokenLogprob>),
    /// The end, with the token counts.
    End {
        /// Why.
        finish: Finish,
        /// Tokens of the prompt.
        input_tokens: usize,
        /// Tokens generated.
        output_tokens: usize,
    },
    /// The end of a reply that cannot go on.
    Failed(String),
}

/// What became of asking for a reply.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The conversation cannot be rendered.
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
    /// The form is none, or too intricate.
    #[error(transparent)]
    Form(#[from] FormError),
}

/// A loaded model with its replies.
pub struct Engine {
    backend: Backend,
    tokens: Tokens,
    template: ChatTemplate,
    /// Made when the first form is asked for.
    grammars: Option<Grammars>,
    context: usize,
    places: usize,
    running: Vec<Reply>,
    waiting: Turns<Reply>,
    /// Replies that gave their place up while their readers are slow.
    aside: Vec<Reply>,
    store: Store,
}

impl Engine {
    /// Opens, checks and loads the model, and runs it once. `progress` hears of the steps.
    ///
    /// # Errors
    /// [`LoadError`]: everything that can be wrong with the file is found here.
    pub fn load(config: &Config, progress: &mut dyn FnMut(&str)) -> Result<Self, LoadError> {
        config.check()?;
        let gguf = Arc::new(Gguf::open(&config.path)?);
        let shape = Arc::new(Shape::read(&gguf)?);
        let context = config.context(shape.trained_context);
        let mut report = |done: usize, all: usize| {
            if done == all || done.is_multiple_of(8) {
                progress(&format!("loaded {done} of {all} layers"));
            }
        };
        // Side by side: a large vocabulary takes as long as the weights.
        let (tokens, backend) = std::thread::scope(|scope| {
            let tokens = scope.spawn(|| Tokens::load(&gguf));
            let backend = Backend::load(config, &gguf, Arc::clone(&shape), context, &mut report);
            (tokens.join(), backend)
        });
        let tokens = tokens.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let backend = backend?;
        let id = |key: &str| gguf.number(key).and_then(|id| u32::try_from(id).ok());
        let name = |key: &str| id(key).map(|id| tokens.name(id)).unwrap_or_default();
        let template = ChatTemplate::new(
            gguf.text("tokenizer.chat_template"),
            shape.family,
            &name("tokenizer.ggml.bos_token_id"),
            &name("tokenizer.ggml.eos_token_id"),
        )?;
        let warm_up = tokens.encode("hello", crate::tokens::Origin::Message);
        let mut cache = Cache::default();
        backend.forward(&mut [Span { tokens: &warm_up, cache: &mut cache, logits: true }])?;
        progress("ready");
        let places = config.max_sequences;
        let store = match backend {
            Backend::Cpu { .. } => Store::pages(&shape, context, places),
            Backend::Device(_) => Store::Whole { idle: std::collections::VecDeque::new(), places },
        };
        Ok(Self {
            backend,
            tokens,
            template,
            grammars: None,
            context,
            places,
            running: Vec::new(),
            waiting: Turns::default(),
            aside: Vec::new(),
            store,
        })
    }

    /// The context in tokens, prompt and reply together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes of the weights, where they are in the machine's memory.
    pub fn weight_bytes(&self) -> Option<usize> {
        match &self.backend {
            Backend::Cpu { decoder, .. } => Some(decoder.bytes()),
            Backend::Device(_) => None,
        }
    }

    /// Bytes of the keys and values of a token, there too.
    pub fn cache_bytes_per_token(&self) -> Option<usize> {
        match &self.backend {
            Backend::Cpu { decoder, .. } => Some(decoder.shape().cache_bytes_per_token()),
            Backend::Device(_) => None,
        }
    }

    /// How many replies can run at once.
    pub fn places(&self) -> usize {
        self.places
    }

    /// How many replies are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Replies that wait for a place: those of all tenants, those of this one, and how many
    /// tenants wait.
    pub fn waiting(&self, salt: &str) -> (usize, usize, usize) {
        (self.waiting.len(), self.waiting.waiting(salt), self.waiting.lanes())
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        !self.waiting.is_empty() || self.running.iter().any(|reply| !reply.parked)
    }

    /// The tokenizer.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Takes a reply in; it begins as soon as there is a place.
    ///
    /// # Errors
    /// [`AdmitError`].
    pub fn admit(&mut self, id: u64, job: Job) -> Result<(), AdmitError> {
        // Room for the reply, but never more than half of the context: a wish for a long reply
        // must not push the question out.
        let max_tokens = job.max_tokens.clamp(1, self.context - 1);
        let room = max_tokens.min(self.context / 2);
        let tokens = prompt::fit(&self.template, &self.tokens, &job.messages, self.context - room)
            .map_err(|error| AdmitError::Template(format!("{error:#}")))?;
        let constraint = match &job.form {
            Some(form) => Some(self.grammars()?.begin(form)?),
            None => None,
        };
        let reply = Reply {
            id,
            salt: job.salt,
            max_tokens: max_tokens.min(self.context - tokens.len()),
            prompt: tokens.len(),
            tokens,
            cache: Cache::default(),
            sampler: Sampler::new(job.settings),
            stream: TextStream::new(job.stop),
            constraint,
            logprobs: job.logprobs.map(Held::new),
            parked: false,
        };
        let salt = reply.salt.clone();
        self.waiting.push(&salt, reply);
        Ok(())
    }

    fn grammars(&mut self) -> Result<&mut Grammars, FormError> {
        let grammars = match self.grammars.take() {
            Some(grammars) => grammars,
            None => Grammars::new(&self.tokens)?,
        };
        Ok(self.grammars.insert(grammars))
    }

    /// Stops a reply; its text so far stays with its caller. Returns its counts.
    pub fn cancel(&mut self, id: u64) -> Option<(usize, usize)> {
        let reply = if let Some(index) = self.running.iter().position(|reply| reply.id == id) {
            self.running.remove(index)
        } else if let Some(index) = self.aside.iter().position(|reply| reply.id == id) {
            self.aside.remove(index)
        } else {
            self.waiting.remove(|reply| reply.id == id)?
        };
        let counts = (reply.prompt, reply.said().len());
        let begun = counts.1 > 0 || !reply.cache.is_empty();
        self.store.end(reply.cache, reply.tokens, reply.salt);
        // One that only ever waited has consumed nothing.
        begun.then_some(counts)
    }

    /// Leaves a reply out of the steps, because its reader is slow, or takes it in again.
    pub fn park(&mut self, id: u64, parked: bool) {
        if let Some(reply) = self.running.iter_mut().find(|reply| reply.id == id) {
            reply.parked = parked;
        } else if !parked && let Some(index) = self.aside.iter().position(|reply| reply.id == id) {
            let mut reply = self.aside.remove(index);
            reply.parked = false;
            let salt = reply.salt.clone();
            self.waiting.push_first(&salt, reply);
        }
    }

    /// Gives the free places, and those of replies that nobody reads, to replies that wait.
    fn fill_places(&mut self) {
        while !self.waiting.is_empty() {
            if self.running.len() >= self.places {
                let Some(index) = self.running.iter().position(|reply| reply.parked) else {
                    return;
                };
                let mut reply = self.running.remove(index);
                let cache = std::mem::take(&mut reply.cache);
                // What it said is computed again when its reader is back, unless it is still known.
                self.store.end(cache, reply.tokens.clone(), reply.salt.clone());
                self.aside.push(reply);
            }
            let running = &self.running;
            let busy = |salt: &str| running.iter().filter(|reply| reply.salt == salt).count();
            let Some(mut reply) = self.waiting.pop(busy) else { return };
            reply.cache = self.store.begin(&reply.salt, &reply.tokens);
            self.running.push(reply);
        }
    }

    /// One token for every running reply, or a piece of its prompt. Returns what came of it.
    ///
    /// # Errors
    /// What the device says. No reply has moved on then.
    pub fn step(&mut self) -> Result<Vec<(u64, Output)>, candle_core::Error> {
        self.fill_places();
        let mut outputs = Vec::new();
        let taking = self.prepare(&mut outputs);
        let mut spans = Vec::with_capacity(taking.len());
        let mut next = taking.iter().copied().peekable();
        for (index, reply) in self.running.iter_mut().enumerate() {
            if next.next_if_eq(&index).is_some() {
                let rest = &reply.tokens[reply.cache.len()..];
                let tokens = &rest[..rest.len().min(PROMPT_PIECE)];
                let logits = tokens.len() == rest.len();
                spans.push(Span { tokens, cache: &mut reply.cache, logits });
            }
        }
        let logits = self.backend.forward(&mut spans)?;
        drop(spans);
        let mut over = Vec::new();
        for (index, logits) in taking.into_iter().zip(logits) {
            let reply = &mut self.running[index];
            self.store.note(&mut reply.cache, &reply.tokens);
            if let Some(mut logits) = logits
                && reply.advance(&mut logits, &self.tokens, &mut outputs)
            {
                over.push(index);
            }
        }
        self.retire(&over);
        Ok(outputs)
    }

    /// Which replies take part in this step: all that only wait for their next token, and the
    /// first of those that still read. Each gets room for what it will compute.
    fn prepare(&mut self, outputs: &mut Vec<(u64, Output)>) -> Vec<usize> {
        let (mut taking, mut over, mut reading) = (Vec::new(), Vec::new(), false);
        for (index, reply) in self.running.iter_mut().enumerate() {
            if reply.parked || (reply.is_reading() && reading) {
                continue;
            }
            let room = self.store.prepare(&mut reply.cache, &reply.tokens, PROMPT_PIECE);
            if room {
                reading |= reply.is_reading();
                taking.push(index);
            } else {
                let reason = "there is no room for its keys and values".to_owned();
                outputs.push((reply.id, Output::Failed(reason)));
                over.push(index);
            }
        }
        taking.retain(|index| !over.contains(index));
        let before = |index: usize| over.iter().filter(|gone| **gone < index).count();
        let taking = taking.into_iter().map(|index| index - before(index)).collect();
        self.retire(&over);
        taking
    }

    /// Takes finished replies out; what they computed stays known.
    fn retire(&mut self, over: &[usize]) {
        for index in over.iter().rev() {
            let reply = self.running.remove(*index);
            self.store.end(reply.cache, reply.tokens, reply.salt);
        }
    }
}

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
