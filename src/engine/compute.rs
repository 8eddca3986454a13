//! What an engine asks of others: arithmetic and data.

use crate::device::{Device, DeviceError, Memory};
use crate::nn::Network;
use crate::plan::Action;

/// Runs the actions of a plan that neither load nor communicate. Two threads may call it at the same time, on regions
/// that do not overlap.
pub trait Compute: Send + Sync {
    /// Runs one action on a rank's memory.
    fn run(&self, action: &Action, memory: &Memory);

    /// Waits until all actions so far are complete: a GPU computes while its host goes on.
    ///
    /// # Errors
    /// If the device has failed.
    fn finish(&self) -> Result<(), DeviceError>;
}

impl<D: Device> Compute for Network<D> {
    fn run(&self, action: &Action, memory: &Memory) {
        self.device().together(&mut || Network::run(self, action, memory));
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.device().finish()
    }
}

/// Where micro-batches come from.
pub trait Source {
    /// Writes inputs and targets of a micro-batch of this iteration, `[2, micro, seq]`.
    fn load(&self, micro: usize, tokens: &mut [i32]);
}
