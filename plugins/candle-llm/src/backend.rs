//! Where a model computes, and the one interface of both decoders.

use std::sync::Arc;

use candle_core::Device;

use crate::config::{Config, Target};
use crate::decoder::{Decoder, Span};
use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::pool::Pool;
use crate::shape::Shape;
use crate::tensors::TensorDecoder;

/// A loaded decoder with what it computes on.
pub enum Backend {
    /// On the processor.
    Cpu {
        /// The weights.
        decoder: Decoder,
        /// The threads.
        pool: Pool,
    },
    /// On a device with memory of its own.
    Device(Box<TensorDecoder>),
}

impl Backend {
    /// Loads the weights to where the configuration wants them. `progress` hears of the layers.
    ///
    /// # Errors
    /// [`LoadError::Device`] when the device is absent, [`LoadError::Memory`] when the model does
    /// not fit, and whatever is wrong with the file.
    pub fn load(
        config: &Config,
        gguf: &Arc<Gguf>,
        shape: Arc<Shape>,
        context: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, LoadError> {
        match config.target()? {
            Target::Cpu => {
                let needed = crate::config::memory(gguf, &shape, context, config.max_sequences);
                check_room(crate::config::available_memory(), needed)?;
                let pool = Pool::new(config.threads()).map_err(LoadError::Thread)?;
                let decoder = Decoder::load(gguf, shape, &pool, progress)?;
                Ok(Self::Cpu { decoder, pool })
            }
            Target::Cuda(number) => {
                let (device, free) = open_cuda(number, &config.device)?;
                let needed =
                    crate::config::device_memory(gguf, &shape, context, config.max_sequences);
                check_room(free, needed)?;
                let decoder = TensorDecoder::load(gguf, shape, context, device, progress)?;
                Ok(Self::Device(Box::new(decoder)))
            }
        }
    }

    /// Runs the tokens of all spans through the model. Returns, per span, the logits after its
    /// last token if it asked for them.
    ///
    /// # Errors
    /// What a device says; the processor never fails.
    pub fn forward(
        &self,
        spans: &mut [Span<'_>],
    ) -> Result<Vec<Option<Vec<f32>>>, candle_core::Error> {
        match self {
            Self::Cpu { decoder, pool } => Ok(decoder.forward(pool, spans)),
            Self::Device(decoder) => decoder.forward(spans),
        }
    }
}

/// Compares what a model takes with what there is, if that is known.
pub(crate) fn check_room(available: Option<u64>, needed: u64) -> Result<(), LoadError> {
    match available {
        Some(available) if needed > available => {
            Err(LoadError::Memory { needed_mib: needed >> 20, available_mib: available >> 20 })
        }
        _ => Ok(()),
    }
}

/// The device and the bytes that are free on it.
#[cfg(feature = "cuda")]
fn open_cuda(number: usize, wanted: &str) -> Result<(Device, Option<u64>), LoadError> {
    let device = Device::new_cuda(number).map_err(|error| LoadError::Device {
        device: wanted.to_owned(),
        reason: error.to_string(),
    })?;
    let free = candle_core::cuda_backend::cudarc::driver::result::mem_get_info();
    Ok((device, free.ok().map(|(free, _)| free as u64)))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize, wanted: &str) -> Result<(Device, Option<u64>), LoadError> {
    Err(LoadError::Device {
        device: wanted.to_owned(),
        reason: "this artifact computes on the processor; use `cpu` or `auto`".to_owned(),
    })
}
