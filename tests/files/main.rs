//! Files: checkpoints, Hugging Face folders, metrics. No MPI: ranks are threads.

mod ranks;

#[cfg(feature = "hdf5")]
mod checkpoint;
mod hf;
mod python;
