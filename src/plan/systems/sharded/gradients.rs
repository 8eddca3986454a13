//! Sums of gradients: in place, over the set, across sets.

use std::ops::Range;

use crate::model::{Dtype, ShardId};
use crate::plan::build::{Elastic, List};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, Job, Payload, Region, Segment};

use super::super::steps::{Pass, Step};
use super::rank::Writer;
use super::{Channel, GradSync};

/// A rank's memory for gradients, beside the accumulators of its pieces.
pub struct Gradients {
    /// Whole accumulators, where gradients add up whole.
    sums: Vec<Region>,
    /// Where backward leaves a round's gradient: one is filled while the other is on its channel.
    fresh: [Elastic; 2],
    /// The same for a shard whose gradient comes in two parts.
    tied: Elastic,
    /// Round gradients in the type they travel in, if that is not f32.
    wire: [Elastic; 2],
    /// Sums of an iteration in the type they travel in.
    sum_wire: Elastic,
    /// Partial sums over the set and across sets.
    scratch: [Elastic; 2],
    /// Round gradients that have left.
    sent: usize,
    /// Shards whose accumulator has been written in this iteration.
    begun: Vec<bool>,
}

impl Gradients {
    /// `sums` are the whole accumulators.
    pub fn new(job: &Job, sums: Vec<Region>) -> Self {
        let new = |name: &str, dtype| Elastic::new(name.into(), dtype, Segment::Gradient);
        let wire = job.grad_dtype;
        Gradients {
            sums,
            fresh: [new("gradient 0", Dtype::F32), new("gradient 1", Dtype::F32)],
            tied: new("tied gradient", Dtype::F32),
            wire: [new("wire 0", wire), new("wire 1", wire)],
            sum_wire: new("sum wire", wire),
            scratch: [new("reduce scratch", wire), new("across scratch", wire)],
            sent: 0,
            begun: Vec::new(),
        }
    }

    /// Whether an accumulator is written for the first time.
    fn first(&mut self, shard: ShardId) -> bool {
        self.begun.resize(self.begun.len().max(shard + 1), false);
        !std::mem::replace(&mut self.begun[shard], true)
    }
}

impl Writer<'_> {
    /// Where a step leaves its shard's gradient, and whether it adds to what is there.
    pub fn gradient(&mut self, step: Step) -> (Region, bool) {
        let shard = step.shard;
        if self.recipe.whole {
            return (self.gradients.sums[shard], !self.gradients.first(shard));
        }
        (self.fresh(shard), self.shared(shard) && step.pass == Pass::EmbedBackward)
    }

    /// The slot of a round's gradient of a shard.
    fn fresh(&mut self, shard: ShardId) -> Region {
        let len = self.shards.elems(shard);
        let shared = self.shared(shard);
        let Gradients { tied, fresh, sent, .. } = &mut self.gradients;
        if shared { tied.take(self.slots, len) } else { fresh[*sent % 2].take(self.slots, len) }
    }

    /// A shard's gradient of a round is complete: sums it over ranks if it is time. `computed` tells whether this rank
    /// has one, `active` whether any of its set has.
    pub fn collect(&mut self, list: &mut List, shard: ShardId, computed: bool, active: bool, last: bool) {
        if self.recipe.whole {
            if last {
                self.sum_whole(list, shard);
            }
            return;
        }
        self.sum_round(list, shard, computed, active);
        if let (true, Some(GradSync::Iteration), Some(owned)) = (last, self.recipe.across, self.local.own(shard)) {
            let (accumulator, range) = (owned.accumulator, owned.range.clone());
            if self.gradients.first(shard) {
                list.push(self.lane(Channel::Across), Action::Clear { dst: accumulator });
            }
            self.sum(list, Channel::Across, Collective::AllReduce, shard, accumulator, range.clone(), 0..range.len());
        }
    }

    /// The iteration's whole gradient: everyone's sum, or everyone's piece of it.
    fn sum_whole(&mut self, list: &mut List, shard: ShardId) {
        let sum = self.gradients.sums[shard];
        if self.gradients.first(shard) {
            list.push(self.lane(Channel::Reduce), Action::Clear { dst: sum });
        }
        let own = self.local.own(shard).map_or(0..0, |owned| owned.range.clone());
        let what = if self.recipe.pieces { Collective::ReduceScatter } else { Collective::AllReduce };
        self.sum(list, Channel::Reduce, what, shard, sum, 0..sum.len, own.clone());
        if self.recipe.across.is_some() {
            self.sum(
                list,
                Channel::Across,
                Collective::AllReduce,
                shard,
                sum.sub(own.clone()),
                own.clone(),
                0..own.len(),
            );
        }
    }

    /// One round's gradient: the piece of its sum is added to the accumulator.
    fn sum_round(&mut self, list: &mut List, shard: ShardId, computed: bool, active: bool) {
        let crosses = self.recipe.across == Some(GradSync::Round);
        if !active && !crosses {
            return;
        }
        let len = self.shards.elems(shard);
        let own = self.local.own(shard).map_or(0..0, |owned| owned.range.clone());
        let (several, reduce) = (self.inside.len() > 1, self.lane(Channel::Reduce));
        let mut region = self.fresh(shard);
        let turn = self.gradients.sent % 2;
        if self.job.grad_dtype != Dtype::F32 && (several || crosses) {
            let src = std::mem::replace(&mut region, self.gradients.wire[turn].take(self.slots, len));
            if computed {
                list.push(reduce, Action::Cast { src, dst: region });
            }
        }
        self.gradients.sent += 1;
        if !computed {
            let all = if active { 0..len } else { own.clone() };
            if !all.is_empty() {
                list.push(reduce, Action::Clear { dst: region.sub(all) });
            }
        }
        if active {
            self.call(list, Channel::Reduce, Collective::ReduceScatter, shard, region, 0..len);
        }
        if own.is_empty() {
            return;
        }
        let src = region.sub(own.clone());
        let mut lane = reduce;
        if crosses {
            self.call(list, Channel::Across, Collective::AllReduce, shard, src, own);
            lane = self.lane(Channel::Across);
        }
        let dst = self.local.own(shard).expect("it has a piece").accumulator;
        let first = self.gradients.first(shard);
        list.push(lane, if first { Action::Cast { src, dst } } else { Action::Accumulate { src, dst } });
    }

    /// Sums f32 elements `range` of a shard's gradient, in the type in which gradients travel; the elements `keep` of
    /// the result are wanted.
    #[allow(clippy::too_many_arguments, reason = "what a collective is")]
    fn sum(
        &mut self,
        list: &mut List,
        channel: Channel,
        what: Collective,
        shard: ShardId,
        region: Region,
        range: Range<usize>,
        keep: Range<usize>,
    ) {
        if self.members(channel) == 1 || range.is_empty() {
            return;
        }
        if self.job.grad_dtype == Dtype::F32 {
            return self.call(list, channel, what, shard, region, range);
        }
        let wire = self.gradients.sum_wire.take(self.slots, region.len);
        list.push(self.lane(channel), Action::Cast { src: region, dst: wire });
        self.call(list, channel, what, shard, wire, range);
        if !keep.is_empty() {
            list.push(self.lane(channel), Action::Cast { src: wire.sub(keep.clone()), dst: region.sub(keep) });
        }
    }

    /// One collective over elements `range` of a shard's gradient; none among one.
    fn call(
        &mut self,
        list: &mut List,
        channel: Channel,
        what: Collective,
        shard: ShardId,
        region: Region,
        range: Range<usize>,
    ) {
        let members = self.members(channel);
        if members == 1 {
            return;
        }
        let algorithm = Algorithm::Ring;
        let partial = scratch(what, algorithm, region.len, members);
        let place = usize::from(matches!(channel, Channel::Across));
        let call = Call {
            comm: channel.comm(),
            what,
            algorithm,
            region,
            scratch: partial.map(|len| self.gradients.scratch[place].take(self.slots, len)),
            payload: Payload::Gradient(shard, range),
        };
        list.push(self.lane(channel), Action::Collective(call));
    }

    /// Ranks that sum together.
    fn members(&self, channel: Channel) -> usize {
        match channel {
            Channel::Across => self.across.len(),
            _ => self.inside.len(),
        }
    }
}
