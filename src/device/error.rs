//! What can go wrong on a device that is not the host.

/// Why a device cannot be used, or did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A library of the GPU's maker is not there.
    #[error("{library} is not here; looked for {looked_for} where the system looks for libraries (LD_LIBRARY_PATH)")]
    Library {
        /// What is missing.
        library: &'static str,
        /// The file names that were tried.
        looked_for: String,
    },
    /// The driver runs, but there is no such GPU.
    #[error("no GPU number {ordinal}: the driver sees {visible} (CUDA_VISIBLE_DEVICES can hide some)")]
    Absent {
        /// Which was asked for, from 0.
        ordinal: usize,
        /// How many there are.
        visible: usize,
    },
    /// A call of the driver or of a library failed. Later calls fail too, with the same cause.
    #[error("{call} ({code}): {what}")]
    Call {
        /// The function.
        call: &'static str,
        /// The number it returned.
        code: u32,
        /// Its name, and what its maker says of it.
        what: String,
    },
    /// There is not enough memory.
    #[error("the GPU has {free} bytes of memory left of {total}, but {wanted} are needed")]
    Memory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes that nobody uses.
        free: usize,
        /// Bytes of the GPU.
        total: usize,
    },
    /// The compiled kernels are not there.
    #[error("{0}")]
    Kernels(String),
}
