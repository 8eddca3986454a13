//! Files: checkpoints, Hugging Face folders, metrics. No MPI: ranks are threads.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "hdf5")]
mod checkpoint;
#[cfg(feature = "hdf5")]
mod disk;
mod hf;
mod metrics;
mod python;
#[cfg(feature = "hdf5")]
mod ranks;
