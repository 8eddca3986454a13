//! Training as a whole: parity with PyTorch, the same losses in every world, determinism, resuming.
//!
//! Ranks are threads here (`fabric::local`), so that many worlds of many shapes run in one process; `tests/spmd` shows
//! that MPI's messages do the same.

mod continuing;
mod guard;
mod journal;
mod parity;
mod pipeline;
mod resume;
mod systems;
mod weipipe;
mod world;
mod worlds;
