//! A plugin of the asynchronous flavour that does what the last message says.

use std::time::Duration;

use qudao_plugin_api::{
    AsyncModelPlugin, AsyncSink, Completion, Host, Outgoing, OwnedRequest, Piece, PluginError,
    export_async_plugin,
    wire::{FinishReason, Usage},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    greeting: String,
    threads: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { greeting: "ok".to_owned(), threads: 1 }
    }
}

struct Obedient {
    config: Config,
}

impl AsyncModelPlugin for Obedient {
    type Config = Config;

    fn worker_threads(config: &Config) -> usize {
        config.threads
    }

    fn create(_: Host, config: Config) -> Result<Self, PluginError> {
        if 0 < config.threads {
            // The instance's runtime is entered: timers can be made here.
            let _timer = tokio::time::sleep(Duration::from_millis(1));
        }
        Ok(Self { config })
    }

    #[expect(clippy::panic, reason = "told to")]
    async fn run(
        &self,
        request: OwnedRequest,
        sink: &AsyncSink,
    ) -> Result<Completion, PluginError> {
        let text = request.chat()?.last_user_text();
        let (order, number) = text.split_once(' ').unwrap_or((&text, "0"));
        let count = number.parse().unwrap_or(0);
        match order {
            "panic" => panic!("told to"),
            "fail" => return Err(PluginError::bad_request("told to").with_status(422)),
            "count" => {
                for _ in 0..count {
                    sink.token("x").await?;
                }
            }
            "batch" => {
                let mut pieces = vec![Piece::Text("x"); count];
                pieces.extend([Piece::Reasoning("hm"), Piece::Json("{\"a\":1}")]);
                sink.pieces(&pieces).await?;
            }
            "forever" => loop {
                sink.token("x").await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            },
            "wait" | "abort" => {
                tokio::time::sleep(Duration::from_millis(number.parse().unwrap_or(0))).await;
                if order == "abort" {
                    std::process::abort();
                }
                sink.token("ok").await?;
            }
            "nap" => {
                sink.net()?.sleep(Duration::from_millis(number.parse().unwrap_or(0))).await;
                sink.token("rested").await?;
            }
            "fetch" => fetch(number, 1, sink).await?,
            "refetch" => fetch(number, 2, sink).await?,
            "trace" => sink.token(&request.trace).await?,
            "hang" => std::future::pending::<()>().await,
            _ => sink.token(&self.config.greeting).await?,
        }
        let output_tokens = u32::try_from(count).unwrap_or(u32::MAX);
        let usage = Usage { input_tokens: 1, output_tokens };
        Ok(Completion { usage, finish_reason: FinishReason::Stop })
    }
}

/// Streams what a server says, the last time that it is asked, or why it says nothing.
async fn fetch(url: &str, times: usize, sink: &AsyncSink) -> Result<(), PluginError> {
    let net = sink.net()?;
    let request = Outgoing {
        method: "GET",
        url,
        headers: &[("x-from", b"plugin")],
        body: b"",
        connect: Duration::from_secs(2),
        head: None,
        idle: None,
        total: None,
        public: false,
    };
    let mut answer = match net.send(&request).await {
        Ok(answer) => answer,
        Err(error) => return sink.token(&format!("{error:?}")).await,
    };
    for _ in 1..times {
        // The answer of before is dropped when the next one stands.
        answer = net.send(&request).await?;
    }
    sink.token(&format!("{} ", answer.status)).await?;
    while let Some(bytes) = answer.chunk().await? {
        sink.token(&String::from_utf8_lossy(&bytes)).await?;
    }
    Ok(())
}

export_async_plugin!(Obedient);
