//! A Whisper that is loaded: a sound's bytes in, stretches of speech out.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::Device;
use qudao_device::Target;
use qudao_plugin_api::wire::Segment;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    config::Config,
    error::{ListenError, LoadError},
    file::File,
    listen::{Ear, EarError, Stop},
    mel::{HOP, Mel, ROWS},
    network::{Network, Processor},
    sound::{self, Limits},
    tensors::Tensors,
    vocabulary::{TIMES, Vocabulary},
};

/// Milliseconds of a row of the picture.
const ROW_MS: usize = 10;
/// Rows of a step of time.
const STEP_ROWS: usize = 2;
/// Samples over which loudness is measured: 30 ms.
const MOMENT: usize = 480;

/// What computes the network.
enum Engine {
    Processor(Box<Processor>),
    Device(Box<Tensors>),
}

/// A Whisper.
pub struct Model {
    mel: Mel,
    engine: Engine,
    vocabulary: Vocabulary,
    threads: ThreadPool,
    language: Option<String>,
    /// By the language's token, what is to be thought to have been said before.
    prompts: BTreeMap<u32, Vec<u32>>,
    limits: Limits,
    /// The loudest that silence is, as the square of the amplitude.
    silence: f32,
}

/// What a caller wants of a sound beside its words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// The language that is spoken; that of the settings, else found out, if absent.
    pub language: Option<&'a str>,
    /// What is to be thought to have been said before; that of the settings if absent.
    pub prompt: Option<&'a str>,
    /// How freely words are chosen at first, 0 to 1.
    pub temperature: f32,
}

/// What is known of a sound before its words are.
struct Known {
    /// The language's token.
    language: Option<u32>,
    /// Tokens of what is to be thought to have been said before.
    before: Option<Vec<u32>>,
    temperature: f32,
}

/// What came of listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Of the sound, begun ones counted.
    pub seconds: u32,
    /// Whether the caller went away before the end.
    pub stopped: bool,
}

/// Where a stretch of speech lies in half a minute, in steps, and its tokens.
struct Stretch<'a> {
    start: u32,
    end: u32,
    tokens: &'a [u32],
}

impl Model {
    /// Loads a file.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        config.check()?;
        let path: &Path = &config.path;
        let bytes =
            fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let file = File::parse(path, &bytes)?;
        let vocabulary = Vocabulary::read(&file.tokenizer, &file.card, file.measures.vocabulary)
            .map_err(|reason| file.form(reason))?;
        if let Some(language) = &config.language
            && !vocabulary.languages.contains_key(language)
            && language != "en"
        {
            let reason = format!("the model does not know `{language}`");
            return Err(LoadError::Config { key: "language", reason });
        }
        let mut prompts = BTreeMap::new();
        for (language, words) in &config.prompts {
            if let Some(token) = vocabulary.languages.get(language) {
                let said = vocabulary.said_before(words).map_err(|reason| file.form(reason))?;
                prompts.insert(*token, said);
            }
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = config.threads.unwrap_or_else(cores);
        Ok(Self {
            mel: Mel::new(file.measures.mels)?,
            engine: match device(config, &file)? {
                None => Engine::Processor(Box::new(Processor::read(&file)?)),
                Some(device) => Engine::Device(Box::new(Tensors::read(&file, &device)?)),
            },
            vocabulary,
            threads: ThreadPoolBuilder::new().num_threads(threads).build()?,
            language: config.language.clone(),
            prompts,
            limits: config.limits(),
            silence: 10.0_f32.powf(config.silence_dbfs / 10.0),
        })
    }

    /// How many languages it knows; one where it tells none apart.
    pub fn languages(&self) -> usize {
        self.vocabulary.languages.len().max(1)
    }

    /// Writes down a sound. `take` gets each stretch as soon as it is understood; what it fails with ends
    /// the listening.
    ///
    /// # Errors
    /// [`ListenError`], or that of `take`.
    pub fn listen<E: From<ListenError> + Send>(
        &self,
        bytes: &[u8],
        wishes: Wishes<'_>,
        stop: Stop<'_>,
        take: &mut (dyn FnMut(Segment) -> Result<(), E> + Send),
    ) -> Result<Heard, E> {
        let known = self.known(wishes).map_err(E::from)?;
        let sound = sound::read(bytes, self.limits).map_err(ListenError::from)?;
        let seconds = sound::seconds(&sound);
        let stopped = self.threads.install(|| match &self.engine {
            Engine::Processor(network) => self.walk(network.as_ref(), &sound, &known, stop, take),
            Engine::Device(network) => self.walk(network.as_ref(), &sound, &known, stop, take),
        })?;
        Ok(Heard { seconds, stopped })
    }

    fn known(&self, wishes: Wishes<'_>) -> Result<Known, ListenError> {
        let Wishes { language, prompt, temperature } = wishes;
        let language = self.language_of(language.or(self.language.as_deref()))?;
        let prompt = prompt.map(str::trim).filter(|prompt| !prompt.is_empty());
        let before = prompt.map(|prompt| self.vocabulary.said_before(prompt)).transpose();
        let before = before.map_err(ListenError::Text)?;
        Ok(Known { language, before, temperature: temperature.clamp(0.0, 1.0) })
    }

    fn language_of(&self, language: Option<&str>) -> Result<Option<u32>, ListenError> {
        let Some(language) = language else { return Ok(None) };
        let languages = &self.vocabulary.languages;
        match languages.get(language) {
            Some(token) => Ok(Some(*token)),
            None if languages.is_empty() && language == "en" => Ok(None),
            None => Err(ListenError::Language(language.to_owned())),
        }
    }

    /// Half a minute after the other. Returns whether the caller went away.
    fn walk<N: Network, E: From<ListenError>>(
        &self,
        network: &N,
        sound: &[f32],
        known: &Known,
        stop: Stop<'_>,
        take: &mut (dyn FnMut(Segment) -> Result<(), E> + Send),
    ) -> Result<bool, E> {
        let computed = |error: candle_core::Error| E::from(ListenError::from(error));
        if self.is_silent(sound) {
            return Ok(false);
        }
        let picture = self.mel.picture(sound).map_err(computed)?;
        let before = |language: Option<u32>| {
            let own = || language.and_then(|token| self.prompts.get(&token));
            known.before.as_ref().or_else(own).cloned().unwrap_or_default()
        };
        let vocabulary = &self.vocabulary;
        let ear = Ear { network, vocabulary, stop, temperature: known.temperature };
        let (mut at, mut language) = (0, known.language);
        while at < picture.rows {
            if stop() {
                return Ok(true);
            }
            let rows = ROWS.min(picture.rows - at);
            let samples = sound.get(at * HOP..).unwrap_or_default();
            if self.is_silent(samples.get(..rows * HOP).unwrap_or(samples)) {
                at += rows;
                continue;
            }
            let memory = network.listen(picture.part(at)).map_err(computed)?;
            let opening = ear.open(&memory, language, &before).map_err(computed)?;
            language = opening.language;
            let understood = match ear.understand(&memory, &opening) {
                Ok(understood) => understood,
                Err(EarError::Stopped) => return Ok(true),
                Err(EarError::Computation(error)) => return Err(computed(error)),
                Err(EarError::Text(reason)) => return Err(ListenError::Text(reason).into()),
            };
            if understood.is_nothing() {
                at += rows;
                continue;
            }
            let confidence = understood.confidence();
            let (stretches, next) = self.stretches(&understood.tokens, rows);
            for stretch in stretches {
                let segment = self.segment(&stretch, at, language, sound).map_err(E::from)?;
                if let Some(mut segment) = segment {
                    segment.confidence = Some(confidence);
                    take(segment)?;
                }
            }
            at += next.clamp(1, ROWS);
        }
        Ok(false)
    }

    /// The stretches of half a minute's tokens, and the rows after which to go on: where the last one that
    /// is whole ends.
    fn stretches<'a>(&self, tokens: &'a [u32], rows: usize) -> (Vec<Stretch<'a>>, usize) {
        let time = |token: &u32| self.vocabulary.time(*token);
        let is_time = |at: usize| tokens.get(at).and_then(time).is_some();
        let mut ends: Vec<usize> =
            (1..tokens.len()).filter(|at| is_time(at - 1) && is_time(*at)).collect();
        let ends_alone =
            2 <= tokens.len() && is_time(tokens.len() - 1) && !is_time(tokens.len() - 2);
        if ends.is_empty() {
            let all = u32::try_from(rows / STEP_ROWS).unwrap_or(TIMES);
            let last = tokens.iter().rev().find_map(time).filter(|step| 0 < *step);
            let end = last.unwrap_or(all).min(all);
            let start = tokens.first().and_then(time).filter(|step| *step < end).unwrap_or(0);
            return (vec![Stretch { start, end, tokens }], rows);
        }
        if ends_alone {
            ends.push(tokens.len());
        }
        let (mut found, mut from) = (Vec::new(), 0);
        for to in ends {
            let part = tokens.get(from..to).unwrap_or_default();
            let edge = |token: Option<&u32>| token.and_then(time).unwrap_or_default();
            found.push(Stretch { start: edge(part.first()), end: edge(part.last()), tokens: part });
            from = to;
        }
        let next = match found.last() {
            Some(last) if !ends_alone && 0 < last.end => {
                usize::try_from(last.end).unwrap_or(usize::MAX) * STEP_ROWS
            }
            _ => rows,
        };
        (found, next)
    }

    /// A stretch with its text; none where nothing sounds, or no word is left.
    fn segment(
        &self,
        stretch: &Stretch<'_>,
        at: usize,
        language: Option<u32>,
        sound: &[f32],
    ) -> Result<Option<Segment>, ListenError> {
        let text = self.vocabulary.text(stretch.tokens).map_err(ListenError::Text)?;
        let text = text.trim();
        let rows = |steps: u32| at + usize::try_from(steps).unwrap_or_default() * STEP_ROWS;
        let (from, to) = (rows(stretch.start) * HOP, rows(stretch.end) * HOP);
        let to = to.min(sound.len());
        let moments = sound.get(from..to).unwrap_or_default().chunks(MOMENT);
        // What is said where nothing sounds is made up; and nobody speaks before there is a sound.
        let Some(quiet) = moments.into_iter().position(|moment| !self.is_silent(moment)) else {
            return Ok(None);
        };
        if text.is_empty() || stretch.end <= stretch.start {
            return Ok(None);
        }
        let ms = |samples: usize| u32::try_from(samples / (HOP / ROW_MS)).unwrap_or(u32::MAX);
        let name = |token: u32| {
            let mut languages = self.vocabulary.languages.iter();
            languages.find(|(_, known)| **known == token).map(|(name, _)| name.clone())
        };
        Ok(Some(Segment {
            start_ms: ms(from + quiet * MOMENT),
            end_ms: ms(to),
            text: text.to_owned(),
            language: match language {
                Some(token) => name(token),
                None => Some("en".to_owned()),
            },
            confidence: None,
        }))
    }

    /// Whether no moment is louder than silence.
    fn is_silent(&self, sound: &[f32]) -> bool {
        sound.chunks(MOMENT).all(|moment| {
            let power: f32 = moment.iter().map(|sample| sample * sample).sum();
            #[expect(clippy::cast_precision_loss, reason = "480 samples")]
            let mean = power / moment.len().max(1) as f32;
            mean <= self.silence
        })
    }
}

/// The device to compute on, or nothing for the processor's own kernels.
fn device(config: &Config, file: &File<'_>) -> Result<Option<Device>, LoadError> {
    // The plain path, for comparison.
    if config.device == "tensors" {
        return Ok(Some(Device::Cpu));
    }
    let target = Target::parse(&config.device)?;
    let device = target.open(file.device_bytes())?;
    Ok((target != Target::Cpu).then_some(device))
}
