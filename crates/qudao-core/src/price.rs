//! The price book in memory. A charge names the version of the price that it used, so a book
//! that is a few seconds old is never wrong, only not the newest.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use qudao_domain::Currency;
use qudao_plugin_api::wire::{Ask, ChatRequest, Content};
use qudao_storage::{PriceRow, StorageError};
use serde_json::Value;
use tokio::time::Instant;

use crate::Core;

/// The present prices by model; a few currencies each.
#[derive(Debug, Default)]
struct Book {
    prices: HashMap<String, Vec<Arc<PriceRow>>>,
}

impl Book {
    fn new(rows: Vec<PriceRow>) -> Self {
        let mut prices: HashMap<String, Vec<Arc<PriceRow>>> = HashMap::new();
        for row in rows {
            prices.entry(row.model.clone()).or_default().push(Arc::new(row));
        }
        Self { prices }
    }

    fn find(&self, model: &str, currency: Currency) -> Option<Arc<PriceRow>> {
        self.prices.get(model)?.iter().find(|row| row.currency == currency).cloned()
    }
}

/// The book and when it was read.
pub(crate) struct PriceBook {
    current: RwLock<Option<(Instant, Arc<Book>)>>,
    reading: tokio::sync::Mutex<()>,
    max_age: Duration,
}

impl PriceBook {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self { current: RwLock::default(), reading: tokio::sync::Mutex::default(), max_age }
    }

    fn fresh(&self) -> Option<Arc<Book>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let (read_at, book) = current.as_ref()?;
        (read_at.elapsed() < self.max_age).then(|| Arc::clone(book))
    }

    fn replace(&self, book: &Arc<Book>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some((Instant::now(), Arc::clone(book)));
    }
}

impl Core {
    /// The price of a model in a currency at this moment. `None` means that it is not for sale.
    pub(crate) async fn price(
        &self,
        model: &str,
        currency: Currency,
    ) -> Result<Option<Arc<PriceRow>>, StorageError> {
        let book = self.price_book().await?;
        Ok(book.find(model, currency))
    }

    async fn price_book(&self) -> Result<Arc<Book>, StorageError> {
        if let Some(book) = self.prices.fresh() {
            return Ok(book);
        }
        let _one_at_a_time = self.prices.reading.lock().await;
        if let Some(book) = self.prices.fresh() {
            return Ok(book);
        }
        let book = Arc::new(Book::new(self.store.prices().await?));
        self.prices.replace(&book);
        Ok(book)
    }
}

/// What a chat template adds to each message and to the whole prompt, in tokens, at most.
const TEMPLATE_TOKENS: usize = 24;
/// What an image or a sound part counts for, in tokens.
const MEDIA_TOKENS: usize = 2048;

/// What a model's marks and a text's prefix add to it, in tokens, at most.
const TEXT_TOKENS: usize = 16;

/// An upper bound of the tokens that a model reads for whatever it is asked.
pub(crate) fn ask_tokens(ask: &Ask, context_tokens: u32) -> u32 {
    let texts = match ask {
        Ask::Chat(chat) => return max_input_tokens(chat, context_tokens),
        Ask::Embed(embed) => &embed.texts,
        Ask::Classify(classify) => &classify.texts,
        Ask::Detect(_) => return u32::try_from(MEDIA_TOKENS).unwrap_or(u32::MAX),
        Ask::Transcribe(transcribe) => return max_seconds(&transcribe.sound, context_tokens),
    };
    // Each text is read for itself, and what goes beyond the model's window is not read.
    let window = usize::try_from(context_tokens).unwrap_or(usize::MAX);
    let of = |text: &String| match text.len() + TEXT_TOKENS {
        tokens if window == 0 => tokens,
        tokens => tokens.min(window),
    };
    u32::try_from(texts.iter().map(of).sum::<usize>()).unwrap_or(u32::MAX)
}

/// A second of speech has more bytes than this, in any compression that is in use.
const SECOND_BYTES: usize = 250;

/// An upper bound of the seconds of a sound, in base64; each counts as a token. The model's window, when
/// known, is the longest sound that it takes.
fn max_seconds(sound: &str, context_tokens: u32) -> u32 {
    let seconds = u32::try_from(sound.len() / 4 * 3 / SECOND_BYTES + 1).unwrap_or(u32::MAX);
    if context_tokens == 0 { seconds } else { seconds.min(context_tokens) }
}

/// An upper bound of the tokens that a model reads for this request.
///
/// No tokenizer in use makes more than one token of a byte, so the number of bytes bounds the
/// number of tokens without knowing the model. A context window, when known, bounds it too.
pub(crate) fn max_input_tokens(request: &ChatRequest, context_tokens: u32) -> u32 {
    let messages: usize = request
        .messages
        .iter()
        .map(|message| {
            let calls = message.tool_calls.as_ref().map_or(0, json_bytes);
            let name = message.name.as_ref().map_or(0, String::len);
            TEMPLATE_TOKENS + name + calls + content_tokens(&message.content)
        })
        .sum();
    let tools = request.tools.as_ref().map_or(0, json_bytes);
    let format = request.response_format.as_ref().map_or(0, json_bytes);
    let tokens = TEMPLATE_TOKENS + messages + tools + format;
    let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
    if context_tokens == 0 { tokens } else { tokens.min(context_tokens) }
}

fn content_tokens(content: &Option<Content>) -> usize {
    match content {
        None => 0,
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => parts.iter().map(part_tokens).sum(),
    }
}

fn part_tokens(part: &Value) -> usize {
    match part.get("text").and_then(Value::as_str) {
        Some(text) => text.len(),
        None => MEDIA_TOKENS,
    }
}

fn json_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + json_bytes(item)).sum::<usize>(),
        Value::Object(fields) => {
            2 + fields.iter().map(|(key, value)| key.len() + 4 + json_bytes(value)).sum::<usize>()
        }
    }
}
