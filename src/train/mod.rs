//! The training loop.

mod schedule;

pub use schedule::learning_rate;
