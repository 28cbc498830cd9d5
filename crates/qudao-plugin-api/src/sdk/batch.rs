//! The flavour for engines that serve many requests in one step: the SDK owns the engine
//! thread, groups the events of a step and parks what the reader cannot take.

use std::{
    collections::{HashMap, VecDeque},
    ffi::c_void,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Completion, Host, LogLevel, OwnedRequest, PluginError,
    boundary::{catch, create, destroy, fail, finish, read_request},
};
use crate::abi::{
    QD_ABI_MINOR, QD_E_AGAIN, QD_E_OVERLOADED, QD_E_PANIC, QD_EF_REASONING, QD_EV_DATA,
    QD_EV_TOKEN, QD_OK, QD_WINDOW, QdBytes, QdError, QdEvent, QdHostApi, QdPluginApi, QdRequest,
    SIZE_OF_PLUGIN_API,
};
use crate::wire::{FinishReason, Usage};

/// Requests that may wait for the engine thread.
const QUEUE_MAX: usize = 1024;
/// How long an idle engine sleeps while requests are alive but none can run.
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// An engine that advances all its requests together. Lives on one thread of its own.
pub trait BatchPlugin: Send + Sized + 'static {
    /// Read from the instance's configuration.
    type Config: DeserializeOwned;

    /// Loads the model; may take minutes.
    ///
    /// # Errors
    /// Why the instance cannot start.
    fn create(host: Host, config: Self::Config) -> Result<Self, PluginError>;

    /// Takes a request in; its answer comes from later steps.
    ///
    /// # Errors
    /// Becomes the ERROR event of the request.
    fn admit(&mut self, request: OwnedRequest) -> Result<(), PluginError>;

    /// Advances every request that is not parked and writes what came of it to `sink`.
    ///
    /// # Errors
    /// Ends every admitted request with this error.
    fn step(&mut self, sink: &mut StepSink<'_>) -> Result<Step, PluginError>;

    /// Forgets a request; nothing more may be written for it. What it consumed so far, where
    /// that is known, is told with its end.
    fn cancel(&mut self, id: u64) -> Option<Usage>;

    /// Leaves a request out of the steps while its reader is slow, or takes it back in.
    fn park(&mut self, id: u64, parked: bool);
}

/// What a step left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Call again at once.
    Busy,
    /// Nothing can run until a request comes or is unparked.
    Idle,
}

enum Pending {
    Token { text: String, reasoning: bool, token_id: u32, logprob: f32 },
    Data(Vec<u8>),
    Finish(Result<Completion, PluginError>),
}

#[derive(Default)]
struct Live {
    queue: VecDeque<Pending>,
    parked: bool,
}

/// Collects the events of one step.
pub struct StepSink<'a> {
    live: &'a mut HashMap<u64, Live>,
}

impl StepSink<'_> {
    fn push(&mut self, id: u64, pending: Pending) {
        if let Some(live) = self.live.get_mut(&id) {
            live.queue.push_back(pending);
        }
    }

    /// Text of a request's answer.
    pub fn token(&mut self, id: u64, text: String, token_id: u32, logprob: f32) {
        self.push(id, Pending::Token { text, reasoning: false, token_id, logprob });
    }

    /// Text of a request's reasoning.
    pub fn reasoning(&mut self, id: u64, text: String) {
        self.push(id, Pending::Token { text, reasoning: true, token_id: 0, logprob: 0.0 });
    }

    /// A JSON delta of a request.
    pub fn data(&mut self, id: u64, value: &Value) {
        self.push(id, Pending::Data(value.to_string().into_bytes()));
    }

    /// The end of a request.
    pub fn finish(&mut self, id: u64, completion: Completion) {
        self.push(id, Pending::Finish(Ok(completion)));
    }

    /// The failure of one request.
    pub fn fail(&mut self, id: u64, error: PluginError) {
        self.push(id, Pending::Finish(Err(error)));
    }
}

enum Command {
    Admit(OwnedRequest),
    Cancel(u64),
    Resume(u64),
}

#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    waiting: usize,
    stopped: bool,
    dead: Option<String>,
}

#[derive(Default)]
struct Mailbox {
    inbox: Mutex<Inbox>,
    news: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, command: Command) {
        self.lock().commands.push_back(command);
        self.news.notify_one();
    }
}

struct Instance {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.mailbox.lock().stopped = true;
        self.mailbox.news.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Engine<P> {
    host: Host,
    plugin: P,
    mailbox: Arc<Mailbox>,
    live: HashMap<u64, Live>,
}

impl<P: BatchPlugin> Engine<P> {
    fn work(mut self) {
        let mut next = Step::Idle;
        while let Some(mut commands) = self.receive(next) {
            let stepped = catch(|| {
                while let Some(command) = commands.pop_front() {
                    self.obey(command);
                }
                self.step()
            });
            next = match stepped {
                Ok(step) => step,
                Err(message) => return self.die(message, commands),
            };
        }
        self.fail_all(&PluginError::cancelled());
    }

    /// Ends every request after a panic, those that wait included, and refuses new ones.
    fn die(mut self, message: String, mut commands: VecDeque<Command>) {
        self.host.log(LogLevel::Error, &message);
        let error = PluginError::internal(message.clone());
        let mut inbox = self.mailbox.lock();
        inbox.dead = Some(message);
        commands.append(&mut inbox.commands);
        drop(inbox);
        self.fail_all(&error);
        for command in commands {
            if let Command::Admit(request) = command {
                finish(&self.host, request.id, &Err(error.clone()));
            }
        }
    }

    /// The commands that came, after a wait if there is nothing else to do; `None` to stop.
    fn receive(&self, step: Step) -> Option<VecDeque<Command>> {
        let mut inbox = self.mailbox.lock();
        if step == Step::Idle && inbox.commands.is_empty() && !inbox.stopped {
            let wait = if self.live.is_empty() { Duration::from_secs(3600) } else { IDLE_WAIT };
            let waited = self.mailbox.news.wait_timeout(inbox, wait);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.waiting = 0;
        (!inbox.stopped).then(|| std::mem::take(&mut inbox.commands))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Admit(request) => {
                let id = request.id;
                self.live.insert(id, Live::default());
                if let Err(error) = self.plugin.admit(request) {
                    self.live.remove(&id);
                    finish(&self.host, id, &Err(error));
                }
            }
            Command::Cancel(id) => {
                if self.live.remove(&id).is_some() {
                    self.cancel(id);
                }
            }
            Command::Resume(id) => self.flush(id),
        }
    }

    /// Ends a request that nobody waits for, with what it made.
    fn cancel(&mut self, id: u64) {
        let outcome = match self.plugin.cancel(id) {
            Some(usage) => Ok(Completion { usage, finish_reason: FinishReason::Cancelled }),
            None => Err(PluginError::cancelled()),
        };
        finish(&self.host, id, &outcome);
    }

    fn step(&mut self) -> Step {
        if self.live.is_empty() {
            return Step::Idle;
        }
        let stepped = self.plugin.step(&mut StepSink { live: &mut self.live });
        let news = self.live.iter().filter(|(_, live)| !live.queue.is_empty() && !live.parked);
        for id in news.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.flush(id);
        }
        stepped.unwrap_or_else(|error| {
            self.fail_all(&error);
            Step::Idle
        })
    }

    fn fail_all(&mut self, error: &PluginError) {
        for (id, _) in std::mem::take(&mut self.live) {
            let _ = catch(|| self.plugin.cancel(id));
            finish(&self.host, id, &Err(error.clone()));
        }
    }

    /// Emits what waits for `id`; parks it when the reader has no room, unparks it when it has.
    fn flush(&mut self, id: u64) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let mut room = usize::try_from(QD_WINDOW).unwrap_or(1);
        while !live.queue.is_empty() {
            let events: Vec<QdEvent> = live.queue.iter().map_while(event).take(room).collect();
            if events.is_empty() {
                let Some(Pending::Finish(outcome)) = live.queue.pop_front() else { break };
                self.live.remove(&id);
                finish(&self.host, id, &outcome);
                return;
            }
            match self.host.emit(id, &events) {
                QD_E_AGAIN if 1 < events.len() => room = events.len() / 2,
                QD_E_AGAIN => {
                    if !live.parked {
                        live.parked = true;
                        self.plugin.park(id, true);
                    }
                    return;
                }
                code if code < 0 => {
                    self.live.remove(&id);
                    return self.cancel(id);
                }
                _ => {
                    live.queue.drain(..events.len());
                }
            }
        }
        if live.parked {
            live.parked = false;
            self.plugin.park(id, false);
        }
    }
}

fn event(pending: &Pending) -> Option<QdEvent> {
    match pending {
        Pending::Token { text, reasoning, token_id, logprob } => Some(QdEvent {
            flags: if *reasoning { QD_EF_REASONING } else { 0 },
            token_id: *token_id,
            logprob: *logprob,
            ..QdEvent::new(QD_EV_TOKEN, text.as_bytes())
        }),
        Pending::Data(json) => Some(QdEvent::new(QD_EV_DATA, json)),
        Pending::Finish(_) => None,
    }
}

/// The table of functions of `P`.
#[must_use]
pub fn api<P: BatchPlugin>() -> &'static QdPluginApi {
    const {
        &QdPluginApi {
            struct_size: SIZE_OF_PLUGIN_API,
            abi_minor: QD_ABI_MINOR as u32,
            create: Some(create_entry::<P>),
            destroy: Some(destroy::<Instance>),
            run: None,
            submit: Some(submit_entry),
            cancel: Some(cancel_entry),
            resume: Some(resume_entry),
            drain: None,
            net: None,
        }
    }
}

unsafe extern "C" fn create_entry<P: BatchPlugin>(
    host: *const QdHostApi,
    config: QdBytes,
    instance: *mut *mut c_void,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the host's arguments are passed on as they came.
    unsafe {
        create(host, config, instance, error, |host, config| {
            let plugin = P::create(host, config)?;
            let mailbox = Arc::new(Mailbox::default());
            let live = HashMap::new();
            let engine = Engine { host, plugin, mailbox: Arc::clone(&mailbox), live };
            let thread = std::thread::Builder::new()
                .name("plugin-engine".to_owned())
                .spawn(move || engine.work())
                .map_err(|e| PluginError::internal(format!("starting the engine thread: {e}")))?;
            Ok(Instance { mailbox, thread: Some(thread) })
        })
    }
}

unsafe extern "C" fn submit_entry(
    instance: *mut c_void,
    request: *const QdRequest,
    error: *mut QdError,
) -> i32 {
    // SAFETY: what `create` made; it is `Sync`.
    let instance = unsafe { &*instance.cast::<Instance>() };
    let mut inbox = instance.mailbox.lock();
    if let Some(message) = &inbox.dead {
        // SAFETY: the host's out parameter.
        return unsafe { fail(error, QD_E_PANIC, message) };
    }
    if QUEUE_MAX <= inbox.waiting {
        // SAFETY: the host's out parameter.
        return unsafe { fail(error, QD_E_OVERLOADED, "the engine's queue is full") };
    }
    inbox.waiting += 1;
    // SAFETY: the request is valid for the call and copied before it returns.
    inbox.commands.push_back(Command::Admit(unsafe { read_request(request) }.to_owned()));
    drop(inbox);
    instance.mailbox.news.notify_one();
    QD_OK
}

unsafe extern "C" fn cancel_entry(instance: *mut c_void, id: u64) {
    // SAFETY: what `create` made; it is `Sync`.
    unsafe { &*instance.cast::<Instance>() }.mailbox.post(Command::Cancel(id));
}

unsafe extern "C" fn resume_entry(instance: *mut c_void, id: u64, _: u32) {
    // SAFETY: what `create` made; it is `Sync`.
    unsafe { &*instance.cast::<Instance>() }.mailbox.post(Command::Resume(id));
}

/// Exports a [`BatchPlugin`] as the plugin of this library.
#[macro_export]
macro_rules! export_batch_plugin {
    ($plugin:ty) => {
        $crate::export_symbols!($crate::sdk::batch::api::<$plugin>(), $crate::abi::QD_F_ASYNC);
    };
}
