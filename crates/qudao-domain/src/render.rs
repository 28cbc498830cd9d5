//! A message as a channel can take it: what it cannot show becomes words, what is too long becomes
//! several messages. One renderer for all channels, by their [`Capabilities`].

use crate::{
    capability::{Capabilities, Level},
    message::{Button, ButtonAction, Media, Message, Part, Row, TextFormat},
};

mod plain;
mod split;

pub use plain::plain_text;
pub use split::split;

/// A channel takes no message with such a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the channel takes no message with {part}")]
pub struct Rejected {
    /// Which part.
    pub part: &'static str,
}

/// The messages that a channel is given for this one, in order; none if it has nothing to say.
/// Each has words of at most the declared length, at most one file or one album of pictures and videos,
/// and at most one set of buttons, rows or a card, which comes last.
///
/// # Errors
/// [`Rejected`] if the channel refuses a part.
pub fn render(message: &Message, capabilities: &Capabilities) -> Result<Vec<Message>, Rejected> {
    let mut page = Page { capabilities, done: Vec::new(), text: String::new(), format: None };
    for part in &message.parts {
        page.add(part)?;
    }
    page.flush(None);
    let mut done = page.done;
    let reply_to = message.reply_to.clone().filter(|_| capabilities.reply_to == Level::Native);
    if let Some(first) = done.first_mut() {
        first.reply_to = reply_to;
    }
    Ok(done)
}

struct Page<'a> {
    capabilities: &'a Capabilities,
    done: Vec<Message>,
    text: String,
    /// How `text` is to be read; nothing was said if absent.
    format: Option<TextFormat>,
}

impl Page<'_> {
    fn add(&mut self, part: &Part) -> Result<(), Rejected> {
        let caps = self.capabilities;
        match part {
            Part::Text { format, text } => self.say(*format, text),
            Part::Image(media) => return self.add_media("image", part, media),
            Part::Audio(media) => return self.add_media("audio", part, media),
            Part::Video(media) => return self.add_media("video", part, media),
            Part::File(media) => return self.add_media("file", part, media),
            Part::Buttons { items, .. } => {
                let level = if items.len() <= caps.buttons.max {
                    caps.buttons.level
                } else {
                    caps.buttons.level.max_degrade()
                };
                return match (level, self.as_list(part)) {
                    (Level::Degrade, Some(list)) => self.attach(list, Level::Native, "a list"),
                    (level, _) => self.attach(self.cut_labels(part), level, "buttons"),
                };
            }
            Part::List { rows, .. } => {
                let level = caps.list.level;
                let level =
                    if rows.len() <= caps.list.max_rows { level } else { level.max_degrade() };
                return self.attach(part.clone(), level, "a list");
            }
            Part::Card { .. } => return self.attach(part.clone(), caps.card, "a card"),
            Part::Location { .. } => return self.stand_alone(part, caps.location, "a place"),
            Part::Contact { .. } => return self.stand_alone(part, caps.contact, "a contact"),
            Part::Quote { .. } => return self.stand_alone(part, caps.quote, "a quote"),
        }
        Ok(())
    }

    /// Words join those before them if they are to be read the same way.
    fn say(&mut self, format: TextFormat, text: &str) {
        let plain = format == TextFormat::Markdown && !self.capabilities.text.reads_markdown();
        let (format, text) =
            if plain { (TextFormat::Plain, plain_text(text)) } else { (format, text.to_owned()) };
        if text.trim().is_empty() {
            return;
        }
        if self.format.is_some_and(|before| before != format) {
            self.flush(None);
        }
        if !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
        self.text.push_str(&text);
        self.format = Some(format);
    }

    /// Ends the words so far, as one message or several. `last` goes with the last of them.
    fn flush(&mut self, last: Option<Part>) {
        let text = std::mem::take(&mut self.text);
        let format = self.format.take().unwrap_or_default();
        let caps = &self.capabilities.text;
        let mut pieces: Vec<Message> = split(&text, caps.max, caps.unit)
            .into_iter()
            .map(|piece| Message::text(format, piece))
            .collect();
        if let Some(part) = last {
            match pieces.last_mut() {
                Some(piece) => piece.parts.push(part),
                None => pieces.push(Message { parts: vec![part], reply_to: None }),
            }
        }
        self.done.append(&mut pieces);
    }

    fn add_media(
        &mut self,
        kind: &'static str,
        part: &Part,
        media: &Media,
    ) -> Result<(), Rejected> {
        let Some(taken) = self.capabilities.media.get(kind) else {
            self.say(TextFormat::Plain, &part.to_text());
            return Ok(());
        };
        if !taken.takes(media) {
            self.say(TextFormat::Plain, &part.to_text());
            return Ok(());
        }
        self.flush(None);
        let mut part = part.clone();
        let (unit, album_max) = (self.capabilities.text.unit, self.capabilities.album_max);
        let fits = |text: &String| taken.caption_max.is_some_and(|max| unit.count(text) <= max);
        let caption = part.media_mut().and_then(|media| media.caption.take());
        let (beside, below) = match caption {
            Some(caption) if fits(&caption) => (Some(caption), None),
            caption => (None, caption),
        };
        if let Some(media) = part.media_mut() {
            media.caption = beside;
        }
        match self.done.last_mut().filter(|album| has_room(album, &part, album_max)) {
            Some(album) => album.parts.push(part),
            None => self.done.push(Message { parts: vec![part], reply_to: None }),
        }
        if let Some(below) = below {
            self.say(TextFormat::Plain, &below);
        }
        Ok(())
    }

    /// What goes with the words before it.
    fn attach(&mut self, part: Part, level: Level, name: &'static str) -> Result<(), Rejected> {
        match level {
            Level::Native => self.flush(Some(part)),
            Level::Degrade => self.say(TextFormat::Plain, &part.to_text()),
            Level::Drop => {}
            Level::Reject => return Err(Rejected { part: name }),
        }
        Ok(())
    }

    fn stand_alone(
        &mut self,
        part: &Part,
        level: Level,
        name: &'static str,
    ) -> Result<(), Rejected> {
        if level == Level::Native {
            self.flush(None);
        }
        self.attach(part.clone(), level, name)
    }

    fn cut_labels(&self, part: &Part) -> Part {
        let mut part = part.clone();
        if let Part::Buttons { items, .. } = &mut part {
            for item in items {
                item.label = cut(&item.label, self.capabilities.buttons.label_max);
            }
        }
        part
    }

    /// Buttons that do not fit as the rows of a list, where that is possible.
    fn as_list(&self, part: &Part) -> Option<Part> {
        let Part::Buttons { fallback_text, items } = part else { return None };
        let list = &self.capabilities.list;
        if list.level != Level::Native || list.max_rows < items.len() {
            return None;
        }
        let row = |button: &Button| match &button.action {
            ButtonAction::Url { .. } => None,
            ButtonAction::Postback { value } => Some(Row {
                id: button.id.clone(),
                label: button.label.clone(),
                description: None,
                value: value.clone(),
            }),
        };
        let rows = items.iter().map(row).collect::<Option<_>>()?;
        Some(Part::List { fallback_text: fallback_text.clone(), label: "…".to_owned(), rows })
    }
}

/// Whether a message is an album that may have one more part, and this is a part of an album.
fn has_room(album: &Message, part: &Part, most: usize) -> bool {
    let is_seen = |part: &Part| matches!(part, Part::Image(_) | Part::Video(_));
    album.parts.len() < most && is_seen(part) && album.parts.iter().all(is_seen)
}

impl Level {
    /// At most words in its place: for what is native but more than the channel takes at a time.
    fn max_degrade(self) -> Self {
        if self == Self::Native { Self::Degrade } else { self }
    }
}

/// The first characters, and an ellipsis if there were more.
fn cut(label: &str, max: usize) -> String {
    if label.chars().count() <= max {
        return label.to_owned();
    }
    let kept: String = label.chars().take(max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests;
