//! Shards that live on every rank: their gradients are summed over all ranks once an iteration.

use crate::model::{Dtype, ShardId};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, CommId, Job, Lane, Payload, Segment};

use super::local::Local;

/// A rank's replicated shards, and the lane that sums their gradients.
#[derive(Debug)]
pub struct Replicated {
    /// Which shards.
    pub shards: Vec<ShardId>,
    lane: Lane,
    comm: CommId,
    ranks: usize,
    /// The gradient in the type it travels in, if that is not f32.
    wire: Option<Elastic>,
    scratch: Elastic,
}

impl Replicated {
    /// Sums on a lane of its own, over a communicator of all ranks.
    pub fn new(job: &Job, shards: Vec<ShardId>, lane: Lane, comm: CommId) -> Self {
        let add = |name: &str| Elastic::new(name.into(), job.grad_dtype, Segment::Gradient);
        let wire = (job.grad_dtype != Dtype::F32).then(|| add("all-reduce wire"));
        Replicated { shards, lane, comm, ranks: job.groups.ranks(), wire, scratch: add("all-reduce scratch") }
    }

    /// Zeros, for a rank that has no micro-batch to compute a gradient from.
    pub fn clear(&self, list: &mut List, local: &Local) {
        for owned in local.owned.iter().filter(|owned| self.shards.contains(&owned.shard)) {
            list.push(Lane::Compute, Action::Clear { dst: owned.accumulator });
        }
    }

    /// Sums a shard's gradient: every rank ends with the same bits and makes the same update.
    pub fn sum(&mut self, list: &mut List, slots: &mut Slots, local: &Local, shard: ShardId) {
        if self.ranks == 1 {
            return;
        }
        let accumulator = local.own(shard).expect("a replicated shard lives everywhere").accumulator;
        let wire = self.wire.as_mut().map(|wire| wire.take(slots, accumulator.len));
        let region = wire.unwrap_or(accumulator);
        if wire.is_some() {
            list.push(self.lane, Action::Cast { src: accumulator, dst: region });
        }
        let (what, algorithm) = (Collective::AllReduce, Algorithm::Ring);
        let partial = scratch(what, algorithm, region.len, self.ranks);
        let call = Call {
            comm: self.comm,
            what,
            algorithm,
            region,
            scratch: partial.map(|len| self.scratch.take(slots, len)),
            payload: Payload::Gradient(shard, 0..region.len),
        };
        list.push(self.lane, Action::Collective(call));
        if wire.is_some() {
            list.push(self.lane, Action::Cast { src: region, dst: accumulator });
        }
    }
}
