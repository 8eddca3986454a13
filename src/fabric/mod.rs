//! How ranks talk: messages while a plan runs, and small agreements outside it.

mod control;
mod error;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "cuda")]
pub mod nccl;
mod process;
#[cfg(feature = "cuda")]
mod staged;
mod sum;
mod traffic;
mod transfer;
mod wire;

pub use control::{Control, Solo};
pub use error::FabricError;
pub use process::{
    MpiLibrary, abort, host_name, is_launched, launched_ranks, leave, mpi_library, refuse_singletons, sleep_precisely,
    warn_about_cores,
};
#[cfg(feature = "cuda")]
pub use staged::Staged;
pub use traffic::Sent;
pub use transfer::{Advance, Pending, Progress, Transfer, Transfers};
pub use wire::{NAP, Request, Wire};
