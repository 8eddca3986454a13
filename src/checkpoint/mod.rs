//! Weights on disk: checkpoints in HDF5 by logical tensor, and Hugging Face folders.
//!
//! A checkpoint holds one dataset a parameter under its Hugging Face name and the optimizer's moments beside it, never
//! a rank's shard: any number of ranks, in any system, continues from it. HDF5 describes the file (rank 0 only); the
//! numbers move by plain reads and writes at the datasets' offsets, so that a full disk is an ordinary error on the
//! rank that meets it and no rank holds more than its own part.

mod agree;
mod checksum;
mod error;
mod folder;
#[cfg(feature = "hdf5")]
mod h5;
#[cfg(not(feature = "hdf5"))]
#[path = "h5_absent.rs"]
mod h5;
#[cfg(feature = "hdf5")]
pub(crate) mod hdf;
pub mod hf;
mod inspect;
mod layout;
mod load;
mod piece;
mod save;
mod source;

pub use error::{CheckpointError, Direction};
pub use folder::{Keep, checkpoints, file_name, prune, run_folder, step_of};
pub use inspect::inspect;
pub use layout::{Header, Position, State};
pub use load::{Checkpoint, load, newest, resume};
pub use piece::{Piece, PieceMut, pieces, pieces_mut, tensors};
pub use save::save;
pub use source::{Source, open};

/// What most functions of this module return.
pub type Result<T> = std::result::Result<T, CheckpointError>;
