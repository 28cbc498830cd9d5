//! The detector as a plugin of the platform.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use qudao_device::end_if_lost;
use qudao_plugin_api::wire::{DetectRequest, Detected, ErrorKind, Object, PicturePart, Usage};
use qudao_plugin_api::{Completion, Host, LogLevel, ModelPlugin, PluginError, Sink};

use crate::annotate::{Mark, Pen};
use crate::config::Config;
use crate::finding::Finding;
use crate::model::{LookError, Model, Seen};

/// Bytes of the annotated picture in one event, so that they fit one in base64.
const PART_BYTES: usize = 32 << 10;
/// What a picture counts in the books: a picture is one token, whatever is in it.
const TOKENS: u32 = 1;

/// A detector.
pub struct Vision {
    host: Host,
    model: Model,
    pen: Pen,
}

impl ModelPlugin for Vision {
    type Config = Config;

    fn create(host: Host, config: Config) -> Result<Self, PluginError> {
        let model = Model::load(&config)
            .map_err(|error| PluginError::new(ErrorKind::Unavailable, error.to_string()))?;
        let (classes, side) = (model.labels().len(), model.side());
        host.log(LogLevel::Info, &format!("{classes} classes, pictures of {side} × {side}"));
        let pen = Pen::new().map_err(|error| PluginError::internal(error.to_string()))?;
        Ok(Self { host, model, pen })
    }

    fn detect(&self, request: DetectRequest, sink: &Sink<'_>) -> Result<Completion, PluginError> {
        let bytes = STANDARD
            .decode(&request.picture)
            .map_err(|error| PluginError::bad_request(format!("the picture's base64: {error}")))?;
        let seen =
            self.model.look(&bytes, request.threshold, None).map_err(|error| match error {
                LookError::Picture(error) => PluginError::bad_request(error.to_string()),
                LookError::Device(error) => {
                    let said = error.to_string();
                    end_if_lost(&said, |line| self.host.log(LogLevel::Error, line));
                    PluginError::internal(said)
                }
            })?;
        sink.data(&self.detected(&seen))?;
        if request.annotate {
            let marks = seen.findings.iter().map(|found| self.mark(found, &request.captions));
            let marks: Vec<Mark> = marks.collect();
            let file = self
                .pen
                .annotate(&seen.picture, &marks)
                .map_err(|error| PluginError::internal(error.to_string()))?;
            for part in file.chunks(PART_BYTES) {
                let media_type = "image/jpeg".to_owned();
                sink.data(&PicturePart { media_type, part: STANDARD.encode(part) })?;
            }
        }
        Ok(Completion::stop(Usage { input_tokens: TOKENS, output_tokens: 0 }))
    }
}

impl Vision {
    fn detected(&self, seen: &Seen) -> Detected {
        let object = |finding: &Finding| {
            let [left, top, right, bottom] = finding.edges;
            Object {
                label: self.model.label(finding).to_owned(),
                score: finding.score,
                left,
                top,
                width: right - left,
                height: bottom - top,
            }
        };
        Detected {
            width: seen.picture.width(),
            height: seen.picture.height(),
            objects: seen.findings.iter().map(object).collect(),
        }
    }

    fn mark(&self, finding: &Finding, captions: &BTreeMap<String, String>) -> Mark {
        let label = self.model.label(finding);
        let name = captions.get(label).map_or(label, String::as_str);
        let label = format!("{name} {:.0}%", finding.score * 100.0);
        Mark { edges: finding.edges, label, class: finding.class }
    }
}

qudao_plugin_api::export_plugin!(Vision);
