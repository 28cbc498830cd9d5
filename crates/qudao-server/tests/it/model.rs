//! A model that does what the test says, when the test says it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use qudao_plugin_api::{
    Completion, Host, ModelPlugin, PluginError, Request, Sink,
    wire::{ChatRequest, FinishReason, Usage},
};
use qudao_plugin_host::{InstanceSettings, PluginHost};
use serde_json::Value;

type Play = dyn Fn(&Sink<'_>) -> Result<Completion, PluginError> + Send + Sync;

static SCRIPTS: Mutex<Option<HashMap<u64, Arc<Script>>>> = Mutex::new(None);

/// What the model does, and what it was asked.
pub(crate) struct Script {
    calls: AtomicUsize,
    asked: Mutex<Option<ChatRequest>>,
    play: Box<Play>,
}

/// Drives a model that waits for its next word. Dropped, the model ends its reply.
pub(crate) struct Prompter(Sender<String>);

impl Prompter {
    pub(crate) fn say(&self, piece: &str) {
        self.0.send(piece.to_owned()).unwrap();
    }
}

impl Script {
    pub(crate) fn new(
        play: impl Fn(&Sink<'_>) -> Result<Completion, PluginError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (calls, asked) = (AtomicUsize::new(0), Mutex::new(None));
        Arc::new(Self { calls, asked, play: Box::new(play) })
    }

    /// Says these pieces, a token each, with a pause before each.
    pub(crate) fn says(pieces: &'static [&'static str], pause: Duration) -> Arc<Self> {
        Self::new(move |sink| {
            for piece in pieces {
                std::thread::sleep(pause);
                sink.token(piece)?;
            }
            Ok(done(pieces.len(), FinishReason::Stop))
        })
    }

    /// Says what the prompter says, a token each, for one reply.
    pub(crate) fn prompted() -> (Arc<Self>, Prompter) {
        let (say, lines) = mpsc::channel::<String>();
        let lines = Mutex::new(lines);
        let script = Self::new(move |sink| {
            let mut said = 0;
            loop {
                if sink.is_cancelled() {
                    return Err(PluginError::cancelled());
                }
                match lines.lock().unwrap().recv_timeout(Duration::from_millis(5)) {
                    Ok(piece) => {
                        sink.token(&piece)?;
                        said += 1;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Ok(done(said, FinishReason::Stop));
                    }
                }
            }
        });
        (script, Prompter(say))
    }

    /// Says these JSON deltas, and that it called tools.
    pub(crate) fn calls_tools(deltas: Vec<Value>) -> Arc<Self> {
        Self::new(move |sink| {
            for delta in &deltas {
                sink.data(delta)?;
            }
            Ok(done(deltas.len(), FinishReason::ToolCalls))
        })
    }

    /// How often it was called.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// What it was asked last.
    pub(crate) fn asked(&self) -> Value {
        serde_json::to_value(self.asked.lock().unwrap().as_ref()).unwrap()
    }
}

pub(crate) fn done(output: usize, finish_reason: FinishReason) -> Completion {
    let output_tokens = u32::try_from(output).unwrap();
    Completion { usage: Usage { input_tokens: 10, output_tokens }, finish_reason }
}

struct Scripted(Arc<Script>);

impl ModelPlugin for Scripted {
    type Config = u64;

    fn create(_: Host, config: u64) -> Result<Self, PluginError> {
        let scripts = SCRIPTS.lock().unwrap();
        let script = scripts.as_ref().and_then(|scripts| scripts.get(&config)).cloned();
        script.map(Self).ok_or_else(|| PluginError::internal("no such script"))
    }

    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        *self.0.asked.lock().unwrap() = Some(request.chat()?);
        (self.0.play)(sink)
    }
}

/// Registers the model `fake` and waits until it serves.
pub(crate) async fn register(host: &PluginHost, script: Arc<Script>) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    SCRIPTS.lock().unwrap().get_or_insert_default().insert(id, script);
    let mut settings = InstanceSettings::new("fake", "scripted", "fake");
    settings.config = id.into();
    settings.max_concurrency = 64;
    host.register_static::<Scripted>(settings);
    while !host.model("fake").is_some_and(|report| report.state.serves()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
