//! The GPU's kernels, run by the emulator of kernels/emu, against the CPU device.

#![cfg(feature = "cuda")]

#[path = "../compute/support.rs"]
mod support;

mod attention;
mod emulator;
mod ops;
mod races;
mod units;
