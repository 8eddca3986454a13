//! Experiments: a matrix of systems, ranks, models and links, measured or simulated cell by cell.

mod predict;

pub use predict::{Forecast, Unfit, predict};
