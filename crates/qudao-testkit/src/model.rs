//! A model that says what a test tells it to.

use std::{
    thread,
    time::{Duration, Instant},
};

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink,
    wire::{ErrorKind, Usage},
};
use qudao_plugin_host::{InstanceSettings, PluginHost};
use serde::{Deserialize, Serialize};

/// What the model says and does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    /// What it says, piece by piece; each counts as one token.
    pub tokens: Vec<String>,
    /// How long it thinks before each piece, in milliseconds.
    pub delay_ms: u64,
    /// Fails after this many pieces, with this kind of error.
    pub failure: Option<(usize, ErrorKind)>,
}

impl Script {
    /// A reply, one word after the other.
    pub fn reply(text: &str) -> Self {
        let tokens = text.split_inclusive(' ').map(str::to_owned).collect();
        Self { tokens, delay_ms: 0, failure: None }
    }

    /// The same with a pause before each word.
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The same, but it fails after this many words.
    pub fn failing_after(mut self, words: usize, kind: ErrorKind) -> Self {
        self.failure = Some((words, kind));
        self
    }
}

/// A model without a library: it is part of the test.
#[derive(Debug)]
pub struct FakeModel {
    script: Script,
}

impl FakeModel {
    /// Registers it under this name and waits until it serves.
    ///
    /// # Panics
    /// If it does not serve within ten seconds.
    pub async fn register(host: &PluginHost, name: &str, script: Script) {
        let config = serde_json::to_value(script).expect("a script is JSON");
        let settings = InstanceSettings { config, ..InstanceSettings::new(name, "fake", name) };
        host.register_static::<Self>(settings);
        let begun = Instant::now();
        while !host.model(name).is_some_and(|report| report.state.serves()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", host.model(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl ModelPlugin for FakeModel {
    type Config = Script;

    fn create(_: Host, script: Script) -> Result<Self, PluginError> {
        Ok(Self { script })
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        let asked = request.chat()?.last_user_text();
        let words = asked.split_whitespace().count();
        let mut usage =
            Usage { input_tokens: u32::try_from(words).unwrap_or(u32::MAX), output_tokens: 0 };
        for (said, token) in self.script.tokens.iter().enumerate() {
            self.fail_at(said)?;
            thread::sleep(Duration::from_millis(self.script.delay_ms));
            if sink.is_cancelled() {
                return Err(PluginError::cancelled());
            }
            sink.token(token)?;
            usage.output_tokens += 1;
        }
        self.fail_at(self.script.tokens.len())?;
        Ok(Completion::stop(usage))
    }
}

impl FakeModel {
    fn fail_at(&self, said: usize) -> Result<(), PluginError> {
        match self.script.failure {
            Some((after, kind)) if after == said => {
                Err(PluginError::new(kind, "as the script says"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use qudao_plugin_host::{Call, CallError, Event, HostSettings, ModelKind};
    use serde_json::json;

    use super::*;

    async fn ask(script: Script) -> (String, Event) {
        let host = PluginHost::start(HostSettings::default()).await;
        FakeModel::register(&host, "fake", script).await;
        let request = json!({
            "schema": "qudao.chat.v1",
            "model": "fake",
            "messages": [{ "role": "user", "content": "two words" }],
        });
        let call = Call {
            kind: ModelKind::Chat,
            payload: serde_json::to_vec(&request).unwrap(),
            timeout: Duration::from_secs(10),
            trace: qudao_plugin_host::Trace::NONE,
        };
        let mut stream = host.call("fake", call).unwrap();
        let mut said = String::new();
        loop {
            match stream.next().await.expect("an end comes") {
                Event::Token { text, .. } => said.push_str(&text),
                end @ (Event::End { .. } | Event::Error(_)) => return (said, end),
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn it_says_its_lines_and_counts_them() {
        let (said, end) = ask(Script::reply("Hello to you")).await;
        assert_eq!(said, "Hello to you");
        let Event::End { usage, .. } = end else { panic!("{end:?}") };
        assert_eq!(usage, Usage { input_tokens: 2, output_tokens: 3 });
    }

    #[tokio::test]
    async fn it_fails_where_the_script_says() {
        let script = Script::reply("one two three").failing_after(1, ErrorKind::RateLimited);
        let (said, end) = ask(script).await;
        assert_eq!(said, "one ");
        let limited =
            matches!(end, Event::Error(CallError::Provider { kind: ErrorKind::RateLimited, .. }));
        assert!(limited, "{end:?}");
    }
}
