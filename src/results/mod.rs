//! What experiments leave: one JSON file a cell, written by `experiment`, read by `report`.
//!
//! A file is a [`Record`]: the [`Cell`] that was asked for, what became of it, what the plan counts and the simulator
//! predicts, and where, when and by what it was measured. Raw numbers are kept; medians are derived.

mod cell;
mod file;
mod record;

pub use cell::{Cell, Link, Place, Program};
pub use file::{ResultError, read, read_folder, read_lines, write, write_lines};
pub use record::{
    Counted, FORMAT, Machine, Measured, Outcome, Prediction, Provenance, Record, Round, Step, Wire, median,
};
