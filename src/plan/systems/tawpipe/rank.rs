//! One rank's lists of ops: its own end of the [`Course`].

use std::collections::BTreeMap;

use crate::cluster::{Groups, Rank};
use crate::model::{Dtype, ShardId, Shards};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::{Action, Job, Lane, Message, OpId, RankPlan, Region, Segment, Work};

use super::super::Schedule;
use super::super::local::{Flights, Local, Owned, list};
use super::super::replicated::Replicated;
use super::super::walk::{Pass, Stop};
use super::Way;
use super::course::{Course, Hop};
use super::holders::Holders;
use super::options;
use super::options::{Hops, Settled};
use super::visits::Visit;

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank) -> RankPlan {
    let Schedule { job, shards, .. } = schedule;
    let holders = &Holders::new(schedule);
    let group = holders.groups.group_of(rank);
    let mut slots = Slots::default();
    let owned = (0..shards.shards.len()).filter_map(|shard| {
        let (range, primary) = match holders.home(shard) {
            Some(home) => (holders.part(rank, shard).filter(|_| home == group)?, true),
            // What is replicated counts on rank 0.
            None => (0..shards.shards[shard].len, rank == 0),
        };
        Some(Owned::new(&mut slots, job, shard, range, primary))
    });
    let owned = owned.collect();
    let local = Local::with(&mut slots, job, shards, owned, Flights::One);
    let replicated = (0..shards.shards.len()).filter(|&shard| holders.home(shard).is_none()).collect();
    let one = |name: &str, dtype, segment| Elastic::new(name.into(), dtype, segment);
    let two = |name: &str, dtype, segment| [0, 1].map(|i| one(&format!("{name} {i}"), dtype, segment));
    let wire = job.grad_dtype;
    let mut writer = Writer {
        job,
        options: options(job),
        shards,
        holders,
        groups: &holders.groups,
        rank,
        group,
        local: &local,
        replicated: Replicated::new(job, replicated, Way::AllReduce.lane(), Way::AllReduce.comm()),
        ring: two("ring", job.dtype, Segment::Ring),
        cache: BTreeMap::new(),
        gradient: two("gradient", Dtype::F32, Segment::Gradient),
        wire: two("wire", wire, Segment::Gradient),
        arrival: two("arrival", wire, Segment::Gradient),
        scratch: one("reduce scratch", wire, Segment::Gradient),
        hop_scratch: one("hop scratch", wire, Segment::Gradient),
        sums: BTreeMap::new(),
        sum_wire: one("sum wire", wire, Segment::Gradient),
        slots: &mut slots,
        spreads: Vec::new(),
        sent: 0,
        arrived: 0,
        begun: vec![false; shards.shards.len()],
    };
    let empty = || if writer.options.overlap { List::new(rank) } else { List::serial(rank) };
    let (mut train, mut evaluate) = (empty(), empty());
    writer.train(&mut train, &Course::new(schedule, holders, true));
    writer.evaluate(&mut evaluate, &Course::new(schedule, holders, false));
    RankPlan {
        rank,
        slots: slots.finish(),
        comm_lanes: schedule.splits.len(),
        prepare: list(rank, |list| local.prepare(list)),
        train: train.finish(),
        evaluate: evaluate.finish(),
    }
}

/// Writes a rank's lists. See [`super::fetch`] and [`super::collect`] for what happens before and after a computation.
pub struct Writer<'a> {
    pub job: &'a Job,
    pub options: Settled,
    pub shards: &'a Shards,
    pub holders: &'a Holders,
    pub groups: &'a Groups,
    pub rank: Rank,
    pub group: usize,
    pub local: &'a Local,
    replicated: Replicated,
    pub slots: &'a mut Slots,
    /// Weights of others' shards.
    pub ring: [Elastic; 2],
    /// Weights of (parts of) other groups' shards that this rank keeps for its group.
    pub cache: BTreeMap<ShardId, Region>,
    /// Where backward leaves a gradient that travels: one is filled while the other is on its way.
    pub gradient: [Elastic; 2],
    /// The same in the type it travels in, if that is not f32.
    pub wire: [Elastic; 2],
    /// Gradients that come from other groups for shards of this rank.
    pub arrival: [Elastic; 2],
    /// Partial sums inside the group, and between groups.
    pub scratch: Elastic,
    pub hop_scratch: Elastic,
    /// Its group's gradients of (parts of) other groups' shards, summed up by this rank over the iteration.
    pub sums: BTreeMap<ShardId, Region>,
    /// Such a sum in the type it travels in, if that is not f32.
    pub sum_wire: Elastic,
    /// Ops of the list so far that gave weights to all ranks of the group.
    pub spreads: Vec<OpId>,
    /// Gradients so far that travelled from here, and that came from other groups: they take turns with the slots.
    pub sent: usize,
    pub arrived: usize,
    /// Shards whose sum on this rank has been written in this iteration.
    pub begun: Vec<bool>,
}

impl Writer<'_> {
    fn train(&mut self, list: &mut List, course: &Course) {
        if self.micro(0).is_none() {
            self.replicated.clear(list, self.local);
        }
        let last: Vec<_> = self.replicated.shards.iter().map(|&shard| (shard, course.last_gradient(shard))).collect();
        for tick in 0..course.ticks() {
            if self.options.overlap {
                self.fetch(list, course, tick);
            }
            if let Some(visit) = course.visit(self.group, tick) {
                self.compute(list, visit, true);
            }
            self.collect(list, course, tick);
            for &(shard, _) in last.iter().filter(|(_, last)| *last == Some(tick)) {
                self.replicated.sum(list, self.slots, self.local, shard);
            }
            if !self.options.overlap {
                self.fetch(list, course, tick);
            }
        }
        self.local.norm(list);
        self.sum_stats(list);
        self.local.update(list);
    }

    fn evaluate(&mut self, list: &mut List, course: &Course) {
        self.spreads.clear();
        for tick in 0..course.ticks() {
            if self.options.overlap {
                self.fetch(list, course, tick);
            }
            if let Some(visit) = course.visit(self.group, tick) {
                self.compute(list, visit, false);
            }
            if !self.options.overlap {
                self.fetch(list, course, tick);
            }
        }
        self.sum_stats(list);
    }

    /// This rank's micro-batch in a round.
    pub fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.groups.ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }

    /// The computation of a visit on this rank's micro-batch.
    fn compute(&mut self, list: &mut List, visit: &Visit, training: bool) {
        let Some(micro) = self.micro(visit.round) else { return };
        let (local, work, shard) = (self.local, Work { micro, chunk: 0 }, visit.shard);
        // Without a ring slot the shard lives here, or its weights are not needed.
        let weights = match visit.ring {
            Some(ring) => Some(self.weights(shard, ring.slot)),
            None => local.own(shard).map(|owned| owned.weights()),
        };
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
        if let (Some(all), Pass::EmbedBackward, Some(gradient)) = (&visit.gradient, visit.pass, gradient) {
            // The rest of a tied shard, if it travels too.
            let rest = range(crate::model::Unit::Embed).len()..all.len();
            if !rest.is_empty() {
                list.push(Lane::Compute, Action::Clear { dst: gradient.sub(rest) });
            }
        }
        let stop = Stop { pass: visit.pass, shard };
        local.stop(list, shards, stop, work, weights, training.then_some(into));
        let gives = matches!(visit.pass, Pass::Head | Pass::EmbedBackward);
        self.begun[shard] |= training && gives && visit.gradient.is_none();
    }

    /// The slot of the gradient that travels next.
    pub fn outgoing(&mut self, len: usize) -> Region {
        self.gradient[self.sent % 2].take(self.slots, len)
    }

    fn sum_stats(&self, list: &mut List) {
        if self.groups.ranks() > 1 {
            let way = if self.options.hop == Hops::Direct { Way::GradientHop } else { Way::AllReduce };
            self.local.sum_stats(list, way.lane(), way.comm());
        }
    }
}

/// One rank's ends of messages that start and complete together.
#[derive(Default)]
pub struct Exchange {
    sends: Vec<Message>,
    recvs: Vec<Message>,
}

impl Exchange {
    /// Adds the rank's end of a hop, if it has one.
    pub fn add(&mut self, rank: Rank, hop: Hop, region: impl FnOnce() -> Region) {
        if hop.from == rank {
            self.sends.push(Message { peer: hop.to, region: region(), payload: hop.payload });
        } else if hop.to == rank {
            self.recvs.push(Message { peer: hop.from, region: region(), payload: hop.payload });
        }
    }

    /// Becomes an op that waits for some `also`, if there is anything to do.
    pub fn push(self, list: &mut List, way: Way, also: &[OpId]) {
        let Exchange { sends, recvs } = self;
        if !(sends.is_empty() && recvs.is_empty()) {
            list.push_after(way.lane(), Action::Exchange { comm: way.comm(), sends, recvs }, also);
        }
    }
}
