//! Models that look and listen. Pictures and sounds travel as base64 (RFC 4648, with padding) within the
//! request, which has at most 16 MiB.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_false;

/// Names the form of [`DetectRequest`].
pub const DETECT_SCHEMA: &str = "qudao.detect.v1";
/// Names the form of [`TranscribeRequest`].
pub const TRANSCRIBE_SCHEMA: &str = "qudao.transcribe.v1";

fn detect_schema() -> String {
    DETECT_SCHEMA.to_owned()
}

fn transcribe_schema() -> String {
    TRANSCRIBE_SCHEMA.to_owned()
}

/// Find things in a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetectRequest {
    /// [`DETECT_SCHEMA`].
    #[serde(default = "detect_schema")]
    pub schema: String,
    /// The model, by the name that the plugin knows it by.
    pub model: String,
    /// The file of the picture as it came, in base64.
    pub picture: String,
    /// Things that are less likely than this are left out, 0 to 1; the model's own bound if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Whether to return the picture with what was found drawn into it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub annotate: bool,
    /// What to draw in the place of labels, by label: names in the reader's language. Labels that are
    /// not among them are drawn as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub captions: BTreeMap<String, String>,
}

impl DetectRequest {
    /// A request to look at a picture, in base64.
    pub fn new(model: impl Into<String>, picture: impl Into<String>) -> Self {
        let (schema, model, picture) = (detect_schema(), model.into(), picture.into());
        let captions = BTreeMap::new();
        Self { schema, model, picture, threshold: None, annotate: false, captions }
    }
}

/// What was found in a picture: a DATA event, one for each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detected {
    /// Of the picture as it is shown, in pixels.
    pub width: u32,
    /// Of the picture as it is shown, in pixels.
    pub height: u32,
    /// The likeliest first.
    pub objects: Vec<Object>,
}

/// A thing in a picture. The box is in pixels of the picture as it is shown, from its upper left corner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub label: String,
    /// How likely, from 0 to 1.
    pub score: f32,
    /// The box's left side.
    pub left: f32,
    /// The box's upper side.
    pub top: f32,
    /// Its width.
    pub width: f32,
    /// Its height.
    pub height: f32,
}

/// A part of the annotated picture: DATA events after [`Detected`], in order, each small enough for an
/// event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicturePart {
    /// Such as `image/jpeg`.
    pub media_type: String,
    /// The next bytes of the file, in base64.
    pub part: String,
}

/// Turn speech into text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TranscribeRequest {
    /// [`TRANSCRIBE_SCHEMA`].
    #[serde(default = "transcribe_schema")]
    pub schema: String,
    /// The model, by the name that the plugin knows it by.
    pub model: String,
    /// The file of the sound as it came, in base64.
    pub sound: String,
    /// The language that is spoken, as two letters; found out if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// What the model is to think was said before: names and words that come up, in the style to go on
    /// in. The model's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// How freely words are chosen at first, 0 to 1; 0 if absent. A model may choose more freely where
    /// the likeliest words make no sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
}

impl TranscribeRequest {
    /// A request to write down a sound, in base64.
    pub fn new(model: impl Into<String>, sound: impl Into<String>) -> Self {
        let (schema, model, sound) = (transcribe_schema(), model.into(), sound.into());
        Self { schema, model, sound, language: None, prompt: None, temperature: None }
    }
}

/// A stretch of speech: a DATA event, as soon as it is understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins, in milliseconds from the sound's beginning.
    pub start_ms: u32,
    /// Where it ends.
    pub end_ms: u32,
    /// What is said.
    pub text: String,
    /// In which language, as two letters, where the model tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// How sure the model is, where it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
}

impl Segment {
    /// What stands between two stretches of one text: a space, or nothing where a script without spaces
    /// meets itself.
    #[must_use]
    pub fn gap(before: &str, after: &str) -> &'static str {
        let tight = |letter: Option<char>| {
            letter.is_some_and(|c| {
                matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ff60}' | '\u{20000}'..='\u{3fffd}')
            })
        };
        let (last, first) =
            (before.trim_end().chars().next_back(), after.trim_start().chars().next());
        if last.is_none() || first.is_none() || (tight(last) && tight(first)) { "" } else { " " }
    }

    /// What is said in all of them.
    #[must_use]
    pub fn text_of(segments: &[Self]) -> String {
        let mut text = String::new();
        for segment in segments {
            text.push_str(Self::gap(&text, &segment.text));
            text.push_str(segment.text.trim());
        }
        text
    }
}

/// How sure a model is of a stretch of speech, in the numbers that a Whisper is judged by. Stretches that
/// were understood together have the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// The mean natural logarithm of its tokens' probabilities: 0 is certain.
    pub mean_logprob: f32,
    /// How likely it is that nothing was said at all, 0 to 1.
    pub nothing_said: f32,
    /// How much shorter the text becomes when it is packed: what repeats itself packs well.
    pub compression: f32,
    /// How freely the words were chosen, 0 to 1.
    pub temperature: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_become_one_text_as_their_script_is_written() {
        let text = |said: &[&str]| {
            let segment = |text: &&str| Segment {
                start_ms: 0,
                end_ms: 0,
                text: (*text).to_owned(),
                language: None,
                confidence: None,
            };
            Segment::text_of(&said.iter().map(segment).collect::<Vec<_>>())
        };
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[" One. ", "", "Two."]), "One. Two.");
        assert_eq!(text(&["你好。", "我想退货，", "谢谢"]), "你好。我想退货，谢谢");
        assert_eq!(text(&["你好。", "OK", "谢谢"]), "你好。 OK 谢谢");
        assert_eq!(text(&["안녕하세요", "반갑습니다"]), "안녕하세요 반갑습니다");
    }
}
