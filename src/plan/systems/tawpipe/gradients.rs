//! How gradients come to their owner: reduced inside each group onto its staging rank, and from there to the owner by a hop.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::{Dtype, ShardId};
use crate::plan::build::Elastic;
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Payload, Region, Segment};

use super::super::GradSync;
use super::buffers::{GradientBuffers, Reduction};
use super::channel::{Channel, Exchange};
use super::options::Hops;
use super::rank::{Draft, Place};
use super::timetable::Timetable;

/// Where (a part of) a shard's gradient is on this rank.
struct Sum {
    shard: ShardId,
    range: Range<usize>,
    region: Region,
}

impl Sum {
    /// The part of it that lies in a range of the shard.
    fn within(&self, range: &Range<usize>) -> Sum {
        let range = range.start.max(self.range.start)..range.end.min(self.range.end);
        let region = self.region.sub(range.start - self.range.start..range.end - self.range.start);
        Sum { shard: self.shard, range, region }
    }
}

/// Gradients on this rank, and its part in taking them to the owners of their shards.
pub struct Gradients<'a> {
    at: Place<'a>,
    buffers: GradientBuffers,
    /// Partial sums of reductions between groups.
    hop_scratch: Elastic,
    /// Its group's gradients of (parts of) other groups' shards, accumulated on this rank over the iteration.
    sums: BTreeMap<ShardId, Region>,
    /// Such a sum in the type in which it is sent, if that is not f32.
    sum_wire: Elastic,
    /// Shards whose sum on this rank has been written in this iteration.
    started: Vec<bool>,
}

impl<'a> Gradients<'a> {
    pub fn new(at: Place<'a>) -> Self {
        let one = |name: &str| Elastic::new(name.into(), at.job.grad_dtype, Segment::Gradient);
        Gradients {
            at,
            buffers: GradientBuffers::new(at.job),
            hop_scratch: one("hop scratch"),
            sums: BTreeMap::new(),
            sum_wire: one("sum wire"),
            started: vec![false; at.shards.shards.len()],
        }
    }

    /// Where the next gradient that is sent is computed.
    pub fn outgoing(&mut self, draft: &mut Draft, len: usize) -> Region {
        self.buffers.outgoing(draft.slots, len)
    }

    /// Whether a replicated shard's sum has been written in this iteration, so that more is added to it.
    pub fn started(&self, shard: ShardId) -> bool {
        self.started[shard]
    }

    /// A replicated shard's sum is written.
    pub fn start(&mut self, shard: ShardId) {
        self.started[shard] = true;
    }

    /// This rank's part in all transfers of gradients of a time: the reduction in its group, and hops to any owner.
    pub fn take_home(&mut self, draft: &mut Draft, timetable: &Timetable, time: usize) {
        let Place { options, storage, rank, group, .. } = self.at;
        let mut staged = None;
        if let Some((shard, range)) = timetable.gradient(group, time) {
            let computed = timetable.step(group, time).is_some_and(|step| self.at.micro(step.round).is_some());
            let sum = self.reduce(draft, shard, range, computed);
            if let Some(part) = storage.part(rank, shard) {
                let sum = sum.within(&part);
                if self.accumulates(shard) {
                    self.accumulate(draft, Channel::Reduce, &sum);
                }
                if options.hop == Hops::Collective && timetable.hops_home(group, time) {
                    self.hop_together(draft, &sum);
                }
                staged = Some(sum);
            }
        }
        if options.hop == Hops::Direct {
            self.hop_directly(draft, timetable, time, staged.as_ref());
        }
    }

    /// Whether this rank adds its group's gradient of a round to the sum that it keeps; else those of all groups come to the
    /// owner together.
    fn accumulates(&self, shard: ShardId) -> bool {
        match (self.at.options.grad_sync, self.at.options.hop) {
            (GradSync::Iteration, _) => true,
            (GradSync::Round, Hops::Direct) => self.at.storage.owner_group(shard) == Some(self.at.group),
            (GradSync::Round, Hops::Collective) => self.at.groups().count() == 1,
        }
    }

    /// Sums the present gradient over the group onto the owner or the staging rank, and returns where it is (on that rank).
    fn reduce(&mut self, draft: &mut Draft, shard: ShardId, range: Range<usize>, computed: bool) -> Sum {
        let Place { options, storage, group, .. } = self.at;
        let foreign = match options.hop {
            Hops::Direct => storage.owner_group(shard) != Some(group),
            Hops::Collective => self.at.groups().count() > 1,
        };
        let how = match options.stripe {
            true => (Collective::ReduceScatter, Algorithm::Ring),
            false => (Collective::Reduce(storage.staging_rank(group, shard)), Algorithm::Chain),
        };
        let leaves = foreign && options.grad_sync == GradSync::Round;
        let reduction = Reduction { how, size: self.at.size(), leaves, computed };
        let region = self.buffers.reduce(&mut draft.list, draft.slots, reduction, shard, range.clone());
        Sum { shard, range, region }
    }

    /// Messages from staging ranks to owners, who add them up.
    fn hop_directly(&mut self, draft: &mut Draft, timetable: &Timetable, time: usize, staged: Option<&Sum>) {
        let rank = self.at.rank;
        for wave in timetable.gradient_hops(time) {
            let mut exchange = Exchange::default();
            let mut arrived = None;
            for hop in wave {
                let Payload::Gradient(shard, range) = hop.payload.clone() else { unreachable!("gradients hop back") };
                if hop.to == rank {
                    let region = self.buffers.incoming(draft.slots, range.len());
                    arrived = Some(Sum { shard, range, region });
                    exchange.add(rank, hop, || region);
                } else if hop.from == rank {
                    let region = match self.at.options.grad_sync {
                        GradSync::Round => staged.expect("a staging rank has its group's sum").region,
                        GradSync::Iteration => self.whole_sum(draft, shard),
                    };
                    exchange.add(rank, hop, || region);
                }
            }
            Channel::GradientHop.exchange(&mut draft.list, exchange, &[]);
            if let Some(sum) = arrived {
                self.accumulate(draft, Channel::GradientHop, &sum);
            }
        }
    }

    /// One reduction over the owner and all staging ranks of a shard, onto the owner: a chain of chunks. With
    /// `grad_sync = "iteration"` it sums what they have accumulated, else their `staged` gradients.
    fn hop_together(&mut self, draft: &mut Draft, staged: &Sum) {
        let Place { job, options, storage, rank, .. } = self.at;
        let (shard, channel) = (staged.shard, Channel::GradientHop);
        let owner = storage.owner(rank, shard).expect("who has a sum owns or stages a part");
        let (owns, once) = (owner == rank, options.grad_sync == GradSync::Iteration);
        // In f32 the owner's sum of the iteration is where the reduction ends.
        let in_place = once && job.grad_dtype == Dtype::F32;
        let whole = storage.part(rank, shard).expect("an owner or a staging rank");
        let (region, range) = if !once {
            (staged.region, staged.range.clone())
        } else if owns && !in_place {
            // The owner's own sum stays in f32; zeros take its place.
            let region = self.sum_wire.take(draft.slots, whole.len());
            draft.list.push(channel.lane(), Action::Clear { dst: region });
            (region, whole)
        } else {
            (self.whole_sum(draft, shard), whole)
        };
        let (what, algorithm) = (Collective::Reduce(owner), Algorithm::Chain);
        let partial = scratch(what, algorithm, region.len, self.at.groups().count());
        let partial = partial.map(|len| self.hop_scratch.take(draft.slots, len));
        let payload = Payload::Gradient(shard, range.clone());
        channel.collective(&mut draft.list, (what, algorithm), region, partial, payload, &[]);
        if owns && !in_place {
            self.accumulate(draft, channel, &Sum { shard, range, region });
        }
    }

    /// Adds a gradient to the sum that this rank keeps; the iteration's first one replaces what is there.
    fn accumulate(&mut self, draft: &mut Draft, channel: Channel, Sum { shard, range, region }: &Sum) {
        let part = self.at.storage.part(self.at.rank, *shard).expect("an owner or a staging rank");
        let sum = self.kept(draft, *shard);
        let dst = sum.sub(range.start - part.start..range.end - part.start);
        let first = !std::mem::replace(&mut self.started[*shard], true);
        assert!(!first || dst == sum, "the first gradient of shard {shard} must cover it");
        channel.accumulate(&mut draft.list, *region, dst, first);
    }

    /// Where this rank sums up the gradient of what it owns or stages: the owner's accumulator, or its group's sum.
    fn kept(&mut self, draft: &mut Draft, shard: ShardId) -> Region {
        if let Some(owned) = self.at.local.own(shard) {
            return owned.accumulator;
        }
        let len = self.at.storage.part(self.at.rank, shard).expect("an owner or a staging rank").len();
        let add = || draft.slots.add(format!("shard {shard} sum"), len, Dtype::F32, Segment::GradientSum);
        *self.sums.entry(shard).or_insert_with(add)
    }

    /// The group's sum over the iteration, in the type in which it is sent.
    fn whole_sum(&mut self, draft: &mut Draft, shard: ShardId) -> Region {
        let src = self.kept(draft, shard);
        if self.at.job.grad_dtype == Dtype::F32 {
            return src;
        }
        let dst = self.sum_wire.take(draft.slots, src.len);
        draft.list.push(Channel::GradientHop.lane(), Action::Cast { src, dst });
        dst
    }
}
