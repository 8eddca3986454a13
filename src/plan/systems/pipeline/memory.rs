//! Memory that is used again and again: slots of equal size, as many as are in use at one time.

use std::collections::VecDeque;

use crate::model::Dtype;
use crate::plan::build::Slots;
use crate::plan::{Region, Segment};

/// Slots of equal size.
#[derive(Debug)]
pub struct Pool {
    name: &'static str,
    elems: usize,
    dtype: Dtype,
    segment: Segment,
    made: usize,
    free: VecDeque<Region>,
}

impl Pool {
    /// Without slots at first. See [`crate::plan::Slot`] for the arguments.
    pub fn new(name: &'static str, elems: usize, dtype: Dtype, segment: Segment) -> Self {
        Pool { name, elems, dtype, segment, made: 0, free: VecDeque::new() }
    }

    /// A slot that nobody uses: the one that has been free for the longest time, because ops of the last one's user may
    /// still be under way, or a new one if there is none.
    pub fn take(&mut self, slots: &mut Slots) -> Region {
        self.free.pop_front().unwrap_or_else(|| {
            self.made += 1;
            slots.add(format!("{} {}", self.name, self.made - 1), self.elems, self.dtype, self.segment)
        })
    }

    /// Gives a slot back. Ops that take it later wait for those that use it now.
    pub fn give(&mut self, region: Region) {
        self.free.push_back(region);
    }
}
