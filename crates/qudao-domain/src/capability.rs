//! What a channel can show and do. Adapters declare it, partners send it as JSON, and the one
//! renderer ([`crate::render`]) keeps to it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Media;

/// What a channel does with something it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Shows it.
    Native,
    /// Gets words in its place.
    #[default]
    Degrade,
    /// Goes on without it.
    Drop,
    /// Takes no message that has it.
    Reject,
}

/// In what a text's length is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Unicode scalar values.
    #[default]
    Chars,
    /// UTF-16 code units.
    Utf16,
    /// Bytes of UTF-8.
    Bytes,
}

impl Unit {
    /// How long a text is.
    pub fn count(self, text: &str) -> usize {
        match self {
            Self::Chars => text.chars().count(),
            Self::Utf16 => text.encode_utf16().count(),
            Self::Bytes => text.len(),
        }
    }

    /// How long a character is.
    pub(crate) fn of(self, letter: char) -> usize {
        match self {
            Self::Chars => 1,
            Self::Utf16 => letter.len_utf16(),
            Self::Bytes => letter.len_utf8(),
        }
    }
}

/// How an answer is shown while it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streaming {
    /// Not at all.
    #[default]
    None,
    /// A message is edited again and again.
    Edit,
    /// A draft that a message replaces.
    Draft,
    /// Server-sent events of the partner protocol.
    Sse,
}

/// What a channel can show and do; the JSON document of the partner protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Words.
    pub text: TextCapability,
    /// Files by kind: `image`, `audio`, `video`, `file`. A kind that is absent becomes words.
    pub media: BTreeMap<String, MediaCapability>,
    /// How many pictures and videos one message shows as an album.
    pub album_max: usize,
    /// Buttons.
    pub buttons: ButtonsCapability,
    /// Lists.
    pub list: ListCapability,
    /// Cards.
    pub card: Level,
    /// Places.
    pub location: Level,
    /// Names and numbers.
    pub contact: Level,
    /// Quoted words.
    pub quote: Level,
    /// Saying which message is answered.
    pub reply_to: Level,
    /// Changing what was sent.
    pub edit: EditCapability,
    /// How an answer is shown while it grows.
    pub stream: Streaming,
    /// "Writes…".
    pub typing: TypingCapability,
    /// Which of `sent`, `delivered`, `read` and `failed` the channel reports.
    pub receipts: Vec<String>,
    /// For how many seconds after a person's last message they may be answered; always if absent.
    pub reply_window_s: Option<u64>,
    /// How many messages may be sent within that time.
    pub max_replies_per_window: Option<u32>,
    /// How fast messages may be sent.
    pub rate: RateCapability,
}

impl Default for Capabilities {
    /// Words, as many as one likes at a time, and nothing else.
    fn default() -> Self {
        Self {
            text: TextCapability::default(),
            media: BTreeMap::new(),
            album_max: 1,
            buttons: ButtonsCapability::default(),
            list: ListCapability::default(),
            card: Level::Degrade,
            location: Level::Degrade,
            contact: Level::Degrade,
            quote: Level::Degrade,
            reply_to: Level::Drop,
            edit: EditCapability::default(),
            stream: Streaming::None,
            typing: TypingCapability::default(),
            receipts: Vec::new(),
            reply_window_s: None,
            max_replies_per_window: None,
            rate: RateCapability::default(),
        }
    }
}

/// Words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextCapability {
    /// The longest text of one message, in `unit`.
    pub max: usize,
    /// In what it is counted.
    pub unit: Unit,
    /// Parts of Markdown: `bold`, `italic`, `strike`, `code`, `code_block`, `link`, `list`,
    /// `quote`, `heading`, `table`. What is absent or not `native` is shown in plain words.
    pub formats: BTreeMap<String, Level>,
}

impl Default for TextCapability {
    fn default() -> Self {
        Self { max: 4096, unit: Unit::Chars, formats: BTreeMap::new() }
    }
}

impl TextCapability {
    /// Whether the channel's adapter reads Markdown at all.
    pub fn reads_markdown(&self) -> bool {
        self.formats.values().any(|level| *level == Level::Native)
    }
}

/// Files of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaCapability {
    /// Media types that are taken; `image/*` stands for all of a kind; any if empty.
    pub mimes: Vec<String>,
    /// Bytes; any number if absent, and no file at all by its address if 0.
    pub max_bytes: Option<u64>,
    /// Bytes of a file that is uploaded from the platform's own copy, where that is another number
    /// than of one that the channel fetches by its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_max_bytes: Option<u64>,
    /// The longest words beside it, in the text's unit; none if absent.
    pub caption_max: Option<usize>,
}

impl MediaCapability {
    /// Files of any type that are uploaded, of at most so many bytes: one that has nothing but an
    /// address becomes words.
    pub const fn uploads(max_bytes: u64, caption_max: Option<usize>) -> Self {
        let (max_bytes, upload_max_bytes) = (Some(0), Some(max_bytes));
        Self { mimes: Vec::new(), max_bytes, upload_max_bytes, caption_max }
    }

    /// Whether a file is taken, by its type and size. What is not known is let pass.
    pub fn takes(&self, media: &Media) -> bool {
        let (mime, size) = (media.mime.as_deref(), media.size);
        let fits = |limit: u64| size.map_or(0 < limit, |size| size <= limit);
        let own = self.upload_max_bytes.filter(|_| media.upload_id.is_some());
        let known = |mime: &str| {
            self.mimes.iter().any(|known| match known.strip_suffix('*') {
                Some(kind) => mime.starts_with(kind),
                None => known == mime,
            })
        };
        own.or(self.max_bytes).is_none_or(fits) && (self.mimes.is_empty() || mime.is_none_or(known))
    }
}

/// Buttons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ButtonsCapability {
    /// What is done with them.
    pub level: Level,
    /// How many at a time.
    pub max: usize,
    /// Characters of a label.
    pub label_max: usize,
}

impl Default for ButtonsCapability {
    fn default() -> Self {
        Self { level: Level::Degrade, max: 3, label_max: 20 }
    }
}

/// Lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListCapability {
    /// What is done with them.
    pub level: Level,
    /// How many rows.
    pub max_rows: usize,
}

impl Default for ListCapability {
    fn default() -> Self {
        Self { level: Level::Degrade, max_rows: 10 }
    }
}

/// Changing what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EditCapability {
    /// Whether it can be done.
    pub level: Level,
    /// Between two changes, in milliseconds.
    pub min_interval_ms: u64,
    /// For how many seconds after it was sent; always if absent.
    pub max_age_s: Option<u64>,
}

impl Default for EditCapability {
    fn default() -> Self {
        Self { level: Level::Drop, min_interval_ms: 1000, max_age_s: None }
    }
}

/// "Writes…".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TypingCapability {
    /// Whether it is shown.
    pub level: Level,
    /// For how many seconds one word of it lasts.
    pub ttl_s: u64,
}

impl Default for TypingCapability {
    fn default() -> Self {
        Self { level: Level::Drop, ttl_s: 5 }
    }
}

/// How fast messages may be sent; as fast as one likes where absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RateCapability {
    /// Messages per second on the whole channel.
    pub per_s: Option<f64>,
    /// Messages per second in one conversation.
    pub per_conversation_per_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocols_document_is_read_and_what_is_absent_has_its_default() {
        let json = r#"{"text":{"max":4096,"unit":"utf16","formats":{"bold":"native","table":"degrade"}},
            "media":{"image":{"mimes":["image/jpeg","image/*"],"max_bytes":5242880,"caption_max":1024}},
            "buttons":{"level":"native","max":3,"label_max":20},"stream":"edit",
            "rate":{"per_s":30,"per_conversation_per_s":1}}"#;
        let read: Capabilities = serde_json::from_str(json).unwrap();
        assert_eq!((read.text.unit, read.stream), (Unit::Utf16, Streaming::Edit));
        assert!(read.text.reads_markdown());
        assert_eq!(read.list, ListCapability::default());
        let image = &read.media["image"];
        let file =
            |mime: &str, size| Media { mime: Some(mime.to_owned()), size, ..Media::default() };
        assert!(image.takes(&file("image/png", Some(5_242_880))));
        assert!(!image.takes(&file("image/png", Some(5_242_881))));
        assert!(!image.takes(&file("text/html", None)));
        let large = MediaCapability { upload_max_bytes: Some(10 << 20), ..image.clone() };
        let own =
            Media { upload_id: Some("upl_1".to_owned()), ..file("image/png", Some(5_242_881)) };
        assert!(large.takes(&own));
        let link = Media { upload_id: None, ..own.clone() };
        assert!(!large.takes(&link));
        let own_alone = MediaCapability { max_bytes: Some(0), ..large };
        assert!(own_alone.takes(&own));
        assert!(!own_alone.takes(&Media { size: None, ..link }));
    }

    #[test]
    fn a_face_is_one_character_two_units_and_four_bytes() {
        let lengths = [Unit::Chars, Unit::Utf16, Unit::Bytes].map(|unit| unit.count("😀"));
        assert_eq!(lengths, [1, 2, 4]);
    }
}
