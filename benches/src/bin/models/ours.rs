//! The engine of the plugin, called as the plugin calls it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use qudao_plugin_candle_llm::config::Config;
use qudao_plugin_candle_llm::decoder::{Cache, Decoder, Span};
use qudao_plugin_candle_llm::engine::{Engine, Job, Output};
use qudao_plugin_candle_llm::gguf::Gguf;
use qudao_plugin_candle_llm::pool::Pool;
use qudao_plugin_candle_llm::sampling::Settings;
use qudao_plugin_candle_llm::shape::Shape;
use qudao_plugin_candle_llm::template::Message;

/// Tokens of a prompt that the engine reads in one step.
const PIECE: usize = 128;

/// The decoder with its threads.
pub(crate) struct Ours {
    pool: Pool,
    decoder: Decoder,
}

impl Ours {
    pub(crate) fn load(model: &Path, threads: usize) -> Result<Self> {
        let pool = Pool::new(threads)?;
        let gguf = Arc::new(Gguf::open(model)?);
        let shape = Arc::new(Shape::read(&gguf)?);
        let decoder = Decoder::load(&gguf, shape, &pool, &mut |_, _| ())?;
        Ok(Self { pool, decoder })
    }

    /// Tokens per second of a prompt, read in the engine's pieces.
    pub(crate) fn prompt(&self, count: usize) -> f64 {
        let tokens = some_tokens(count);
        let mut cache = Cache::default();
        per_second(count, || {
            for piece in tokens.chunks(PIECE) {
                self.step(&mut [Span { tokens: piece, cache: &mut cache, logits: true }]);
            }
        })
    }

    /// Tokens per second of a reply from an empty context, as llama-bench measures it.
    pub(crate) fn reply(&self, count: usize) -> f64 {
        let tokens = some_tokens(count);
        let mut cache = Cache::default();
        per_second(count, || {
            for token in &tokens {
                self.step(&mut [Span { tokens: &[*token], cache: &mut cache, logits: true }]);
            }
        })
    }

    /// Tokens per second of several replies together, after a prompt each.
    pub(crate) fn together(&self, streams: usize, prompt: usize, reply: usize) -> f64 {
        let prompts: Vec<Vec<u32>> = (0..streams).map(|_| some_tokens(prompt)).collect();
        let mut caches: Vec<Cache> = prompts.iter().map(|_| Cache::default()).collect();
        for (tokens, cache) in prompts.iter().zip(&mut caches) {
            self.step(&mut [Span { tokens, cache, logits: false }]);
        }
        per_second(streams * reply, || {
            for token in some_tokens(reply) {
                let spans = caches.iter_mut();
                let mut spans: Vec<_> = spans
                    .map(|cache| Span { tokens: std::slice::from_ref(&token), cache, logits: true })
                    .collect();
                self.step(&mut spans);
            }
        })
    }

    fn step(&self, spans: &mut [Span<'_>]) {
        std::hint::black_box(self.decoder.forward(&self.pool, spans));
    }
}

fn some_tokens(count: usize) -> Vec<u32> {
    (100..4000).step_by(37).cycle().take(count).collect()
}

fn per_second(tokens: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    tokens as f64 / start.elapsed().as_secs_f64()
}

/// A greedy job.
pub(crate) fn job(persona: &str, question: &str, max_tokens: usize) -> Job {
    Job {
        messages: vec![Message::new("system", persona), Message::new("user", question)],
        max_tokens,
        stop: Vec::new(),
        settings: Settings {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 1,
        },
        form: None,
        logprobs: None,
        salt: String::new(),
    }
}

/// A text of about so many tokens, another one for each number.
pub(crate) fn text(engine: &Engine, tokens: usize, number: usize) -> String {
    let line = |at: usize| format!("Rule {number} {at}: answer politely and in one sentence. ");
    let mut text = String::new();
    for at in 0.. {
        let next = line(at);
        if tokens < qudao_plugin_candle_llm::prompt::count(engine.tokens(), &(text.clone() + &next))
        {
            break;
        }
        text.push_str(&next);
    }
    text
}

/// Seconds to the first token of a conversation with a new persona, and with one that another
/// conversation has brought before; the best of some. `None` where the context is too small.
pub(crate) fn first_tokens(
    model: &Path,
    threads: usize,
    persona: usize,
    rounds: usize,
) -> Result<Option<(f64, f64)>> {
    let config = Config { threads: Some(threads), max_sequences: 2, ..Config::new(model) };
    let mut engine = Engine::load(&config, &mut |_| ())?;
    if engine.context() < persona + 256 {
        return Ok(None);
    }
    let (mut cold, mut warm) = (f64::MAX, f64::MAX);
    for round in 0..rounds {
        let persona = text(&engine, persona, round);
        cold = cold.min(first_token(&mut engine, job(&persona, "Do you sell tea?", 4))?);
        warm = warm.min(first_token(&mut engine, job(&persona, "When do you open?", 4))?);
    }
    Ok(Some((cold, warm)))
}

fn first_token(engine: &mut Engine, job: Job) -> Result<f64> {
    let start = Instant::now();
    engine.admit(1, job).map_err(|error| anyhow!("{error}"))?;
    let mut first = None;
    while engine.has_work() {
        for (_, output) in engine.step()? {
            if matches!(output, Output::Text { .. } | Output::End { .. }) {
                first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            }
        }
    }
    first.ok_or_else(|| anyhow!("a reply without a token"))
}
