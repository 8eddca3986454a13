//! How gradients come to the owners: summed inside the group onto those who hold the shard there, and by a hop home.

use std::ops::Range;

use crate::model::{Dtype, ShardId};
use crate::plan::build::List;
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, Payload, Region, Segment};

use super::super::GradSync;
use super::Way;
use super::course::Course;
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
                let home = self.holders.home(shard) == Some(self.group);
                if home || self.options.grad_sync == GradSync::Iteration {
                    self.contribute(list, Way::Reduce, &found);
                }
                sum = Some(found);
            }
            self.sent += 1;
        }
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
                        GradSync::Round => sum.as_ref().expect("a holder has its group's sum").region,
                        GradSync::Iteration => self.whole_sum(list, shard),
                    };
                    exchange.add(self.rank, hop, || region);
                }
            }
            exchange.push(list, Way::GradientHop);
            if let Some(found) = arrived {
                self.contribute(list, Way::GradientHop, &found);
            }
        }
    }

    /// Sums the present gradient over the group onto those who hold the shard, and returns where it is (on them).
    fn reduce(&mut self, list: &mut List, shard: ShardId, range: Range<usize>, computed: bool) -> Found {
        let (size, len) = (self.groups.size(self.group), range.len());
        let hops = self.holders.home(shard) != Some(self.group) && self.options.grad_sync == GradSync::Round;
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
            let room = scratch(what, algorithm, len, size);
            let call = Call {
                comm: Way::Reduce.comm(),
                what,
                algorithm,
                region,
                scratch: room.map(|len| self.scratch.take(self.slots, len)),
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
