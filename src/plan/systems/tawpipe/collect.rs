//! How gradients come to the owners: summed inside the group onto those who hold the shard there, and by a hop home.

use std::ops::Range;

use crate::model::{Dtype, ShardId};
use crate::plan::build::List;
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, Payload, Region, Segment};

use super::super::GradSync;
use super::Way;
use super::course::Course;
use super::options::Hops;
use super::rank::{Exchange, Writer};

/// (A part of) a shard's gradient that is somewhere.
struct Found {
    shard: ShardId,
    range: Range<usize>,
    region: Region,
}

impl Found {
    /// Where a part of it is.
    fn part(&self, range: &Range<usize>) -> Region {
        self.region.sub(range.start - self.range.start..range.end - self.range.start)
    }
}

impl Writer<'_> {
    /// Brings the gradients of this tick to the owners of their shards.
    pub fn collect(&mut self, list: &mut List, course: &Course, tick: usize) {
        let mut sum = None;
        if let Some((shard, range)) = course.gradient(self.group, tick) {
            let computed = course.visit(self.group, tick).is_some_and(|visit| self.micro(visit.round).is_some());
            let found = self.reduce(list, shard, range, computed);
            if let Some(part) = self.holders.part(self.rank, shard) {
                let part = part.start.max(found.range.start)..part.end.min(found.range.end);
                let found = Found { shard, region: found.part(&part), range: part };
                if self.adds_here(shard) {
                    self.contribute(list, Way::Reduce, &found);
                }
                if self.options.hop == Hops::Collective && course.goes_over(self.group, tick) {
                    self.reduce_home(list, &found);
                }
                sum = Some(found);
            }
            self.sent += 1;
        }
        if self.options.hop == Hops::Direct {
            self.exchange_gradients(list, course, tick, sum.as_ref());
        }
    }

    /// Whether this rank adds its group's gradient of a round to the sum that it keeps; else all groups' come home together.
    fn adds_here(&self, shard: ShardId) -> bool {
        match (self.options.grad_sync, self.options.hop) {
            (GradSync::Iteration, _) => true,
            (GradSync::Round, Hops::Direct) => self.holders.home(shard) == Some(self.group),
            (GradSync::Round, Hops::Collective) => self.groups.count() == 1,
        }
    }

    /// Sums a gradient (with `grad_sync = "iteration"` the iteration's) onto its owner, over those who hold the same part
    /// in their groups: a chain of chunks.
    fn reduce_home(&mut self, list: &mut List, found: &Found) {
        let (shard, way) = (found.shard, Way::GradientHop);
        let owner = self.holders.owner(self.rank, shard).expect("who has a sum holds a part");
        let (owns, once) = (owner == self.rank, self.options.grad_sync == GradSync::Iteration);
        // In f32 the owner's sum of the iteration is where the reduction ends.
        let in_place = once && self.job.grad_dtype == Dtype::F32;
        let whole = self.holders.part(self.rank, shard).expect("a holder");
        let (region, range) = if !once {
            (found.region, found.range.clone())
        } else if owns && !in_place {
            // The owner's own sum stays in f32; zeros take its place.
            let region = self.sum_wire.take(self.slots, whole.len());
            list.push(way.lane(), Action::Clear { dst: region });
            (region, whole)
        } else {
            (self.whole_sum(list, shard), whole)
        };
        let (what, algorithm) = (Collective::Reduce(owner), Algorithm::Chain);
        let needed = scratch(what, algorithm, region.len, self.groups.count());
        let call = Call {
            comm: way.comm(),
            what,
            algorithm,
            region,
            scratch: needed.map(|len| self.hop_scratch.take(self.slots, len)),
            payload: Payload::Gradient(shard, range.clone()),
        };
        list.push(way.lane(), Action::Collective(call));
        if owns && !in_place {
            self.contribute(list, way, &Found { shard, range, region });
        }
    }

    /// Messages from those who hold a gradient's parts to the owners, who add them up.
    fn exchange_gradients(&mut self, list: &mut List, course: &Course, tick: usize, sum: Option<&Found>) {
        for wave in course.gradient_hops(tick) {
            let mut exchange = Exchange::default();
            let mut arrived = None;
            for hop in wave {
                let Payload::Gradient(shard, range) = hop.payload.clone() else { unreachable!("gradients hop back") };
                if hop.to == self.rank {
                    let region = self.arrival[self.arrived % 2].take(self.slots, range.len());
                    self.arrived += 1;
                    arrived = Some(Found { shard, range, region });
                    exchange.add(self.rank, hop, || region);
                } else if hop.from == self.rank {
                    let region = match self.options.grad_sync {
                        GradSync::Round => sum.expect("a holder has its group's sum").region,
                        GradSync::Iteration => self.whole_sum(list, shard),
                    };
                    exchange.add(self.rank, hop, || region);
                }
            }
            exchange.push(list, Way::GradientHop, &[]);
            if let Some(found) = arrived {
                self.contribute(list, Way::GradientHop, &found);
            }
        }
    }

    /// Sums the present gradient over the group onto those who hold the shard, and returns where it is (on them).
    fn reduce(&mut self, list: &mut List, shard: ShardId, range: Range<usize>, computed: bool) -> Found {
        let (size, len) = (self.groups.size(self.group), range.len());
        let goes = match self.options.hop {
            Hops::Direct => self.holders.home(shard) != Some(self.group),
            Hops::Collective => self.groups.count() > 1,
        };
        let hops = goes && self.options.grad_sync == GradSync::Round;
        let leaves = size > 1 || hops;
        let mut region = self.outgoing(len);
        if leaves && self.job.grad_dtype != Dtype::F32 {
            let src = std::mem::replace(&mut region, self.wire[self.sent % 2].take(self.slots, len));
            if computed {
                list.push(Way::Reduce.lane(), Action::Cast { src, dst: region });
            }
        }
        if !computed {
            list.push(Way::Reduce.lane(), Action::Clear { dst: region });
        }
        if size > 1 {
            let (what, algorithm) = match self.options.stripe {
                true => (Collective::ReduceScatter, Algorithm::Ring),
                false => (Collective::Reduce(self.holders.gate(self.group, shard)), Algorithm::Chain),
            };
            let needed = scratch(what, algorithm, len, size);
            let call = Call {
                comm: Way::Reduce.comm(),
                what,
                algorithm,
                region,
                scratch: needed.map(|len| self.scratch.take(self.slots, len)),
                payload: Payload::Gradient(shard, range.clone()),
            };
            list.push(Way::Reduce.lane(), Action::Collective(call));
        }
        Found { shard, range, region }
    }

    /// Adds a gradient to the sum that this rank keeps; the iteration's first one replaces what is there.
    fn contribute(&mut self, list: &mut List, way: Way, Found { shard, range, region }: &Found) {
        let (sum, part) = (self.sum(*shard), self.holders.part(self.rank, *shard).expect("a holder"));
        let dst = sum.sub(range.start - part.start..range.end - part.start);
        let first = !std::mem::replace(&mut self.begun[*shard], true);
        assert!(!first || dst == sum, "the first gradient of shard {shard} must cover it");
        let src = *region;
        list.push(way.lane(), if first { Action::Cast { src, dst } } else { Action::Accumulate { src, dst } });
    }

    /// Where this rank sums up the gradient of what it holds of a shard: the owner's accumulator, or its group's sum.
    fn sum(&mut self, shard: ShardId) -> Region {
        if let Some(owned) = self.local.own(shard) {
            return owned.accumulator;
        }
        let len = self.holders.part(self.rank, shard).expect("a holder").len();
        let add = || self.slots.add(format!("shard {shard} sum"), len, Dtype::F32, Segment::GradientSum);
        *self.sums.entry(shard).or_insert_with(add)
    }

    /// The group's sum over the iteration, in the type it travels in.
    fn whole_sum(&mut self, list: &mut List, shard: ShardId) -> Region {
        let src = self.sum(shard);
        if self.job.grad_dtype == Dtype::F32 {
            return src;
        }
        let dst = self.sum_wire.take(self.slots, src.len);
        list.push(Way::GradientHop.lane(), Action::Cast { src, dst });
        dst
    }
}
