//! Where the ops of a rank's lanes are done: at once, or by queues that work on their own.

use crate::device::DeviceError;
use crate::plan::{Lane, OpId};

/// What does a rank's ops. An op is put on its lane once it may start, or behind the ops that it waits for.
pub trait Lanes: Send + Sync {
    /// Begins a pass: every lane is at rest. Times count from the return.
    ///
    /// # Errors
    /// If the device fails, also earlier and unnoticed; so for all functions here.
    fn begin(&self) -> Result<(), DeviceError>;

    /// Sees that an op is done behind everything on its lane: `work` asks the device for its operations.
    fn put(&self, lane: Lane, op: OpId, work: &mut dyn FnMut()) -> Result<(), DeviceError>;

    /// Whether an op that was put in this pass is complete.
    fn is_complete(&self, op: OpId) -> Result<bool, DeviceError>;

    /// Start and end of a complete op in seconds from the beginning of the pass, by the device's own clock; `None` if that
    /// is the host's.
    fn times(&self, op: OpId) -> Result<Option<[f64; 2]>, DeviceError>;
}

/// A processor: an op is complete when its operations return.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtOnce;

impl Lanes for AtOnce {
    fn begin(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn put(&self, _: Lane, _: OpId, work: &mut dyn FnMut()) -> Result<(), DeviceError> {
        work();
        Ok(())
    }

    fn is_complete(&self, _: OpId) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn times(&self, _: OpId) -> Result<Option<[f64; 2]>, DeviceError> {
        Ok(None)
    }
}
