//! The GPU's kernels, run by the emulator of kernels/emu, against the CPU device; and the driver that it
//! poses as. With TAWPIPE_TEST_GPU=1 the same tests run on a GPU.

#![cfg(feature = "cuda")]

#[path = "../compute/support.rs"]
mod support;

mod attention;
mod built;
mod driver;
mod emulator;
mod gpu;
mod ops;
mod races;
mod units;
