//! One rank's lists of ops.

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::{Dtype, ShardId, Shards, Unit};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::ring_scratch;
use crate::plan::{
    Action, Algorithm, Job, Lane, Message, Payload, REDUCE_CHUNK, REDUCE_CHUNKS, RankPlan, Region, Segment, Work,
};

use super::super::Schedule;
use super::super::local::{Local, list};
use super::visits::{Pass, Visit, visits};
use super::{Way, first_slot, gate, rounds};

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank) -> RankPlan {
    let Schedule { job, shards, owners, .. } = schedule;
    let mut slots = Slots::default();
    let here = |shard: &ShardId| owners[*shard].is_none_or(|owner| owner == rank);
    let local = Local::new(&mut slots, job, shards, (0..owners.len()).filter(here));
    let (compute, wire) = (job.dtype, job.grad_dtype);
    let pair = |name: &str, dtype, segment| [0, 1].map(|i| Elastic::new(format!("{name} {i}"), dtype, segment));
    let mut writer = Writer {
        schedule,
        job,
        shards,
        groups: &job.groups,
        rank,
        group: job.groups.group_of(rank),
        local: &local,
        ring: pair("ring", compute, Segment::Ring),
        gradient: pair("gradient", Dtype::F32, Segment::Gradient),
        wire: pair("wire", wire, Segment::Gradient),
        arrivals: pair("arrival", wire, Segment::Gradient),
        scratch: Elastic::new("reduce scratch".into(), wire, Segment::Gradient),
        all_wire: Elastic::new("all-reduce wire".into(), wire, Segment::Gradient),
        all_scratch: Elastic::new("all-reduce scratch".into(), wire, Segment::Gradient),
        slots: &mut slots,
        gradients: 0,
        arrived: 0,
        begun: vec![false; owners.len()],
    };
    let train = list(rank, |list| writer.train(list));
    let evaluate = list(rank, |list| writer.evaluate(list));
    let prepare = list(rank, |list| local.prepare(list));
    RankPlan { rank, slots: slots.finish(), comm_lanes: schedule.splits.len(), prepare, train, evaluate }
}

struct Writer<'a> {
    schedule: &'a Schedule,
    job: &'a Job,
    shards: &'a Shards,
    groups: &'a Groups,
    rank: Rank,
    group: usize,
    local: &'a Local,
    slots: &'a mut Slots,
    /// Weights of others' shards, in turns (see [`visits`]).
    ring: [Elastic; 2],
    /// Where backward leaves a gradient: one is filled while the other travels.
    gradient: [Elastic; 2],
    /// Gradients in the type they travel in, if that is not f32.
    wire: [Elastic; 2],
    /// Gradients of other groups for shards of this rank.
    arrivals: [Elastic; 2],
    scratch: Elastic,
    all_wire: Elastic,
    all_scratch: Elastic,
    /// Visits so far whose gradient travels.
    gradients: usize,
    /// Gradients so far that came from other groups.
    arrived: usize,
    /// Shards that live here whose accumulator has been written in this iteration.
    begun: Vec<bool>,
}

impl Writer<'_> {
    fn train(&mut self, list: &mut List) {
        let visits = self.visits(true);
        let replicated: Vec<ShardId> = (0..self.shards.shards.len()).filter(|&s| !self.travels(s)).collect();
        let last: Vec<Option<usize>> = replicated.iter().map(|&shard| self.last_gradient(&visits, shard)).collect();
        if self.micro(0).is_none() {
            for owned in self.local.owned.iter().filter(|owned| replicated.contains(&owned.shard)) {
                list.push(Lane::Compute, Action::Clear { dst: owned.accumulator });
            }
        }
        for clock in 0..self.clocks(&visits) {
            self.fetch(list, &visits, clock);
            if let Some(visit) = self.visit(&visits, self.group, clock) {
                self.compute(list, visit, true);
            }
            self.collect(list, &visits, clock);
            for (&shard, _) in replicated.iter().zip(&last).filter(|(_, last)| **last == Some(clock)) {
                self.sum_replicated(list, shard);
            }
        }
        let counts = |shard| self.rank == 0 || self.travels(shard);
        self.local.norm(list, counts);
        self.sum_stats(list);
        self.local.update(list);
    }

    fn evaluate(&mut self, list: &mut List) {
        let visits = self.visits(false);
        for clock in 0..self.clocks(&visits) {
            self.fetch(list, &visits, clock);
            if let Some(visit) = self.visit(&visits, self.group, clock) {
                self.compute(list, visit, false);
            }
        }
        self.sum_stats(list);
    }

    /// The visits of the group with the most rounds; the others make the first of them.
    fn visits(&self, training: bool) -> Vec<Visit> {
        visits(self.shards, rounds(self.job, 0), training, |shard| self.travels(shard))
    }

    fn travels(&self, shard: ShardId) -> bool {
        self.schedule.owners[shard].is_some()
    }

    /// The owner of a shard that travels.
    fn owner(&self, shard: ShardId) -> Rank {
        self.schedule.owners[shard].expect("a shard that travels has an owner")
    }

    fn clocks(&self, visits: &[Visit]) -> usize {
        first_slot(self.job, self.groups.count() - 1) + visits.len()
    }

    /// Whether a group makes the visit of this number.
    fn makes(&self, visits: &[Visit], group: usize, index: usize) -> bool {
        visits.get(index).is_some_and(|visit| visit.round < rounds(self.job, group))
    }

    /// The visit that a group makes in a slot of the clock.
    fn visit<'v>(&self, visits: &'v [Visit], group: usize, clock: usize) -> Option<&'v Visit> {
        let index = clock.checked_sub(first_slot(self.job, group))?;
        self.makes(visits, group, index).then(|| &visits[index])
    }

    /// The slot of the clock in which the last gradient of a replicated shard is computed.
    fn last_gradient(&self, visits: &[Visit], shard: ShardId) -> Option<usize> {
        let gives = |visit: &Visit| visit.shard == shard && matches!(visit.pass, Pass::Head | Pass::EmbedBackward);
        let last = |group| {
            let index = (0..visits.len()).rfind(|&i| gives(&visits[i]) && self.makes(visits, group, i))?;
            Some(first_slot(self.job, group) + index)
        };
        (0..self.groups.count()).filter_map(last).max()
    }

    /// This rank's micro-batch in a round.
    fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.groups.ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }

    /// Brings in, for every group, the weights that come in while its visit in this slot computes.
    fn fetch(&mut self, list: &mut List, visits: &[Visit], clock: usize) {
        let fetched = |group: usize| {
            let under = (clock + 1).checked_sub(first_slot(self.job, group))?.checked_sub(1);
            let first = under.map_or(0, |index| index + 1);
            let next = (first..visits.len()).find(|&index| visits[index].ring.is_some())?;
            let ring = visits[next].ring.filter(|ring| ring.fetch == Some(under))?;
            self.makes(visits, group, next).then_some((visits[next].shard, ring.slot))
        };
        let fetches: Vec<Option<(ShardId, usize)>> = (0..self.groups.count()).map(fetched).collect();

        let (mut sends, mut recvs) = (Vec::new(), Vec::new());
        for (group, fetch) in fetches.iter().enumerate() {
            let Some((shard, slot)) = *fetch else { continue };
            let owner = self.owner(shard);
            let gate = gate(self.groups, group, owner);
            if gate != owner {
                self.message(&mut sends, &mut recvs, owner, gate, Payload::Weights(shard), |writer| {
                    writer.weights(shard, slot)
                });
            }
        }
        exchange(list, Way::WeightHop, sends, recvs);

        if let Some((shard, slot)) = fetches[self.group]
            && self.groups.size(self.group) > 1
        {
            // A tree of whole messages while it is shallow, else a pipeline of chunks.
            let algorithm = if self.groups.size(self.group) <= 4 { Algorithm::Tree } else { Algorithm::Chain };
            let action = Action::Broadcast {
                comm: Way::Broadcast.comm(),
                root: gate(self.groups, self.group, self.owner(shard)),
                region: self.weights(shard, slot),
                payload: Payload::Weights(shard),
                algorithm,
            };
            list.push(Way::Broadcast.lane(), action);
        }
    }

    /// Adds this rank's end, if it has one, of a message.
    fn message(
        &mut self,
        sends: &mut Vec<Message>,
        recvs: &mut Vec<Message>,
        from: Rank,
        to: Rank,
        payload: Payload,
        region: impl Fn(&mut Self) -> Region,
    ) {
        if self.rank == from {
            sends.push(Message { peer: to, region: region(self), payload });
        } else if self.rank == to {
            recvs.push(Message { peer: from, region: region(self), payload });
        }
    }

    /// A shard's weights on this rank: at home, or in a ring slot.
    fn weights(&mut self, shard: ShardId, slot: usize) -> Region {
        let len = self.shards.shards[shard].len;
        match self.local.own(shard) {
            Some(owned) => owned.weights(),
            None => self.ring[slot].take(self.slots, len),
        }
    }

    /// The computation of a visit on this rank's micro-batch.
    fn compute(&mut self, list: &mut List, visit: &Visit, training: bool) {
        let Some(micro) = self.micro(visit.round) else { return };
        let work = Work { micro, chunk: 0 };
        let weights = match (visit.ring, visit.pass.needs_weights()) {
            (_, false) => None,
            (Some(ring), true) => Some(self.weights(visit.shard, ring.slot)),
            (None, true) => self.local.own(visit.shard).map(|owned| owned.weights()),
        };
        // Where the gradient of the visit's units goes, and whether it is added to what is there.
        let (gradient, base, accumulate) = match &visit.gradient {
            Some(range) => (Some(self.gradient(range.len())), range.start, false),
            None => {
                let owned = self.local.own(visit.shard).filter(|_| !self.travels(visit.shard));
                (owned.map(|owned| owned.accumulator), 0, self.begun[visit.shard])
            }
        };
        let shards = self.shards;
        let of = |region: Region, unit: Unit, base: usize| {
            let range = &shards.place(unit).range;
            region.sub(range.start - base..range.end - base)
        };
        let weight = |unit| of(weights.expect("weights of a visit that needs them"), unit, 0);
        let into = |unit| of(gradient.expect("a gradient in training"), unit, base);
        let blocks = || {
            let all = shards.units.iter().map(|(unit, place)| (*unit, place.shard));
            all.filter(|(unit, shard)| matches!(unit, Unit::Block(_)) && *shard == visit.shard).map(|(unit, _)| unit)
        };
        match visit.pass {
            Pass::Embed => {
                self.local.load(list, work);
                self.local.forward(list, Unit::Embed, work, weight(Unit::Embed), training);
            }
            Pass::Forward => {
                for unit in blocks() {
                    self.local.forward(list, unit, work, weight(unit), training);
                }
            }
            Pass::Head => {
                let gradient = training.then(|| (into(Unit::Head), accumulate));
                self.local.head(list, work, weight(Unit::Head), gradient);
            }
            Pass::Backward => {
                for unit in blocks().collect::<Vec<_>>().into_iter().rev() {
                    self.local.backward(list, unit, work, Some(weight(unit)), into(unit), accumulate);
                }
            }
            Pass::EmbedBackward => {
                self.local.backward(list, Unit::Embed, work, None, into(Unit::Embed), accumulate);
            }
        }
        if training && matches!(visit.pass, Pass::Head | Pass::EmbedBackward) && visit.gradient.is_none() {
            self.begun[visit.shard] = true;
        }
    }

    /// The gradient slot of the present visit.
    fn gradient(&mut self, len: usize) -> Region {
        self.gradient[self.gradients % 2].take(self.slots, len)
    }

    /// Brings the gradients of this slot's visits to the owners of their shards.
    fn collect(&mut self, list: &mut List, visits: &[Visit], clock: usize) {
        let gradient = |group| {
            let visit = self.visit(visits, group, clock)?;
            Some((visit, visit.gradient.clone()?))
        };
        let all: Vec<_> = (0..self.groups.count()).map(gradient).collect();

        // Inside the group, onto the owner or the gate.
        let mut outgoing = None;
        if let Some((visit, range)) = &all[self.group] {
            let owner = self.owner(visit.shard);
            let sum = self.reduce(list, visit, range.clone());
            if owner == self.rank {
                self.contribute(list, Way::Reduce, visit.shard, range, sum);
            }
            outgoing = Some(sum);
            self.gradients += 1;
        }

        // From gate to owner. An owner receives one gradient at a time, which bounds its memory; different owners
        // receive at the same time.
        let hops: Vec<(Rank, Rank, ShardId, Range<usize>)> = (0..self.groups.count())
            .filter_map(|group| {
                let (visit, range) = all[group].as_ref()?;
                let owner = self.owner(visit.shard);
                let gate = gate(self.groups, group, owner);
                (gate != owner).then(|| (gate, owner, visit.shard, range.clone()))
            })
            .collect();
        let wave = |index: usize| hops[..index].iter().filter(|hop| hop.1 == hops[index].1).count();
        for round in 0..self.groups.count() {
            let (mut sends, mut recvs) = (Vec::new(), Vec::new());
            let mut arrival = None;
            for (gate, owner, shard, range) in (0..hops.len()).filter(|&i| wave(i) == round).map(|i| hops[i].clone()) {
                let region = if self.rank == owner {
                    let region = self.arrivals[self.arrived % 2].take(self.slots, range.len());
                    self.arrived += 1;
                    arrival = Some((shard, range.clone(), region));
                    region
                } else if self.rank == gate {
                    outgoing.expect("a gate has reduced its group's gradient")
                } else {
                    continue;
                };
                let payload = Payload::Gradient(shard, range);
                self.message(&mut sends, &mut recvs, gate, owner, payload, |_| region);
            }
            exchange(list, Way::GradientHop, sends, recvs);
            if let Some((shard, range, region)) = arrival {
                self.contribute(list, Way::GradientHop, shard, &range, region);
            }
        }
    }

    /// Sums this visit's gradient over the group onto its gate, and returns where the sum is (on the gate).
    fn reduce(&mut self, list: &mut List, visit: &Visit, range: Range<usize>) -> Region {
        let (owner, len) = (self.owner(visit.shard), range.len());
        let gate = gate(self.groups, self.group, owner);
        let several = self.groups.size(self.group) > 1;
        let has_micro = self.micro(visit.round).is_some();
        let moves = several || gate != owner;
        let region = if moves && self.job.grad_dtype != Dtype::F32 {
            let wire = self.wire[self.gradients % 2].take(self.slots, len);
            if has_micro {
                let src = self.gradient(len);
                list.push(Way::Reduce.lane(), Action::Cast { src, dst: wire });
            }
            wire
        } else {
            self.gradient(len)
        };
        if !has_micro {
            list.push(Way::Reduce.lane(), Action::Clear { dst: region });
        }
        if several {
            let action = Action::Reduce {
                comm: Way::Reduce.comm(),
                root: gate,
                region,
                scratch: self.scratch.take(self.slots, len.min(REDUCE_CHUNKS * REDUCE_CHUNK)),
                payload: Payload::Gradient(visit.shard, range),
                algorithm: Algorithm::Chain,
            };
            list.push(Way::Reduce.lane(), action);
        }
        region
    }

    /// Adds a gradient to the accumulator of a shard of this rank; the iteration's first one replaces what is there.
    fn contribute(&mut self, list: &mut List, way: Way, shard: ShardId, range: &Range<usize>, src: Region) {
        let accumulator = self.local.own(shard).expect("the owner's accumulator").accumulator;
        let dst = accumulator.sub(range.clone());
        let first = !std::mem::replace(&mut self.begun[shard], true);
        assert!(!first || dst == accumulator, "the first gradient of shard {shard} must cover it");
        list.push(way.lane(), if first { Action::Cast { src, dst } } else { Action::Accumulate { src, dst } });
    }

    /// Sums a replicated shard's gradient over all ranks: every rank ends with the same bits and makes the same update.
    fn sum_replicated(&mut self, list: &mut List, shard: ShardId) {
        let ranks = self.groups.ranks();
        if ranks == 1 {
            return;
        }
        let accumulator = self.local.own(shard).expect("a replicated shard lives everywhere").accumulator;
        let lane = Way::AllReduce.lane();
        let casts = self.job.grad_dtype != Dtype::F32;
        let region = if casts { self.all_wire.take(self.slots, accumulator.len) } else { accumulator };
        if casts {
            list.push(lane, Action::Cast { src: accumulator, dst: region });
        }
        let action = Action::AllReduce {
            comm: Way::AllReduce.comm(),
            region,
            scratch: Some(self.all_scratch.take(self.slots, ring_scratch(accumulator.len, ranks))),
            payload: Payload::Gradient(shard, 0..accumulator.len),
            algorithm: Algorithm::Ring,
        };
        list.push(lane, action);
        if casts {
            list.push(lane, Action::Cast { src: region, dst: accumulator });
        }
    }

    fn sum_stats(&self, list: &mut List) {
        if self.groups.ranks() > 1 {
            self.local.sum_stats(list, Way::GradientHop.lane(), Way::GradientHop.comm());
        }
    }
}

/// One op for this rank's messages, if there are any.
fn exchange(list: &mut List, way: Way, sends: Vec<Message>, recvs: Vec<Message>) {
    if !(sends.is_empty() && recvs.is_empty()) {
        list.push(way.lane(), Action::Exchange { comm: way.comm(), sends, recvs });
    }
}
