//! A rank's buffers for gradients that leave it and that come to it, and the reduction inside its group.

use std::ops::Range;

use crate::model::{Dtype, ShardId};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Job, Payload, Region, Segment};

use super::channel::Channel;

/// Two of each kind: one is filled while the other is under way.
pub struct GradientBuffers {
    /// Type in which gradients are sent.
    dtype: Dtype,
    /// Where the backward pass leaves a gradient, in f32.
    computed: [Elastic; 2],
    /// The same in the type in which it is sent, if that is not f32.
    wire: [Elastic; 2],
    /// Gradients that come from other groups.
    arrival: [Elastic; 2],
    /// Partial sums of a reduction.
    partial: Elastic,
    /// Gradients so far that left this rank, and that came from other groups.
    sent: usize,
    arrived: usize,
}

/// How a group sums a gradient.
pub struct Reduction {
    /// What comes out, and how.
    pub how: (Collective, Algorithm),
    /// Ranks of the group.
    pub size: usize,
    /// Whether the sum leaves the group, in the type in which gradients are sent.
    pub leaves: bool,
    /// Whether this rank has computed a gradient. If not, because it has no micro-batch in the round, it contributes zeros.
    pub computed: bool,
}

impl GradientBuffers {
    pub fn new(job: &Job) -> Self {
        let one = |name: &str, dtype| Elastic::new(name.into(), dtype, Segment::Gradient);
        let two = |name: &str, dtype| [0, 1].map(|i| one(&format!("{name} {i}"), dtype));
        let dtype = job.grad_dtype;
        GradientBuffers {
            dtype,
            computed: two("gradient", Dtype::F32),
            wire: two("wire", dtype),
            arrival: two("arrival", dtype),
            partial: one("reduce scratch", dtype),
            sent: 0,
            arrived: 0,
        }
    }

    /// Where the next gradient that leaves is computed.
    pub fn outgoing(&mut self, slots: &mut Slots, len: usize) -> Region {
        self.computed[self.sent % 2].take(slots, len)
    }

    /// Where the next gradient from another group arrives.
    pub fn incoming(&mut self, slots: &mut Slots, len: usize) -> Region {
        self.arrived += 1;
        self.arrival[(self.arrived - 1) % 2].take(slots, len)
    }

    /// Sums the gradient that leaves next, that of a range of a shard, over the group, and returns the region of the sum, on
    /// ranks that get (a part of) it.
    pub fn reduce(
        &mut self,
        list: &mut List,
        slots: &mut Slots,
        Reduction { how, size, leaves, computed }: Reduction,
        shard: ShardId,
        range: Range<usize>,
    ) -> Region {
        let len = range.len();
        let lane = Channel::Reduce.lane();
        let mut region = self.outgoing(slots, len);
        if (size > 1 || leaves) && self.dtype != Dtype::F32 {
            let src = std::mem::replace(&mut region, self.wire[self.sent % 2].take(slots, len));
            if computed {
                list.push(lane, Action::Cast { src, dst: region });
            }
        }
        if !computed {
            list.push(lane, Action::Clear { dst: region });
        }
        if size > 1 {
            let partial = scratch(how.0, how.1, len, size).map(|len| self.partial.take(slots, len));
            Channel::Reduce.collective(list, how, region, partial, Payload::Gradient(shard, range), &[]);
        }
        self.sent += 1;
        region
    }
}
