//! A detector that is loaded: a picture's bytes in, findings out.

use candle_core::Device;
use image::RgbImage;
use qudao_device::Target;

use crate::config::Config;
use crate::error::{LoadError, PictureError};
use crate::finding::{Choice, Finding, findings};
use crate::maps::Maps;
use crate::network::{Colours, Network, Sight};
use crate::ops::{Grid, Ops};
use crate::picture::{self, Limits, Square};
use crate::tensors::Tensors;
use crate::weights::Weights;
use crate::yolov8::Yolov8;
use crate::yolox::Yolox;

/// The most findings of a picture.
const MOST: usize = 100;

/// Side of the square that the larger family looks at where nobody says otherwise.
const LARGEST_DEFAULT: usize = 640;

/// A network with what computes it.
enum Engine {
    Processor(Maps, Box<dyn Network<Maps>>),
    Device(Tensors, Box<dyn Network<Tensors>>),
}

/// A detector.
pub struct Model {
    engine: Engine,
    side: usize,
    labels: Vec<String>,
    choice: Choice,
    limits: Limits,
}

/// What was asked and what came of it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The picture, upright.
    pub picture: RgbImage,
    /// What is in it, the surest first.
    pub findings: Vec<Finding>,
}

/// Why a picture was not looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Because of the picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// Because of the device.
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

impl Model {
    /// Loads the weights to where the configuration wants them.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(config: &Config) -> Result<Self, LoadError> {
        config.check()?;
        let weights = Weights::read(&config.path)?;
        let (engine, default_side) = match device(config, &weights)? {
            None => {
                let maps = Maps::new(config.threads())?;
                let (network, side) = network(&maps, &weights)?;
                (Engine::Processor(maps, network), side)
            }
            Some(device) => {
                let tensors = Tensors::new(device);
                let (network, side) = network(&tensors, &weights)?;
                (Engine::Device(tensors, network), side)
            }
        };
        let classes = match &engine {
            Engine::Processor(_, network) => network.classes(),
            Engine::Device(_, network) => network.classes(),
        };
        let side = config.side.or_else(|| stated_side(&weights)).unwrap_or(default_side);
        let labels = labels(config, &weights, classes)?;
        let choice = Choice { score: config.min_score, overlap: config.max_overlap, most: MOST };
        Ok(Self { engine, side, labels, choice, limits: config.limits() })
    }

    /// The names of the classes.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The name of a finding's class.
    pub fn label(&self, finding: &Finding) -> &str {
        self.labels.get(finding.class).map_or("thing", String::as_str)
    }

    /// Side of the square that the network looks at.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Looks at a picture. `min_score` replaces the configured one, `most` lowers the number of
    /// findings.
    ///
    /// # Errors
    /// [`LookError`].
    pub fn look(
        &self,
        bytes: &[u8],
        min_score: Option<f32>,
        most: Option<usize>,
    ) -> Result<Seen, LookError> {
        let picture = picture::unpack(bytes, self.limits)?;
        let square = picture::square(&picture, self.side, self.colours());
        let sight = self.see(&square.grid)?;
        let choice = Choice {
            score: min_score.unwrap_or(self.choice.score),
            most: most.unwrap_or(MOST).min(MOST),
            ..self.choice
        };
        let findings = self.choose(&sight, &square, &picture, choice);
        Ok(Seen { picture, findings })
    }

    #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
    fn choose(
        &self,
        sight: &Sight,
        square: &Square,
        picture: &RgbImage,
        choice: Choice,
    ) -> Vec<Finding> {
        let size = (picture.width() as f32, picture.height() as f32);
        findings(sight, square.scale, size, choice)
    }

    /// What the network says of a square picture, place by place.
    ///
    /// # Errors
    /// What a device says; the processor never fails on a square of this model's side.
    pub fn see(&self, grid: &Grid) -> candle_core::Result<Sight> {
        match &self.engine {
            Engine::Processor(maps, network) => maps.within(|| network.look(maps, grid)),
            Engine::Device(tensors, network) => network.look(tensors, grid),
        }
    }

    /// How the network wants its pictures.
    pub fn colours(&self) -> Colours {
        match &self.engine {
            Engine::Processor(_, network) => network.colours(),
            Engine::Device(_, network) => network.colours(),
        }
    }
}

/// The network whose names the tensors have, and the side that it is trained with.
fn network<O>(ops: &O, weights: &Weights) -> Result<(Box<dyn Network<O>>, usize), LoadError>
where
    O: Ops + 'static,
    O::Layer: Send + Sync,
{
    if weights.has("head.stems.0.conv.weight") {
        return Ok((Box::new(Yolox::load(ops, weights)?), 416));
    }
    if weights.has("model.22.cv2.0.0.conv.weight") {
        return Ok((Box::new(Yolov8::load(ops, weights)?), 640));
    }
    Err(LoadError::Family)
}

/// The side that the file's remarks name: `416`, or `[640, 640]` as exports write it.
fn stated_side(weights: &Weights) -> Option<usize> {
    let text = weights.metadata.get("imgsz")?;
    let number = text.trim_start_matches('[').split([',', ']']).next()?;
    number.trim().parse().ok().filter(|side| *side > 0 && side % 32 == 0 && *side <= 2048)
}

fn labels(config: &Config, weights: &Weights, classes: usize) -> Result<Vec<String>, LoadError> {
    if let Some(labels) = &config.classes {
        if labels.len() != classes {
            let reason = format!("{} names for the model's {classes} classes", labels.len());
            return Err(LoadError::Config { key: "classes", reason });
        }
        return Ok(labels.clone());
    }
    let stated = weights.metadata.get("names").map(|text| stated_names(text));
    if let Some(labels) = stated.filter(|labels| labels.len() == classes) {
        return Ok(labels);
    }
    if classes == COCO.len() {
        return Ok(COCO.map(str::to_owned).to_vec());
    }
    Ok((0..classes).map(|class| format!("class {class}")).collect())
}

/// Names as a JSON array, or as exports write them: `{0: 'person', 1: "bicycle"}`.
fn stated_names(text: &str) -> Vec<String> {
    if let Ok(names) = serde_json::from_str(text) {
        return names;
    }
    let entries = text.trim_matches(['{', '}']).split(", ");
    entries
        .filter_map(|entry| entry.split_once(": "))
        .map(|(_, name)| name.trim_matches(['\'', '"']).to_owned())
        .collect()
}

/// Bytes of the largest maps between two layers, in single precision, for each pixel of the square that
/// the network looks at; with room for the unfolded windows of a convolution.
const BYTES_PER_PIXEL: u64 = 4 * 64 * 10;

/// The device to compute on, or nothing for the processor's own kernels.
fn device(config: &Config, weights: &Weights) -> Result<Option<Device>, LoadError> {
    // The plain path, for comparison.
    if config.device == "tensors" {
        return Ok(Some(Device::Cpu));
    }
    let target = Target::parse(&config.device)?;
    let side = config.side.or_else(|| stated_side(weights)).unwrap_or(LARGEST_DEFAULT) as u64;
    let device = target.open(weights.bytes() + side * side * BYTES_PER_PIXEL)?;
    Ok((target != Target::Cpu).then_some(device))
}

/// What COCO's 80 classes are called, in the order of the models that are trained on it.
pub const COCO: [&str; 80] = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];
