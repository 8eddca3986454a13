//! Tokens on their way to the GPU.

use std::sync::{Arc, Mutex};

use super::driver::{Context, Pinned};
use super::stream::{Event, Stream};
use crate::device::{DeviceError, View};
use crate::model::Dtype;

/// Pinned host buffers, used in turn. There is one for each load of the longest list of a plan, so that within a pass no
/// buffer is used twice and the host never waits: token ids are small. A pass after that finds the copies of the one before
/// complete.
#[derive(Debug)]
pub struct Feeder {
    pinned: Pinned,
    /// Elements of a buffer.
    elems: usize,
    /// For each buffer, when the copy from it is complete.
    copied: Vec<Event>,
    /// The buffer that is next.
    next: Mutex<usize>,
}

impl Feeder {
    /// `count` buffers of `elems` elements (i32), at least one.
    pub fn new(context: &Arc<Context>, count: usize, elems: usize) -> Result<Self, DeviceError> {
        let count = count.max(1);
        let copied = (0..count).map(|_| Event::new(context, false)).collect::<Result<_, _>>()?;
        Ok(Feeder { pinned: Pinned::new(context, count * elems * 4)?, elems, copied, next: Mutex::new(0) })
    }

    /// Fills a buffer and enqueues its copy to `view`.
    ///
    /// # Panics
    /// If the view is longer than a buffer.
    pub fn feed(&self, stream: &Stream, view: View, fill: impl FnOnce(&mut [i32])) -> Result<(), DeviceError> {
        assert!(view.len() <= self.elems, "{} elements in buffers of {}", view.len(), self.elems);
        let mut next = self.next.lock().expect("nobody panics with the buffers");
        let (index, event) = (*next, &self.copied[*next]);
        *next = (index + 1) % self.copied.len();
        if !event.is_complete()? {
            event.synchronize()?;
        }
        let buffer = self.pinned.view(index * self.elems * 4, view.len(), Dtype::I32);
        // SAFETY: host memory of this type, whose last copy is complete; the lock keeps other threads off it.
        fill(unsafe { buffer.slice_mut() });
        stream.copy_view(buffer, view)?;
        stream.record(event)
    }
}
