//! How ranks talk: messages while a plan runs, and small agreements outside it.

mod control;
mod error;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
mod process;
mod sum;
mod traffic;
mod transfer;
mod wire;

pub use control::{Control, Solo};
pub use error::FabricError;
pub use process::{abort, refuse_singletons, sleep_precisely, warn_about_cores};
pub use traffic::Sent;
pub use transfer::{Advance, Pending, Progress, Transfer, Transfers};
pub use wire::{NAP, Request, Wire};
