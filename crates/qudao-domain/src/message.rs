//! What people and assistants say to each other, the same for every channel. The JSON form is the
//! one of the partner channel protocol, of the inbox and of the outbox.

use serde::{Deserialize, Serialize};

/// A message: its parts in order. Empty only while it is being built.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// What it is made of.
    pub parts: Vec<Part>,
    /// The channel's own id of the message that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
}

/// One part of a message. `fallback_text` is what a channel shows that cannot show the part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Words.
    Text {
        /// How they are to be read.
        #[serde(default)]
        format: TextFormat,
        /// The words.
        text: String,
    },
    /// A picture.
    Image(Media),
    /// A sound; a voice message if `voice` is set.
    Audio(Media),
    /// A moving picture.
    Video(Media),
    /// Any other file.
    File(Media),
    /// A place.
    Location {
        /// Degrees north, −90 to 90.
        latitude: f64,
        /// Degrees east, −180 to 180.
        longitude: f64,
        /// What the place is called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Where it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Somebody's name and number.
    Contact {
        /// The name.
        name: String,
        /// The telephone number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phone: Option<String>,
    },
    /// Things to press.
    Buttons {
        /// For channels without buttons.
        fallback_text: String,
        /// The buttons in order.
        items: Vec<Button>,
    },
    /// Things to choose from.
    List {
        /// For channels without lists.
        fallback_text: String,
        /// What opens the list.
        label: String,
        /// The rows in order.
        rows: Vec<Row>,
    },
    /// A picture with a title, words and buttons.
    Card {
        /// For channels without cards.
        fallback_text: String,
        /// The title.
        title: String,
        /// The words under it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Where the picture is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_url: Option<String>,
        /// What can be pressed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        items: Vec<Button>,
    },
    /// Somebody else's words.
    Quote {
        /// The words.
        text: String,
        /// The channel's own id of the message that is quoted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
    },
}

/// How words are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// As they stand.
    #[default]
    Plain,
    /// As CommonMark.
    Markdown,
}

/// A file of a message. One of `url`, `upload_id` and `external_id` says where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Media {
    /// Where its bytes can be fetched, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The platform's own copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_id: Option<String>,
    /// The channel's own id, by which its adapter fetches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The media type, such as `image/jpeg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it shows, or what is said in it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alt: Option<String>,
    /// Words beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    /// Of a sound: somebody speaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub voice: bool,
}

/// Something to press.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Button {
    /// Which of its message's buttons.
    pub id: String,
    /// What it says.
    pub label: String,
    /// What it does.
    #[serde(flatten)]
    pub action: ButtonAction,
}

/// What a button does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ButtonAction {
    /// Opens a page.
    Url {
        /// The page.
        url: String,
    },
    /// Tells the assistant.
    Postback {
        /// What it is told; the label if empty.
        value: String,
    },
}

/// One of several things to choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Which of its message's rows.
    pub id: String,
    /// What it says.
    pub label: String,
    /// Words under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the assistant is told; the label if empty.
    #[serde(default)]
    pub value: String,
}

impl Message {
    /// A message of words.
    pub fn text(format: TextFormat, text: impl Into<String>) -> Self {
        Self { parts: vec![Part::Text { format, text: text.into() }], reply_to: None }
    }

    /// The message in words alone, as a model reads it and as a channel shows it that knows no
    /// parts.
    pub fn to_text(&self) -> String {
        let parts: Vec<_> = self.parts.iter().map(Part::to_text).collect();
        let spoken = parts.iter().map(String::as_str).filter(|text| !text.trim().is_empty());
        spoken.collect::<Vec<_>>().join("\n\n")
    }
}

impl Part {
    /// The part in words alone.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text { text, .. } => text.clone(),
            Self::Image(media) => media.to_text("image"),
            Self::Audio(media) if media.voice => media.spoken(),
            Self::Audio(media) => media.to_text("audio"),
            Self::Video(media) => media.to_text("video"),
            Self::File(media) => media.to_text("file"),
            Self::Location { latitude, longitude, name, address } => {
                let words = [name, address].into_iter().flatten().map(String::as_str);
                let place = words.collect::<Vec<_>>().join(", ");
                let at = format!("{latitude:.6}, {longitude:.6}");
                if place.is_empty() { at } else { format!("{place} ({at})") }
            }
            Self::Contact { name, phone: Some(phone) } => format!("{name}: {phone}"),
            Self::Contact { name, phone: None } => name.clone(),
            Self::Buttons { fallback_text, items } => {
                or_numbered(fallback_text, || items.iter().map(Button::to_text).collect())
            }
            Self::List { fallback_text, rows, .. } => {
                or_numbered(fallback_text, || rows.iter().map(|row| row.label.clone()).collect())
            }
            Self::Card { fallback_text, title, text, .. } if fallback_text.is_empty() => {
                let words = [Some(title), text.as_ref()].into_iter().flatten();
                words.map(String::as_str).collect::<Vec<_>>().join("\n")
            }
            Self::Card { fallback_text, .. } => fallback_text.clone(),
            Self::Quote { text, .. } => {
                text.lines().map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n")
            }
        }
    }

    /// The part's file, if it is one.
    pub fn media(&self) -> Option<&Media> {
        match self {
            Self::Image(media) | Self::Audio(media) | Self::Video(media) | Self::File(media) => {
                Some(media)
            }
            _ => None,
        }
    }

    /// The part's file, to be changed.
    pub fn media_mut(&mut self) -> Option<&mut Media> {
        match self {
            Self::Image(media) | Self::Audio(media) | Self::Video(media) | Self::File(media) => {
                Some(media)
            }
            _ => None,
        }
    }
}

impl Media {
    /// What is said in a voice message, where that is known: somebody's own words.
    fn spoken(&self) -> String {
        let Some(said) = self.alt.as_deref() else { return self.to_text("voice message") };
        let rest = [self.caption.as_deref(), self.url.as_deref()].into_iter().flatten();
        std::iter::once(said).chain(rest).collect::<Vec<_>>().join("\n")
    }

    /// What stands in the place of the file: `[image: a box]`, the words beside it, the address.
    fn to_text(&self, what: &str) -> String {
        let known = self.alt.as_deref().or(self.name.as_deref());
        let mark = known.map_or_else(|| format!("[{what}]"), |known| format!("[{what}: {known}]"));
        let rest = [self.caption.as_deref(), self.url.as_deref()].into_iter().flatten();
        std::iter::once(mark.as_str()).chain(rest).collect::<Vec<_>>().join("\n")
    }
}

impl Button {
    /// The button in words: its page belongs to them.
    pub fn to_text(&self) -> String {
        match &self.action {
            ButtonAction::Url { url } => format!("{}: {url}", self.label),
            ButtonAction::Postback { .. } => self.label.clone(),
        }
    }
}

fn or_numbered(fallback: &str, labels: impl FnOnce() -> Vec<String>) -> String {
    if !fallback.is_empty() {
        return fallback.to_owned();
    }
    let numbered = labels().into_iter().enumerate();
    numbered.map(|(at, label)| format!("{}) {label}", at + 1)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_json_is_the_protocols() {
        let json = r#"{"parts":[{"type":"text","format":"markdown","text":"**Hi**"},{"type":"image","upload_id":"upl_55","mime":"image/jpeg","size":81233,"alt":"a box"},{"type":"buttons","fallback_text":"1) Track","items":[{"id":"b1","label":"Track","kind":"url","url":"https://shop.example/t/17"}]}]}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
        assert_eq!(message.to_text(), "**Hi**\n\n[image: a box]\n\n1) Track");
    }

    #[test]
    fn a_part_without_words_of_its_own_is_told_in_words() {
        let button = |id: &str, label: &str| Button {
            id: id.to_owned(),
            label: label.to_owned(),
            action: ButtonAction::Postback { value: String::new() },
        };
        let buttons = Part::Buttons {
            fallback_text: String::new(),
            items: vec![button("a", "Yes"), button("b", "No")],
        };
        assert_eq!(buttons.to_text(), "1) Yes\n2) No");
        let place = Part::Location {
            latitude: 52.52,
            longitude: 13.405,
            name: Some("Berlin".to_owned()),
            address: None,
        };
        assert_eq!(place.to_text(), "Berlin (52.520000, 13.405000)");
        let voice = |alt: Option<&str>| {
            let alt = alt.map(str::to_owned);
            Part::Audio(Media { voice: true, alt, ..Media::default() }).to_text()
        };
        assert_eq!(voice(None), "[voice message]");
        assert_eq!(voice(Some("Where is my parcel?")), "Where is my parcel?");
        assert_eq!(Part::Quote { text: "a\nb".to_owned(), message_id: None }.to_text(), "> a\n> b");
    }
}
