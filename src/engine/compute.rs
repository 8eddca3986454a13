//! What an engine asks of others: arithmetic and data.

use crate::device::{Device, Memory, View};
use crate::nn::Network;
use crate::plan::Action;

/// Runs the actions of a plan that neither load nor communicate. Two threads may call it at the same time, on regions
/// that do not overlap.
pub trait Compute: Send + Sync {
    /// Runs one action on a rank's memory.
    fn run(&self, action: &Action, memory: &Memory);
}

impl<D: Device> Compute for Network<D> {
    fn run(&self, action: &Action, memory: &Memory) {
        Network::run(self, action, memory);
    }
}

/// Where micro-batches come from.
pub trait Source {
    /// Writes inputs and targets of a micro-batch of this iteration, `[2, micro, seq]` (i32).
    fn load(&self, micro: usize, tokens: View);
}
