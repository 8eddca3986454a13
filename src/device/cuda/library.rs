//! The maker's libraries, looked for when a GPU is asked for and not before.

use cudarc::{cublaslt, driver};

use crate::device::DeviceError;

/// Checks that the driver's library can be loaded.
///
/// # Errors
/// [`DeviceError::Library`].
pub fn driver() -> Result<(), DeviceError> {
    // SAFETY: loads the library, whose initialisers are its maker's business.
    present("the NVIDIA driver", "libcuda.so.1", unsafe { driver::sys::is_culib_present() })
}

/// Checks that cuBLASLt can be loaded.
///
/// # Errors
/// [`DeviceError::Library`].
pub fn products() -> Result<(), DeviceError> {
    // SAFETY: as above.
    let found = unsafe { cublaslt::sys::is_culib_present() };
    present("cuBLASLt of CUDA 12 or 13", "libcublasLt.so.13, libcublasLt.so.12", found)
}

fn present(library: &'static str, names: &str, found: bool) -> Result<(), DeviceError> {
    if found { Ok(()) } else { Err(DeviceError::Library { library, looked_for: names.into() }) }
}
