//! A GPU's streams, one a lane, and an event at the start and the end of each op.

use std::sync::Arc;

use crate::device::DeviceError;
use crate::device::cuda::{Cuda, Event, Priority, Stream, on};
use crate::plan::{Lane, OpId};

use super::Lanes;

/// The streams of a rank's lanes. Computation goes to the GPU's own stream; communication lanes have streams of a higher
/// priority, because their few blocks would otherwise queue behind those of matrix products.
///
/// All events exist from the start: nothing is allocated in a pass. Every op has two, although other lanes wait for few ops:
/// a pair costs some microseconds of the host's time beside dozens of launches, and in return every pass knows how long
/// computation waited and which op does not end.
pub struct Queues {
    lanes: Vec<Arc<Stream>>,
    begin: Event,
    /// Start and end of each op.
    ops: Vec<[Event; 2]>,
}

impl Queues {
    /// For lists of at most `ops` ops.
    ///
    /// # Errors
    /// If the GPU refuses.
    pub fn new(gpu: &Cuda, comm_lanes: usize, ops: usize) -> Result<Self, DeviceError> {
        let context = gpu.context();
        let comm = (0..comm_lanes).map(|_| Stream::new(context, Priority::High).map(Arc::new));
        let lanes = std::iter::once(Ok(gpu.stream().clone())).chain(comm).collect::<Result<_, _>>()?;
        let event = || Event::new(context, true);
        let ops = (0..ops).map(|_| Ok([event()?, event()?])).collect::<Result<_, DeviceError>>()?;
        Ok(Queues { lanes, begin: event()?, ops })
    }

    /// A lane's stream.
    pub fn stream(&self, lane: Lane) -> &Arc<Stream> {
        &self.lanes[lane.index()]
    }

    /// Makes a lane wait for an op that was put on another.
    pub fn follow(&self, lane: Lane, op: OpId) -> Result<(), DeviceError> {
        self.stream(lane).wait(&self.ops[op][1])
    }
}

impl Lanes for Queues {
    fn begin(&self) -> Result<(), DeviceError> {
        // The GPU is at rest, so this takes microseconds, and then host and GPU count from the same moment.
        self.lanes[0].record(&self.begin)?;
        while !self.begin.is_complete()? {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn put(&self, lane: Lane, op: OpId, work: &mut dyn FnMut()) -> Result<(), DeviceError> {
        let (stream, [start, end]) = (self.stream(lane), &self.ops[op]);
        stream.record(start)?;
        on(stream, work);
        stream.record(end)
    }

    fn is_complete(&self, op: OpId) -> Result<bool, DeviceError> {
        self.ops[op][1].is_complete()
    }

    fn times(&self, op: OpId) -> Result<Option<[f64; 2]>, DeviceError> {
        let [start, end] = &self.ops[op];
        // A lane that waits for nothing may start before the beginning has been recorded on another.
        let [start, end] = [start.seconds_since(&self.begin)?, end.seconds_since(&self.begin)?];
        Ok(Some([start.max(0.0), end.max(0.0)]))
    }
}
