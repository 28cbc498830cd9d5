//! From one generation to the next, and to none.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use qudao_plugin_api::{
    manifest::{SelfTest, Strategy},
    sdk,
    wire::{
        Ask, ChatMessage, ChatRequest, ClassifyRequest, DetectRequest, EmbedRequest, Role,
        TranscribeRequest,
    },
};
use qudao_telemetry::{Span, Trace};
use tokio::{sync::oneshot, task};

use crate::{
    artifact::VerifiedPlugin,
    event::{Call, Event, EventStream},
    generation::Generation,
    host::{HostError, PluginHost, offers},
    instance::Instance,
    probe::probe_child,
    report::{GenerationReport, ModelState},
    settings::ModelKind,
    terms::{Source, Terms},
    watch,
};

/// What a self-test asks; nothing of kinds that are not served.
fn question(kind: ModelKind, model: &str, message: &str) -> Option<Ask> {
    let texts = vec![message.to_owned()];
    Some(match kind {
        ModelKind::Chat => {
            ChatRequest::new(model, vec![ChatMessage::text(Role::User, message)]).into()
        }
        ModelKind::Embed => EmbedRequest::new(model, texts).into(),
        ModelKind::Classify => ClassifyRequest::new(model, texts).into(),
        ModelKind::Detect => DetectRequest::new(model, message).into(),
        ModelKind::Transcribe => TranscribeRequest::new(model, message).into(),
        ModelKind::Complete | ModelKind::Tokenize => return None,
    })
}

impl PluginHost {
    /// Swaps one instance to `verified`. Whatever fails, the old generation or, where memory
    /// holds but one, a new start of the old bytes serves on.
    pub(crate) async fn reload_instance(
        &self,
        instance: &Arc<Instance>,
        verified: &VerifiedPlugin,
    ) -> Result<GenerationReport, HostError> {
        let refused =
            |reason| HostError::Reload { instance: instance.settings.name.clone(), reason };
        let probed = task::spawn_blocking(probe_child(&self.0.ground, verified)).await;
        probed.map_err(|error| error.to_string()).and_then(|result| result).map_err(refused)?;
        offers(&verified.manifest, &instance.settings.models).map_err(refused)?;
        let source = Source::Folder(Box::new(verified.clone()));
        let terms = Arc::new(Terms::new(source, &instance.settings));
        let early = match verified.manifest.upgrade.strategy {
            Strategy::DrainFirst => instance.uninstall(),
            Strategy::SideBySide => None,
        };
        if let Some(old) = &early {
            instance.set_state(ModelState::Loading { note: "upgrading".to_owned() });
            retire(instance, old).await;
        }
        let swapped = self.swap(instance, &terms, verified.manifest.selftest.as_ref()).await;
        let (generation, old) = match swapped {
            Ok(swapped) => swapped,
            Err(reason) => {
                if early.is_some() {
                    restart(instance).await;
                }
                return Err(refused(reason));
            }
        };
        let drained = old.as_ref().map_or(0, |old| old.in_flight());
        if let Some(old) = &old {
            retire(instance, old).await;
        }
        Ok(GenerationReport {
            instance: instance.settings.name.clone(),
            from: old.or(early).map_or(0, |old| old.number),
            to: generation.number,
            variant: generation.variant.clone(),
            drained,
        })
    }

    /// Starts a generation by `terms`, tests it and installs it; also returns the one before.
    async fn swap(
        &self,
        instance: &Arc<Instance>,
        terms: &Arc<Terms>,
        selftest: Option<&SelfTest>,
    ) -> Result<(Arc<Generation>, Option<Arc<Generation>>), String> {
        let generation = launch(instance, terms).await?;
        instance.watch(&generation);
        if let Some(selftest) = selftest
            && let Err(reason) = self.selftest(instance, &generation, selftest).await
        {
            retire(instance, &generation).await;
            return Err(format!("the self-test failed: {reason}"));
        }
        match instance.install(&generation) {
            Ok(old) => Ok((generation, old)),
            Err(gone) => Err(gone.to_string()),
        }
    }

    async fn selftest(
        &self,
        instance: &Arc<Instance>,
        generation: &Arc<Generation>,
        selftest: &SelfTest,
    ) -> Result<(), String> {
        let model = instance.settings.models.first();
        let model = model.map_or("", |entry| entry.upstream.as_deref().unwrap_or(&entry.name));
        let kind = instance.settings.models.first().map_or(ModelKind::Chat, |entry| entry.kind);
        let Some(request) = question(kind, model, &selftest.message) else { return Ok(()) };
        let call = Call {
            kind,
            payload: serde_json::to_vec(&request).map_err(|error| error.to_string())?,
            timeout: Duration::from_millis(selftest.timeout_ms),
            trace: Trace::NONE,
        };
        let flight = self.0.flight(instance, generation, call, String::new(), None);
        let (flight, events) = flight.map_err(|error| error.to_string())?;
        if !generation.submit(&flight) {
            return Err("it takes no calls".to_owned());
        }
        let span = Span::silent(Trace::NONE);
        let mut stream = EventStream::new(Arc::clone(instance), flight, events, span);
        while let Some(event) = stream.next().await {
            match event {
                Event::End { .. } => return Ok(()),
                Event::Error(error) => return Err(error.to_string()),
                _ => {}
            }
        }
        Err("no end".to_owned())
    }

    /// Waits up to `deadline` for calls under way, then ends every plugin.
    pub async fn shutdown(&self, deadline: Duration) {
        self.0.stopped.store(true, Ordering::Relaxed);
        let until = Instant::now() + deadline;
        let mut generations = Vec::new();
        for instance in self.0.instances() {
            instance.stopping.store(true, Ordering::Relaxed);
            if let Some(generation) = instance.uninstall() {
                instance.watch(&generation);
                generation.close(deadline_ns(deadline));
                generations.push(generation);
            }
            instance.set_state(ModelState::Failed { reason: "shutting down".to_owned() });
            instance.fail_waiting();
        }
        for generation in generations {
            drain(&generation, until).await;
            end(&generation).await;
        }
    }
}

/// Starts a generation that nobody calls yet.
async fn launch(instance: &Arc<Instance>, terms: &Arc<Terms>) -> Result<Arc<Generation>, String> {
    let (ready, started) = oneshot::channel();
    instance.launch_with(Arc::clone(terms), Some(ready));
    started.await.map_err(|error| error.to_string()).and_then(|started| started)
}

/// Starts the old bytes again after an upgrade for which they had to make room.
async fn restart(instance: &Arc<Instance>) {
    let started = launch(instance, &instance.terms()).await;
    let installed = started.and_then(|generation| {
        instance.install(&generation).map(drop).map_err(|gone| gone.to_string())
    });
    if let Err(reason) = installed {
        tracing::error!(instance = instance.settings.name, reason, "the old code does not start");
        instance.set_state(ModelState::Failed { reason });
    }
}

fn deadline_ns(from_now: Duration) -> u64 {
    let from_now = u64::try_from(from_now.as_nanos()).unwrap_or(u64::MAX);
    sdk::monotonic_ns().saturating_add(from_now)
}

async fn drain(generation: &Generation, until: Instant) {
    while generation.in_flight() != 0 && Instant::now() < until {
        tokio::time::sleep(watch::TICK).await;
    }
}

/// Lets the calls of an old generation finish, then ends it.
async fn retire(instance: &Instance, old: &Arc<Generation>) {
    let patience = old.terms.limits.drain;
    instance.watch(old);
    old.close(deadline_ns(patience));
    drain(old, Instant::now() + patience).await;
    end(old).await;
    instance.unwatch(old);
}

/// Ends a generation. Not on a thread of the runtime: a plugin's `destroy` may take its time.
async fn end(generation: &Arc<Generation>) {
    let ending = Arc::clone(generation);
    if let Err(error) = task::spawn_blocking(move || ending.end()).await {
        tracing::error!(%error, ?generation, "ending a generation");
    }
}
