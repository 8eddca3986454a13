//! Stands in for HDF5 in a build without it: every use is a clear error.

use std::path::Path;

use super::layout::{Header, Table};
use super::{CheckpointError, Result};

/// Always an error: see [`CheckpointError::NoHdf5`].
pub(super) fn create(path: &Path, _: &Header, _: &[[u64; 3]]) -> Result<Table> {
    Err(CheckpointError::NoHdf5 { path: path.display().to_string() })
}

/// Always an error: see [`CheckpointError::NoHdf5`].
pub(super) fn open(path: &Path) -> Result<Table> {
    Err(CheckpointError::NoHdf5 { path: path.display().to_string() })
}
