//! Where a plugin computes: the processor or a GPU, whether there is room on it, and what its failures
//! mean.
//!
//! An artifact that was built for GPUs refuses itself where there is none, so that the host takes the
//! processor's. A GPU that has failed in a way that its process cannot mend ends the process: the host
//! starts another one, and requests that had delivered nothing are made again there.

use candle_core::Device;

mod fault;

pub use fault::{Fault, end_if_lost};

/// Memory of a GPU beside weights and what is computed with them, in bytes: the driver's context, the
/// libraries' workspaces, compiled kernels.
pub const OVERHEAD: u64 = 400 << 20;

/// Where a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The processor.
    Cpu,
    /// A GPU, by its number.
    Cuda(usize),
}

/// Why an instance does not start on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Nobody knows it, or this machine does not have it.
    #[error("device `{device}` is not available: {reason}")]
    Absent {
        /// As configured.
        device: String,
        /// Why not.
        reason: String,
    },
    /// Its memory is too small, or in use.
    #[error(
        "the model needs about {needed_mib} MiB of the GPU's memory, {free_mib} MiB are free; take a smaller model, or another device"
    )]
    Room {
        /// What it would take.
        needed_mib: u64,
        /// What the driver says is free.
        free_mib: u64,
    },
}

impl Target {
    /// Reads the setting `device`: `cpu`, `cuda:0` and so on, or `auto`, which means the first GPU in an
    /// artifact that was built for GPUs and the processor in any other.
    ///
    /// # Errors
    /// [`DeviceError::Absent`] for a name that nobody knows, or a GPU in an artifact without support.
    pub fn parse(wanted: &str) -> Result<Self, DeviceError> {
        Self::in_artifact(wanted, cfg!(feature = "cuda"))
    }

    fn in_artifact(wanted: &str, for_gpus: bool) -> Result<Self, DeviceError> {
        let absent = |reason: &str| {
            Err(DeviceError::Absent { device: wanted.to_owned(), reason: reason.to_owned() })
        };
        match (wanted, wanted.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("auto", _) if for_gpus => Ok(Self::Cuda(0)),
            ("auto", _) => Ok(Self::Cpu),
            (_, Some(Ok(number))) if for_gpus => Ok(Self::Cuda(number)),
            (_, Some(Ok(_))) => {
                absent("this artifact computes on the processor; use `cpu` or `auto`")
            }
            _ => absent("devices are `auto`, `cpu`, and `cuda:0`, `cuda:1` and so on"),
        }
    }

    /// The device, if what the model needs of its memory is free there. The processor's memory is for
    /// the caller to judge.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn open(self, needed: u64) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => {
                let (device, free) = open_cuda(number)?;
                check_room(free, needed + OVERHEAD)?;
                Ok(device)
            }
        }
    }
}

/// Compares what a model takes with what is free, if that is known.
///
/// # Errors
/// [`DeviceError::Room`].
pub fn check_room(free: Option<u64>, needed: u64) -> Result<(), DeviceError> {
    match free {
        Some(free) if free < needed => {
            Err(DeviceError::Room { needed_mib: needed >> 20, free_mib: free >> 20 })
        }
        _ => Ok(()),
    }
}

/// The device and the bytes that its driver says are free.
#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<(Device, Option<u64>), DeviceError> {
    let device = Device::new_cuda(number).map_err(|error| DeviceError::Absent {
        device: format!("cuda:{number}"),
        reason: error.to_string(),
    })?;
    let free = candle_core::cuda_backend::cudarc::driver::result::mem_get_info();
    Ok((device, free.ok().map(|(free, _)| free as u64)))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(number: usize) -> Result<(Device, Option<u64>), DeviceError> {
    Err(DeviceError::Absent {
        device: format!("cuda:{number}"),
        reason: "this artifact computes on the processor".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_gpu_in_an_artifact_for_gpus_and_the_processor_in_any_other() {
        let parse = |wanted: &str, for_gpus| Target::in_artifact(wanted, for_gpus).ok();
        assert_eq!(parse("auto", true), Some(Target::Cuda(0)));
        assert_eq!(parse("auto", false), Some(Target::Cpu));
        assert_eq!(parse("cpu", true), Some(Target::Cpu));
        assert_eq!(parse("cuda:3", true), Some(Target::Cuda(3)));
        assert_eq!(parse("cuda:3", false), None);
        for wrong in ["", "tpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert_eq!(parse(wrong, true), None, "{wrong}");
        }
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_both_numbers() {
        let error = check_room(Some(3 << 30), 4 << 30).unwrap_err().to_string();
        assert!(error.contains("4096 MiB") && error.contains("3072 MiB"), "{error}");
        assert!(check_room(Some(4 << 30), 4 << 30).is_ok());
        assert!(check_room(None, u64::MAX).is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn the_processors_artifact_opens_no_gpu() {
        assert!(matches!(Target::Cuda(0).open(0), Err(DeviceError::Absent { .. })));
        assert!(Target::Cpu.open(u64::MAX / 2).is_ok());
    }
}
