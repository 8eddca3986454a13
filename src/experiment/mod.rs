//! Experiments: a matrix of systems, ranks, models and links, measured or simulated cell by cell.
//!
//! [`Experiment::read`] reads a file of `inputs/experiments/`; [`Experiment::cells`] multiplies its lists out into
//! [`crate::results::Cell`]s; [`run()`] measures those that have no result file yet. A cell that fails is kept with its
//! reason, and the next one goes on. [`predict()`] says what the simulator expects of a job.

mod agreement;
mod child;
mod counted;
mod error;
mod file;
mod here;
mod launch;
mod like;
mod matrix;
mod predict;
mod provenance;
mod run;
mod simulated;
mod virtual_cluster;

pub use error::ExperimentError;
pub use file::{Axes, Experiment, Keys, Like, Where};
pub use matrix::Planned;
pub use predict::{Forecast, predict};
pub use run::{Options, Progress, run};
