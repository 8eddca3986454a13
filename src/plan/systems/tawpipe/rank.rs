//! One rank's lists of ops: its own end of the [`Course`].

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::{Dtype, ShardId, Shards};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, Job, Lane, Message, Payload, RankPlan, Region, Segment, Work};

use super::super::Schedule;
use super::super::local::{Local, list};
use super::super::walk::{Pass, Stop};
use super::Way;
use super::course::{Course, Hop};
use super::visits::Visit;

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank) -> RankPlan {
    let Schedule { job, shards, .. } = schedule;
    let owners = schedule.owners();
    let mut slots = Slots::default();
    // What is replicated counts on rank 0.
    let here = |shard: ShardId| match owners[shard] {
        Some(owner) => (owner == rank).then_some((shard, true)),
        None => Some((shard, rank == 0)),
    };
    let local = Local::new(&mut slots, job, shards, (0..owners.len()).filter_map(here));
    let one = |name: &str, dtype, segment| Elastic::new(name.into(), dtype, segment);
    let two = |name: &str, dtype, segment| [0, 1].map(|i| one(&format!("{name} {i}"), dtype, segment));
    let wire = job.grad_dtype;
    let mut writer = Writer {
        job,
        shards,
        groups: &job.groups,
        rank,
        group: job.groups.group_of(rank),
        local: &local,
        replicated: (0..owners.len()).filter(|&shard| owners[shard].is_none()).collect(),
        ring: two("ring", job.dtype, Segment::Ring),
        gradient: two("gradient", Dtype::F32, Segment::Gradient),
        wire: two("wire", wire, Segment::Gradient),
        arrival: two("arrival", wire, Segment::Gradient),
        scratch: one("reduce scratch", wire, Segment::Gradient),
        all_wire: one("all-reduce wire", wire, Segment::Gradient),
        all_scratch: one("all-reduce scratch", wire, Segment::Gradient),
        slots: &mut slots,
        sent: 0,
        arrived: 0,
        begun: vec![false; owners.len()],
    };
    let empty = || if super::options(job).overlap { List::new(rank) } else { List::serial(rank) };
    let (mut train, mut evaluate) = (empty(), empty());
    writer.train(&mut train, &Course::new(schedule, true));
    writer.evaluate(&mut evaluate, &Course::new(schedule, false));
    RankPlan {
        rank,
        slots: slots.finish(),
        comm_lanes: schedule.splits.len(),
        prepare: list(rank, |list| local.prepare(list)),
        train: train.finish(),
        evaluate: evaluate.finish(),
    }
}

struct Writer<'a> {
    job: &'a Job,
    shards: &'a Shards,
    groups: &'a Groups,
    rank: Rank,
    group: usize,
    local: &'a Local,
    /// Shards that live on every rank.
    replicated: Vec<ShardId>,
    slots: &'a mut Slots,
    /// Weights of others' shards.
    ring: [Elastic; 2],
    /// Where backward leaves a gradient that travels: one is filled while the other is on its way.
    gradient: [Elastic; 2],
    /// The same in the type it travels in, if that is not f32.
    wire: [Elastic; 2],
    /// Gradients that come from other groups for shards of this rank.
    arrival: [Elastic; 2],
    scratch: Elastic,
    all_wire: Elastic,
    all_scratch: Elastic,
    /// Gradients so far that travelled from here, and that came from other groups: they take turns with the slots.
    sent: usize,
    arrived: usize,
    /// Shards that live here whose accumulator has been written in this iteration.
    begun: Vec<bool>,
}

impl Writer<'_> {
    fn train(&mut self, list: &mut List, course: &Course) {
        if self.micro(0).is_none() {
            for owned in self.local.owned.iter().filter(|owned| self.replicated.contains(&owned.shard)) {
                list.push(Lane::Compute, Action::Clear { dst: owned.accumulator });
            }
        }
        let last: Vec<_> = self.replicated.iter().map(|&shard| (shard, course.last_gradient(shard))).collect();
        for tick in 0..course.ticks() {
            self.fetch(list, course, tick);
            if let Some(visit) = course.visit(self.group, tick) {
                self.compute(list, visit, true);
            }
            self.collect(list, course, tick);
            for (shard, _) in last.iter().filter(|(_, last)| *last == Some(tick)) {
                self.sum_replicated(list, *shard);
            }
        }
        self.local.norm(list);
        self.sum_stats(list);
        self.local.update(list);
    }

    fn evaluate(&mut self, list: &mut List, course: &Course) {
        for tick in 0..course.ticks() {
            self.fetch(list, course, tick);
            if let Some(visit) = course.visit(self.group, tick) {
                self.compute(list, visit, false);
            }
        }
        self.sum_stats(list);
    }

    /// This rank's micro-batch in a round.
    fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.groups.ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }

    /// Brings in, for every group, the weights that come in under the computation of this tick.
    fn fetch(&mut self, list: &mut List, course: &Course, tick: usize) {
        let mut exchange = Exchange::default();
        for hop in course.weight_hops(tick) {
            let Payload::Weights(shard, _) = hop.payload else { unreachable!("weights hop") };
            // Only a receiver, whose group fetches the shard, needs the ring slot.
            let slot = course.fetch(self.group, tick).map_or(0, |fetch| fetch.slot);
            exchange.add(self.rank, hop, || self.weights(shard, slot));
        }
        exchange.push(list, Way::WeightHop);

        let size = self.groups.size(self.group);
        if let Some(fetch) = course.fetch(self.group, tick)
            && size > 1
        {
            let call = Call {
                comm: Way::Broadcast.comm(),
                what: Collective::Broadcast(course.gate(self.group, fetch.shard)),
                // A tree of whole messages while it is shallow, else a pipeline of chunks.
                algorithm: if size <= 4 { Algorithm::Tree } else { Algorithm::Chain },
                region: self.weights(fetch.shard, fetch.slot),
                scratch: None,
                payload: Payload::Weights(fetch.shard, 0..self.shards.shards[fetch.shard].len),
            };
            list.push(Way::Broadcast.lane(), Action::Collective(call));
        }
    }

    /// A shard's weights on this rank: at home, or in a ring slot.
    fn weights(&mut self, shard: ShardId, slot: usize) -> Region {
        match self.local.own(shard) {
            Some(owned) => owned.weights(),
            None => self.ring[slot].take(self.slots, self.shards.shards[shard].len),
        }
    }

    /// The computation of a visit on this rank's micro-batch.
    fn compute(&mut self, list: &mut List, visit: &Visit, training: bool) {
        let Some(micro) = self.micro(visit.round) else { return };
        let (local, work, shard) = (self.local, Work { micro, chunk: 0 }, visit.shard);
        // Without a ring slot the shard lives here, or its weights are not needed.
        let weights = self.weights_of(visit);
        // A gradient that travels starts in a slot of its own; another adds up in place.
        let (gradient, start, accumulate) = match &visit.gradient {
            Some(range) => (Some(self.outgoing(range.len())), range.start, false),
            None => (local.own(shard).map(|owned| owned.accumulator), 0, self.begun[shard]),
        };
        let shards = self.shards;
        let range = |unit| &shards.place(unit).range;
        let weights = |unit| weights.expect("a visit that needs weights").sub(range(unit).clone());
        let into = |unit| {
            let (range, gradient) = (range(unit), gradient.expect("in training a visit gives a gradient"));
            (gradient.sub(range.start - start..range.end - start), accumulate)
        };
        let stop = Stop { pass: visit.pass, shard };
        local.stop(list, shards, stop, work, weights, training.then_some(into));
        let gives = matches!(visit.pass, Pass::Head | Pass::EmbedBackward);
        self.begun[shard] |= training && gives && visit.gradient.is_none();
    }

    fn weights_of(&mut self, visit: &Visit) -> Option<Region> {
        match visit.ring {
            Some(ring) => Some(self.weights(visit.shard, ring.slot)),
            None => self.local.own(visit.shard).map(|owned| owned.weights()),
        }
    }

    /// The slot of the gradient that travels next.
    fn outgoing(&mut self, len: usize) -> Region {
        self.gradient[self.sent % 2].take(self.slots, len)
    }

    /// Brings the gradients of this tick to the owners of their shards.
    fn collect(&mut self, list: &mut List, course: &Course, tick: usize) {
        let mut sum = None;
        if let Some((shard, range)) = course.gradient(self.group, tick) {
            let region = self.reduce(list, course, tick, shard, &range);
            if course.owner(shard) == self.rank {
                self.contribute(list, Way::Reduce, shard, &range, region);
            }
            sum = Some(region);
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
                    arrived = Some((shard, range, region));
                    exchange.add(self.rank, hop, || region);
                } else {
                    exchange.add(self.rank, hop, || sum.expect("a gate has its group's sum"));
                }
            }
            exchange.push(list, Way::GradientHop);
            if let Some((shard, range, region)) = arrived {
                self.contribute(list, Way::GradientHop, shard, &range, region);
            }
        }
    }

    /// Sums the present gradient over the group onto its gate, and returns where the sum is (on the gate).
    fn reduce(
        &mut self,
        list: &mut List,
        course: &Course,
        tick: usize,
        shard: ShardId,
        range: &Range<usize>,
    ) -> Region {
        let (gate, len) = (course.gate(self.group, shard), range.len());
        let several = self.groups.size(self.group) > 1;
        let leaves = several || gate != course.owner(shard);
        let computed = course.visit(self.group, tick).is_some_and(|visit| self.micro(visit.round).is_some());
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
        if several {
            let (what, algorithm) = (Collective::Reduce(gate), Algorithm::Chain);
            let room = scratch(what, algorithm, len, self.groups.size(self.group));
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
        region
    }

    /// Adds a gradient to the accumulator of a shard of this rank; the iteration's first one replaces what is there.
    fn contribute(&mut self, list: &mut List, way: Way, shard: ShardId, range: &Range<usize>, src: Region) {
        let accumulator = self.local.own(shard).expect("the owner has an accumulator").accumulator;
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
        let casts = self.job.grad_dtype != Dtype::F32;
        let region = if casts { self.all_wire.take(self.slots, accumulator.len) } else { accumulator };
        if casts {
            list.push(Way::AllReduce.lane(), Action::Cast { src: accumulator, dst: region });
        }
        let (what, algorithm) = (Collective::AllReduce, Algorithm::Ring);
        let room = scratch(what, algorithm, accumulator.len, ranks);
        let call = Call {
            comm: Way::AllReduce.comm(),
            what,
            algorithm,
            region,
            scratch: room.map(|len| self.all_scratch.take(self.slots, len)),
            payload: Payload::Gradient(shard, 0..accumulator.len),
        };
        list.push(Way::AllReduce.lane(), Action::Collective(call));
        if casts {
            list.push(Way::AllReduce.lane(), Action::Cast { src: region, dst: accumulator });
        }
    }

    fn sum_stats(&self, list: &mut List) {
        if self.groups.ranks() > 1 {
            self.local.sum_stats(list, Way::GradientHop.lane(), Way::GradientHop.comm());
        }
    }
}

/// One rank's ends of messages that start and complete together.
#[derive(Default)]
struct Exchange {
    sends: Vec<Message>,
    recvs: Vec<Message>,
}

impl Exchange {
    /// Adds the rank's end of a hop, if it has one.
    fn add(&mut self, rank: Rank, hop: Hop, region: impl FnOnce() -> Region) {
        if hop.from == rank {
            self.sends.push(Message { peer: hop.to, region: region(), payload: hop.payload });
        } else if hop.to == rank {
            self.recvs.push(Message { peer: hop.from, region: region(), payload: hop.payload });
        }
    }

    /// Becomes an op, if there is anything to do.
    fn push(self, list: &mut List, way: Way) {
        let Exchange { sends, recvs } = self;
        if !(sends.is_empty() && recvs.is_empty()) {
            list.push(way.lane(), Action::Exchange { comm: way.comm(), sends, recvs });
        }
    }
}
