//! What was said in a sound, in the forms that OpenAI's transcriptions have: JSON, text, subtitles, and
//! events.

use actix_web::web::BytesMut;
use qudao_core::ApiEvent;
use qudao_plugin_api::wire::{Confidence, Segment, Usage};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::stream::{Writer, write_json};

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DurationUsage {
    /// Always `duration`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Of the sound, begun ones counted; each is charged as a token of input.
    seconds: u32,
}

impl From<Usage> for DurationUsage {
    fn from(usage: Usage) -> Self {
        Self { kind: "duration", seconds: usage.input_tokens }
    }
}

/// What was said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transcription {
    /// Empty where nobody speaks.
    pub(crate) text: String,
    pub(crate) usage: DurationUsage,
}

/// What was said, with its times.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerboseTranscription {
    /// Always `transcribe`.
    task: &'static str,
    /// As two letters; `und` where the model does not tell.
    language: String,
    /// Seconds, begun ones counted.
    duration: f64,
    text: String,
    segments: Vec<TimedSegment>,
    usage: DurationUsage,
}

/// A stretch of speech.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TimedSegment {
    /// Which, from 0.
    id: usize,
    /// Where it begins, in hundredths of a second.
    seek: u32,
    /// Where it begins, in seconds.
    start: f64,
    /// Where it ends, in seconds.
    end: f64,
    text: String,
    /// Always empty: models do not tell. OpenAI's typed clients ask for the field.
    tokens: [u32; 0],
    /// The mean natural logarithm of its tokens' probabilities, where the model tells. Stretches that
    /// were understood together have the same here and below.
    #[serde(skip_serializing_if = "Option::is_none")]
    avg_logprob: Option<f32>,
    /// How likely it is that nothing was said, where the model tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_speech_prob: Option<f32>,
    /// Above 2.4 the text repeats itself and is not to be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    compression_ratio: Option<f32>,
    /// How freely its words were chosen, where the model tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

impl TimedSegment {
    fn new(id: usize, segment: &Segment) -> Self {
        let told = |number: fn(Confidence) -> f32| segment.confidence.map(number);
        Self {
            id,
            seek: segment.start_ms / 10,
            start: seconds(segment.start_ms),
            end: seconds(segment.end_ms),
            text: segment.text.clone(),
            tokens: [],
            avg_logprob: told(|sure| sure.mean_logprob),
            no_speech_prob: told(|sure| sure.nothing_said),
            compression_ratio: told(|sure| sure.compression),
            temperature: told(|sure| sure.temperature),
        }
    }
}

impl VerboseTranscription {
    /// `language` is the one that was asked for.
    pub(crate) fn new(segments: &[Segment], language: Option<String>, usage: Usage) -> Self {
        let heard = segments.iter().find_map(|segment| segment.language.clone());
        let timed = |(id, segment)| TimedSegment::new(id, segment);
        Self {
            task: "transcribe",
            language: heard.or(language).unwrap_or_else(|| "und".to_owned()),
            duration: f64::from(usage.input_tokens),
            text: Segment::text_of(segments),
            segments: segments.iter().enumerate().map(timed).collect(),
            usage: usage.into(),
        }
    }
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

/// Subtitles as SubRip has them.
pub(crate) fn srt(segments: &[Segment]) -> String {
    let cue = |(at, segment): (usize, &Segment)| {
        let (from, to) = (clock(segment.start_ms, ','), clock(segment.end_ms, ','));
        format!("{}\n{from} --> {to}\n{}\n\n", at + 1, one_line(&segment.text))
    };
    segments.iter().enumerate().map(cue).collect()
}

/// Subtitles as browsers show them.
pub(crate) fn vtt(segments: &[Segment]) -> String {
    let cue = |segment: &Segment| {
        let (from, to) = (clock(segment.start_ms, '.'), clock(segment.end_ms, '.'));
        let text = one_line(&segment.text).replace('&', "&amp;").replace('<', "&lt;");
        // An arrow would make times of the text.
        format!("{from} --> {to}\n{}\n\n", text.replace('>', "&gt;"))
    };
    std::iter::once("WEBVTT\n\n".to_owned()).chain(segments.iter().map(cue)).collect()
}

/// An empty line would end a subtitle.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn clock(ms: u32, point: char) -> String {
    let (seconds, ms) = (ms / 1000, ms % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}")
}

/// Writes what is said while it is understood, as the events of OpenAI's transcriptions.
#[derive(Default)]
pub(crate) struct TranscriptWriter {
    text: String,
}

impl Writer for TranscriptWriter {
    fn write(&mut self, event: &ApiEvent, out: &mut BytesMut) {
        let event = match event {
            // Stretches are data; a model that writes things down has nothing else to say.
            ApiEvent::Delta { .. } => return,
            ApiEvent::Data(piece) => {
                let said = piece.get("text").and_then(serde_json::Value::as_str);
                let said = said.unwrap_or_default();
                let delta = format!("{}{}", Segment::gap(&self.text, said), said.trim());
                self.text.push_str(&delta);
                json!({ "type": "transcript.text.delta", "delta": delta })
            }
            ApiEvent::End { usage, .. } => json!({
                "type": "transcript.text.done",
                "text": self.text,
                "usage": DurationUsage::from(*usage),
            }),
        };
        let ends = event["type"] == "transcript.text.done";
        out.extend_from_slice(b"data: ");
        write_json(&event, out);
        out.extend_from_slice(b"\n\n");
        if ends {
            out.extend_from_slice(b"data: [DONE]\n\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(start_ms: u32, end_ms: u32, text: &str) -> Segment {
        Segment { start_ms, end_ms, text: text.to_owned(), language: None, confidence: None }
    }

    #[test]
    fn subtitles_have_their_times_and_no_text_that_breaks_them() {
        let segments =
            [said(0, 1_234, "Hello,\n\nthere."), said(3_661_005, 3_662_000, "1 --> 2 <b>&")];
        assert_eq!(
            srt(&segments),
            "1\n00:00:00,000 --> 00:00:01,234\nHello, there.\n\n\
             2\n01:01:01,005 --> 01:01:02,000\n1 --> 2 <b>&\n\n"
        );
        assert_eq!(
            vtt(&segments),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.234\nHello, there.\n\n\
             01:01:01.005 --> 01:01:02.000\n1 --&gt; 2 &lt;b&gt;&amp;\n\n"
        );
        assert_eq!((srt(&[]), vtt(&[])), (String::new(), "WEBVTT\n\n".to_owned()));
    }

    #[test]
    fn the_pieces_of_a_stream_make_up_its_end() {
        let mut writer = TranscriptWriter::default();
        let mut out = BytesMut::new();
        for text in ["One.", "Two."] {
            writer.write(&ApiEvent::Data(json!({ "text": text })), &mut out);
        }
        let end = ApiEvent::End {
            finish_reason: qudao_plugin_api::wire::FinishReason::Stop,
            usage: Usage { input_tokens: 2, output_tokens: 0 },
            charge: qudao_domain::Micros::ZERO,
        };
        writer.write(&end, &mut out);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "data: {\"delta\":\"One.\",\"type\":\"transcript.text.delta\"}\n\n\
             data: {\"delta\":\" Two.\",\"type\":\"transcript.text.delta\"}\n\n\
             data: {\"text\":\"One. Two.\",\"type\":\"transcript.text.done\",\
             \"usage\":{\"seconds\":2,\"type\":\"duration\"}}\n\ndata: [DONE]\n\n"
        );
    }
}
