//! The simple flavour: `run` blocks until the answer is complete, on a thread of the host.

use std::{
    ffi::c_void,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Completion, Host, LogLevel, PluginError, Request,
    boundary::{catch, create, destroy, emit_error, fail, finish, parts, read_request},
};
use crate::{
    abi::{
        QD_ABI_MINOR, QD_E_AGAIN, QD_E_PANIC, QD_EF_REASONING, QD_EV_DATA, QD_EV_PROGRESS,
        QD_EV_TOKEN, QD_EV_USAGE, QD_OK, QdBytes, QdError, QdEvent, QdHostApi, QdPluginApi,
        QdRequest, SIZE_OF_PLUGIN_API,
    },
    wire::{
        Ask, ChatRequest, ClassifyRequest, DetectRequest, EmbedRequest, TranscribeRequest, Usage,
    },
};

/// How long one wait for credit lasts before the cancel flag is looked at again.
const CREDIT_WAIT: Duration = Duration::from_secs(1);

/// A model behind a blocking call. `run` is called from several threads at once.
///
/// An author writes the methods of the kinds that the manifest names, or `run`, which gets whatever comes
/// as it came.
pub trait ModelPlugin: Send + Sync + Sized + 'static {
    /// Read from the instance's configuration.
    type Config: DeserializeOwned;

    /// Loads the model; may take minutes.
    ///
    /// # Errors
    /// Why the instance cannot start; the host then tries the next artifact.
    fn create(host: Host, config: Self::Config) -> Result<Self, PluginError>;

    /// Answers one request into `sink`.
    ///
    /// # Errors
    /// Becomes the ERROR event of the request. Errors of `sink` are passed on with `?`.
    fn run(&self, request: Request<'_>, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        match request.ask()? {
            Ask::Chat(chat) => self.chat(chat, sink),
            Ask::Embed(embed) => self.embed(embed, sink),
            Ask::Classify(classify) => self.classify(classify, sink),
            Ask::Detect(detect) => self.detect(detect, sink),
            Ask::Transcribe(transcribe) => self.transcribe(transcribe, sink),
        }
    }

    /// Answers a conversation with tokens.
    ///
    /// # Errors
    /// As [`Self::run`]; `not supported` unless the author says how.
    fn chat(&self, _: ChatRequest, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::not_supported("chat"))
    }

    /// Answers each text with an [`Embedded`](crate::wire::Embedded) as data.
    ///
    /// # Errors
    /// As [`Self::chat`].
    fn embed(&self, _: EmbedRequest, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::not_supported("make vectors of texts"))
    }

    /// Answers each text with a [`Classified`](crate::wire::Classified) as data.
    ///
    /// # Errors
    /// As [`Self::chat`].
    fn classify(&self, _: ClassifyRequest, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::not_supported("classify texts"))
    }

    /// Answers a picture with a [`Detected`](crate::wire::Detected) as data, and with the parts of the
    /// annotated one if that is asked.
    ///
    /// # Errors
    /// As [`Self::chat`].
    fn detect(&self, _: DetectRequest, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::not_supported("look at pictures"))
    }

    /// Answers a sound with a [`Segment`](crate::wire::Segment) as data for each stretch of speech.
    ///
    /// # Errors
    /// As [`Self::chat`].
    fn transcribe(&self, _: TranscribeRequest, _: &Sink<'_>) -> Result<Completion, PluginError> {
        Err(PluginError::not_supported("write down speech"))
    }
}

/// Where a blocking plugin writes its answer. Waits for credit when the reader is slow.
#[derive(Debug)]
pub struct Sink<'a> {
    host: &'a Host,
    id: u64,
    cancel: Option<&'a AtomicU32>,
    deadline: Option<Instant>,
    trace: &'a str,
}

impl Sink<'_> {
    /// Writes a line about this request to the host's log, which puts the id of its trace to it.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.host.log_about(self.trace, level, message);
    }

    /// Streams text of the answer.
    ///
    /// # Errors
    /// When the caller is gone: return it with `?`.
    pub fn token(&self, text: &str) -> Result<(), PluginError> {
        parts(text).try_for_each(|part| self.emit(QdEvent::new(QD_EV_TOKEN, part.as_bytes())))
    }

    /// Streams text of the answer with the vocabulary's id and its log probability.
    ///
    /// # Errors
    /// As [`Sink::token`].
    pub fn token_with(&self, text: &str, token_id: u32, logprob: f32) -> Result<(), PluginError> {
        let event = QdEvent::new(QD_EV_TOKEN, text.as_bytes());
        self.emit(QdEvent { token_id, logprob, ..event })
    }

    /// Streams text of the model's reasoning.
    ///
    /// # Errors
    /// As [`Sink::token`].
    pub fn reasoning(&self, text: &str) -> Result<(), PluginError> {
        parts(text).try_for_each(|part| {
            let event = QdEvent::new(QD_EV_TOKEN, part.as_bytes());
            self.emit(QdEvent { flags: QD_EF_REASONING, ..event })
        })
    }

    /// Streams a JSON delta.
    ///
    /// # Errors
    /// As [`Sink::token`], or when `value` does not serialise.
    pub fn data<T: Serialize>(&self, value: &T) -> Result<(), PluginError> {
        let json = serde_json::to_vec(value).map_err(|e| PluginError::internal(e.to_string()))?;
        self.emit(QdEvent::new(QD_EV_DATA, &json))
    }

    /// Reports usage early; the usage of the [`Completion`] comes last and wins.
    ///
    /// # Errors
    /// As [`Sink::token`].
    pub fn usage(&self, usage: Usage) -> Result<(), PluginError> {
        let json = serde_json::to_vec(&usage).map_err(|e| PluginError::internal(e.to_string()))?;
        self.emit(QdEvent::new(QD_EV_USAGE, &json))
    }

    /// A line for the operator.
    ///
    /// # Errors
    /// As [`Sink::token`].
    pub fn progress(&self, note: &str) -> Result<(), PluginError> {
        self.emit(QdEvent::new(QD_EV_PROGRESS, note.as_bytes()))
    }

    /// Whether the caller has cancelled or the deadline has passed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
            || self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn emit(&self, event: QdEvent) -> Result<(), PluginError> {
        loop {
            match self.host.emit(self.id, &[event]) {
                QD_E_AGAIN if self.is_cancelled() => return Err(PluginError::cancelled()),
                QD_E_AGAIN => {
                    let waited = self.host.wait_credit(self.id, CREDIT_WAIT);
                    if waited < 0 && waited != QD_E_AGAIN {
                        return Err(emit_error(waited));
                    }
                }
                code if code < 0 => return Err(emit_error(code)),
                _ => return Ok(()),
            }
        }
    }
}

struct Instance<P> {
    host: Host,
    plugin: P,
}

/// The table of `P`, for a host in the same process.
#[must_use]
pub fn table<P: ModelPlugin>() -> super::Table {
    super::Table(api::<P>())
}

/// The table of functions of `P`.
#[must_use]
pub fn api<P: ModelPlugin>() -> &'static QdPluginApi {
    const {
        &QdPluginApi {
            struct_size: SIZE_OF_PLUGIN_API,
            abi_minor: QD_ABI_MINOR as u32,
            create: Some(create_entry::<P>),
            destroy: Some(destroy::<Instance<P>>),
            run: Some(run_entry::<P>),
            submit: None,
            cancel: None,
            resume: None,
            drain: None,
            net: None,
        }
    }
}

unsafe extern "C" fn create_entry<P: ModelPlugin>(
    host: *const QdHostApi,
    config: QdBytes,
    instance: *mut *mut c_void,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the host's arguments are passed on as they came.
    unsafe {
        create(host, config, instance, error, |host, config| {
            Ok(Instance { host, plugin: P::create(host, config)? })
        })
    }
}

unsafe extern "C" fn run_entry<P: ModelPlugin>(
    instance: *mut c_void,
    request: *const QdRequest,
    error: *mut QdError,
) -> i32 {
    // SAFETY: the host gives what `create` made, shared between threads: `P` is `Sync`.
    let instance = unsafe { &*instance.cast::<Instance<P>>() };
    let outcome = catch(|| {
        // SAFETY: valid for the call.
        let (read, cancel) = unsafe { (read_request(request), (*request).cancel) };
        // SAFETY: the flag is valid until the request is over and only ever accessed atomically.
        let cancel = unsafe { cancel.as_ref() };
        let Request { id, deadline, trace, .. } = read;
        let sink = Sink { host: &instance.host, id, cancel, deadline, trace };
        finish(&instance.host, read.id, &instance.plugin.run(read, &sink));
    });
    match outcome {
        Ok(()) => QD_OK,
        // SAFETY: the host's out parameter.
        Err(message) => unsafe { fail(error, QD_E_PANIC, &message) },
    }
}

/// Exports a [`ModelPlugin`] as the plugin of this library.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        $crate::export_symbols!(
            $crate::sdk::blocking::api::<$plugin>(),
            $crate::abi::QD_F_BLOCKING
        );
    };
}
