//! The engine: several replies at once, one step at a time, on the caller's thread.
//!
//! A step gives every running reply its next token and, beside that, reads a piece of the longest
//! waiting prompt; so a long prompt slows the others' tokens but never stops them. When a reply
//! ends, its keys and values stay until the place is needed: the next question of the same
//! conversation begins with the same tokens, and those are not computed again.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::backend::Backend;
use crate::config::Config;
use crate::decoder::{Cache, Span};
use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::prompt;
use crate::sampling::{Sampler, Settings};
use crate::shape::Shape;
use crate::stream::TextStream;
use crate::template::{ChatTemplate, Message};
use crate::tokens::Tokens;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text to show.
    Text {
        /// Whole characters.
        text: String,
        /// The token that completed them.
        token: u32,
    },
    /// The end, with the token counts.
    End {
        /// Why.
        finish: Finish,
        /// Tokens of the prompt.
        input_tokens: usize,
        /// Tokens generated.
        output_tokens: usize,
    },
}

/// What became of asking for a reply.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// All places are taken.
    #[error("all {0} places of this model are taken")]
    Full(usize),
    /// The conversation cannot be rendered.
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
}

/// A reply in the making.
struct Running {
    id: u64,
    prompt: Vec<u32>,
    reply: Vec<u32>,
    cached: Vec<u32>,
    cache: Cache,
    max_tokens: usize,
    sampler: Sampler,
    stream: TextStream,
    parked: bool,
}

impl Running {
    fn is_reading(&self) -> bool {
        self.cache.len() < self.prompt.len()
    }

    /// The tokens of this reply's next step, at most `limit` of them.
    fn next_tokens(&self, limit: usize) -> Vec<u32> {
        let done = self.cache.len();
        match self.prompt.get(done..) {
            Some(rest) if !rest.is_empty() => rest[..rest.len().min(limit)].to_vec(),
            _ => self.reply.last().copied().into_iter().collect(),
        }
    }
}

/// A loaded model with its replies.
pub struct Engine {
    backend: Backend,
    tokens: Tokens,
    template: ChatTemplate,
    context: usize,
    places: usize,
    running: Vec<Running>,
    /// Keys and values of finished replies, the latest last.
    idle: VecDeque<(Vec<u32>, Cache)>,
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
        let tokens = Tokens::load(&gguf)?;
        let id = |key: &str| gguf.number(key).and_then(|id| u32::try_from(id).ok());
        let name = |key: &str| id(key).map_or("", |id| tokens.name(id)).to_owned();
        let template = ChatTemplate::new(
            gguf.text("tokenizer.chat_template"),
            shape.family,
            &name("tokenizer.ggml.bos_token_id"),
            &name("tokenizer.ggml.eos_token_id"),
        )?;
        let mut report = |done: usize, all: usize| {
            if done == all || done.is_multiple_of(8) {
                progress(&format!("loaded {done} of {all} layers"));
            }
        };
        let backend = Backend::load(config, &gguf, shape, context, &mut report)?;
        let warm_up = tokens.encode("hello", crate::tokens::Origin::Message);
        let mut cache = Cache::default();
        backend.forward(&mut [Span { tokens: &warm_up, cache: &mut cache, logits: true }])?;
        progress("ready");
        Ok(Self {
            backend,
            tokens,
            template,
            context,
            places: config.max_sequences,
            running: Vec::new(),
            idle: VecDeque::new(),
        })
    }

    /// The context in tokens, prompt and reply together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many replies can run at once.
    pub fn places(&self) -> usize {
        self.places
    }

    /// How many replies are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether a step would do anything.
    pub fn has_work(&self) -> bool {
        self.running.iter().any(|reply| !reply.parked)
    }

    /// The tokenizer.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Begins a reply.
    ///
    /// # Errors
    /// [`AdmitError`].
    pub fn admit(&mut self, id: u64, job: Job) -> Result<(), AdmitError> {
        if self.running.len() >= self.places {
            return Err(AdmitError::Full(self.places));
        }
        // Room for the reply, but never more than half of the context: a wish for a long reply
        // must not push the question out.
        let max_tokens = job.max_tokens.clamp(1, self.context - 1);
        let room = max_tokens.min(self.context / 2);
        let prompt = prompt::fit(&self.template, &self.tokens, &job.messages, self.context - room)
            .map_err(|error| AdmitError::Template(format!("{error:#}")))?;
        let cache = self.take_cache(&prompt);
        self.running.push(Running {
            id,
            max_tokens: max_tokens.min(self.context - prompt.len()),
            cached: prompt[..cache.len()].to_vec(),
            prompt,
            reply: Vec::new(),
            cache,
            sampler: Sampler::new(job.settings),
            stream: TextStream::new(job.stop),
            parked: false,
        });
        Ok(())
    }

    /// The idle cache that shares the longest beginning with the prompt, cut to it.
    fn take_cache(&mut self, prompt: &[u32]) -> Cache {
        let shared = |tokens: &[u32]| tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let best = self
            .idle
            .iter()
            .enumerate()
            .map(|(index, (tokens, _))| (shared(tokens), index))
            .max_by_key(|(length, index)| (*length, *index));
        match best {
            Some((length, index)) if length > 0 => {
                let Some((_, mut cache)) = self.idle.remove(index) else { return Cache::default() };
                // The last token of the prompt must be computed for its logits.
                cache.truncate(length.min(prompt.len() - 1));
                cache
            }
            _ => Cache::default(),
        }
    }

    /// Stops a reply; its text so far stays with its caller. Returns its counts.
    pub fn cancel(&mut self, id: u64) -> Option<(usize, usize)> {
        let index = self.running.iter().position(|reply| reply.id == id)?;
        let reply = self.running.swap_remove(index);
        let counts = (reply.prompt.len(), reply.reply.len());
        self.keep(reply);
        Some(counts)
    }

    /// Leaves a reply out of the steps, because its reader is slow, or takes it in again.
    pub fn park(&mut self, id: u64, parked: bool) {
        if let Some(reply) = self.running.iter_mut().find(|reply| reply.id == id) {
            reply.parked = parked;
        }
    }

    /// One token for every running reply, or a piece of its prompt. Returns what came of it.
    ///
    /// # Errors
    /// What the device says. No reply has moved on then.
    pub fn step(&mut self) -> Result<Vec<(u64, Output)>, candle_core::Error> {
        let reading = self.running.iter().position(|reply| !reply.parked && reply.is_reading());
        let mut taking: Vec<(usize, Vec<u32>)> = Vec::new();
        for (index, reply) in self.running.iter().enumerate() {
            if !reply.parked && (!reply.is_reading() || reading == Some(index)) {
                taking.push((index, reply.next_tokens(PROMPT_PIECE)));
            }
        }
        let mut tokens = taking.iter();
        let mut next = tokens.next();
        let mut spans = Vec::with_capacity(taking.len());
        for (index, reply) in self.running.iter_mut().enumerate() {
            if let Some((at, own)) = next
                && *at == index
            {
                let logits = reply.cache.len() + own.len() >= reply.prompt.len();
                reply.cached.extend_from_slice(own);
                spans.push(Span { tokens: own, cache: &mut reply.cache, logits });
                next = tokens.next();
            }
        }
        let logits = self.backend.forward(&mut spans)?;
        drop(spans);
        let mut outputs = Vec::new();
        for ((index, _), logits) in taking.iter().zip(logits) {
            if let Some(mut logits) = logits {
                self.take_token(*index, &mut logits, &mut outputs);
            }
        }
        self.remove_finished(&outputs);
        Ok(outputs)
    }

    fn take_token(&mut self, index: usize, logits: &mut [f32], outputs: &mut Vec<(u64, Output)>) {
        let reply = &mut self.running[index];
        let token = reply.sampler.choose(logits, &reply.reply);
        let ended = self.tokens.is_end(token);
        reply.reply.push(token);
        if !ended {
            let text = reply.stream.push(self.tokens.bytes(token));
            if !text.is_empty() {
                outputs.push((reply.id, Output::Text { text, token }));
            }
        }
        let finish = if ended || reply.stream.is_stopped() {
            Finish::Stop
        } else if reply.reply.len() >= reply.max_tokens {
            Finish::Length
        } else {
            return;
        };
        let rest = reply.stream.finish();
        if !rest.is_empty() {
            outputs.push((reply.id, Output::Text { text: rest, token }));
        }
        let (input_tokens, output_tokens) = (reply.prompt.len(), reply.reply.len());
        outputs.push((reply.id, Output::End { finish, input_tokens, output_tokens }));
    }

    fn remove_finished(&mut self, outputs: &[(u64, Output)]) {
        for (id, output) in outputs {
            if matches!(output, Output::End { .. })
                && let Some(index) = self.running.iter().position(|reply| reply.id == *id)
            {
                let reply = self.running.remove(index);
                self.keep(reply);
            }
        }
    }

    /// Keeps the keys and values of a finished reply for the conversation's next question.
    fn keep(&mut self, reply: Running) {
        let Running { mut cached, cache, .. } = reply;
        cached.truncate(cache.len());
        self.idle.push_back((cached, cache));
        while self.idle.len() > self.places {
            self.idle.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
