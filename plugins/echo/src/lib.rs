//! The reference plugin: streams the person's last message back, word by word.

use std::{thread, time::Duration};

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink, export_plugin, wire::Usage,
};
use rand_distr::{Distribution as _, LogNormal};
use serde::Deserialize;

/// All of it may be absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Before each word.
    delay_ms: u64,
    /// Before the first word: the median of a log-normal distribution, as services answer.
    think_ms: u64,
    /// The standard deviation of its logarithm; 0 for always the median.
    think_spread: f64,
    /// How many times the message is repeated; 0 counts as 1.
    count: u32,
    /// Characters of one piece of the answer; 0 for whole words. With 1, everything that means
    /// something to a reader of markup is cut apart.
    piece_chars: usize,
}

struct Echo {
    config: Config,
}

impl ModelPlugin for Echo {
    type Config = Config;

    fn create(_: Host, config: Config) -> Result<Self, PluginError> {
        Ok(Self { config })
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        let chat = request.chat()?;
        let text = chat.last_user_text();
        self.think();
        let mut usage = Usage { input_tokens: words(&text), output_tokens: 0 };
        for round in 0..self.config.count.max(1) {
            if round != 0 {
                sink.token(" ")?;
            }
            for word in self.pieces(&text) {
                if self.config.delay_ms != 0 {
                    thread::sleep(Duration::from_millis(self.config.delay_ms));
                }
                sink.token(word)?;
                usage.output_tokens += 1;
            }
        }
        Ok(Completion::stop(usage))
    }
}

impl Echo {
    fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        if self.config.piece_chars == 0 {
            return text.split_inclusive(' ').collect();
        }
        let starts: Vec<_> =
            text.char_indices().step_by(self.config.piece_chars).map(|(at, _)| at).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts.iter().zip(ends).filter_map(|(start, end)| text.get(*start..end)).collect()
    }

    fn think(&self) {
        let Config { think_ms, think_spread, .. } = self.config;
        // The logarithm of the median is the mean of the logarithm.
        #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
        let Ok(times) = LogNormal::new((think_ms.max(1) as f64).ln(), think_spread) else { return };
        if think_ms != 0 {
            thread::sleep(Duration::from_secs_f64(times.sample(&mut rand::rng()) / 1000.0));
        }
    }
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

export_plugin!(Echo);
