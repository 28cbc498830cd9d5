//! What a GPU's failure means. The names are those of the CUDA driver API and of cuBLAS:
//! <https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html>.

/// What becomes of a process after a failure of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One request failed; others go on.
    Request,
    /// The process will not compute right any more: every later call returns the same error, or the
    /// memory of the device cannot be trusted.
    Process,
}

/// After these the driver says of itself that the process has to end, or the device is not the one that
/// the process began with.
const LOST: &[&str] = &[
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_MPS_CONNECTION_FAILED",
    "CUDA_ERROR_MPS_SERVER_NOT_READY",
    "CUDA_ERROR_MPS_CLIENT_TERMINATED",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "CUDA_ERROR_UNKNOWN",
    // What the libraries say when a kernel of theirs ran into one of the above.
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_MAPPING_ERROR",
    "CURAND_STATUS_LAUNCH_FAILURE",
    "CURAND_STATUS_PREEXISTING_FAILURE",
];

impl Fault {
    /// Reads what a device said. Names are whole words: a name that is the beginning of another is not
    /// taken for it.
    pub fn of(said: &str) -> Self {
        let words = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let lost = words.into_iter().any(|word| LOST.contains(&word));
        if lost { Self::Process } else { Self::Request }
    }
}

/// Ends this process if `said` means that its device is lost, after `log` has heard why. The host sees a
/// crash, starts another process and makes again what had not delivered anything; were the error told
/// as one of a request, every later request would fail as well.
///
/// For processes of a plugin alone: the host lets no artifact for GPUs into its own.
pub fn end_if_lost(said: &str, log: impl FnOnce(&str)) {
    if Fault::of(said) == Fault::Process {
        log(&format!("the GPU is lost to this process, which ends: {said}"));
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_stay_end_the_process() {
        for said in [
            // As candle 0.11 and cudarc 0.19 write them.
            "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")",
            "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")",
            "DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"uncorrectable ECC error encountered\")",
            "cuda: DriverError(CUDA_ERROR_UNKNOWN, \"unknown error\") when loading rms_f32",
            "CublasError(CUBLAS_STATUS_EXECUTION_FAILED)",
        ] {
            assert_eq!(Fault::of(said), Fault::Process, "{said}");
        }
    }

    #[test]
    fn errors_of_one_request_end_nothing() {
        for said in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")",
            "DriverError(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, \"too many resources requested\")",
            "DriverError(CUDA_ERROR_NO_BINARY_FOR_GPU, \"no kernel image is available\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "shape mismatch in matmul, lhs: [1, 2], rhs: [3, 4]",
            "somebody writes about CUDA_ERROR_UNKNOWN_SYMBOL and CUDA_ERRORS",
            "",
        ] {
            assert_eq!(Fault::of(said), Fault::Request, "{said}");
        }
    }

    #[test]
    fn no_name_is_listed_twice_or_misspelt_in_its_form() {
        for (at, name) in LOST.iter().enumerate() {
            assert!(!LOST[..at].contains(name), "{name}");
            let form = ["CUDA_ERROR_", "CUBLAS_STATUS_", "CURAND_STATUS_"];
            assert!(form.iter().any(|form| name.starts_with(form)), "{name}");
        }
    }

    #[test]
    fn a_request_that_failed_leaves_the_process_alone() {
        let mut heard = false;
        end_if_lost("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", |_| heard = true);
        assert!(!heard);
    }
}
