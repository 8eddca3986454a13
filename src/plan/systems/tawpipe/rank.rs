//! One rank's lists of ops: its own end of the [`Timetable`].

use crate::cluster::{Groups, Rank};
use crate::model::{Shards, Unit};
use crate::plan::build::{List, Slots};
use crate::plan::{Action, Job, Lane, RankPlan, Work};

use super::super::Schedule;
use super::super::local::{Flights, Local, Owned, list};
use super::super::replicated::Replicated;
use super::super::steps::{Pass, Step};
use super::channel::Channel;
use super::gradients::Gradients;
use super::options;
use super::options::{Hops, Settled};
use super::order::GroupStep;
use super::storage::Storage;
use super::timetable::Timetable;
use super::weights::Weights;

/// Where a plan is written to.
pub struct Draft<'a> {
    pub slots: &'a mut Slots,
    pub list: List,
}

/// A rank, and what it knows.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub job: &'a Job,
    pub options: Settled,
    pub shards: &'a Shards,
    pub storage: &'a Storage,
    pub rank: Rank,
    pub group: usize,
    /// Its memory for the shards that it owns, and for its micro-batch.
    pub local: &'a Local,
}

impl<'a> Place<'a> {
    pub fn groups(&self) -> &'a Groups {
        &self.storage.groups
    }

    /// Ranks of its group.
    pub fn size(&self) -> usize {
        self.groups().size(self.group)
    }

    /// Its micro-batch in a round.
    pub fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.groups().ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }
}

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank) -> RankPlan {
    let Schedule { job, shards, .. } = schedule;
    let storage = &Storage::new(schedule);
    let group = storage.groups.group_of(rank);
    let mut slots = Slots::default();
    let owned = (0..shards.shards.len()).filter_map(|shard| {
        let (range, primary) = match storage.owner_group(shard) {
            Some(home) => (storage.part(rank, shard).filter(|_| home == group)?, true),
            // What is replicated counts on rank 0.
            None => (0..shards.elems(shard), rank == 0),
        };
        Some(Owned::new(&mut slots, job, shard, range, primary))
    });
    let owned = owned.collect();
    let local = &Local::with(&mut slots, job, shards, owned, Flights::One);
    let at = Place { job, options: options(job), shards, storage, rank, group, local };
    let replicated = (0..shards.shards.len()).filter(|&shard| storage.owner_group(shard).is_none()).collect();
    let mut writer = Writer {
        at,
        weights: Weights::new(at),
        gradients: Gradients::new(at),
        replicated: Replicated::new(job, replicated, Channel::AllReduce.lane(), Channel::AllReduce.comm()),
    };
    let empty = || if at.options.overlap { List::new(rank) } else { List::serial(rank) };
    let mut train = Draft { slots: &mut slots, list: empty() };
    writer.train(&mut train, &Timetable::new(schedule, storage, true));
    let train = train.list.finish();
    let mut evaluate = Draft { slots: &mut slots, list: empty() };
    writer.evaluate(&mut evaluate, &Timetable::new(schedule, storage, false));
    let evaluate = evaluate.list.finish();
    let prepare = list(rank, |list| local.prepare(list));
    RankPlan { rank, slots: slots.finish(), comm_lanes: schedule.splits.len(), prepare, train, evaluate }
}

/// Writes a rank's lists.
struct Writer<'a> {
    at: Place<'a>,
    weights: Weights<'a>,
    gradients: Gradients<'a>,
    /// Embedding and head, where every rank has them.
    replicated: Replicated,
}

impl Writer<'_> {
    fn train(&mut self, draft: &mut Draft, timetable: &Timetable) {
        let Place { options, local, group, .. } = self.at;
        if self.at.micro(0).is_none() {
            self.replicated.clear(&mut draft.list, local);
        }
        let last: Vec<_> =
            self.replicated.shards.iter().map(|&shard| (shard, timetable.last_gradient(shard))).collect();
        for time in 0..timetable.end() {
            if options.overlap {
                self.weights.bring_in(draft, timetable, time);
            }
            if let Some(step) = timetable.step(group, time) {
                self.compute(draft, step, true);
            }
            self.gradients.take_home(draft, timetable, time);
            for &(shard, _) in last.iter().filter(|(_, last)| *last == Some(time)) {
                self.replicated.sum(&mut draft.list, draft.slots, local, shard);
            }
            if !options.overlap {
                self.weights.bring_in(draft, timetable, time);
            }
        }
        self.finish(draft, true);
    }

    fn evaluate(&mut self, draft: &mut Draft, timetable: &Timetable) {
        self.weights.begin();
        for time in 0..timetable.end() {
            if self.at.options.overlap {
                self.weights.bring_in(draft, timetable, time);
            }
            if let Some(step) = timetable.step(self.at.group, time) {
                self.compute(draft, step, false);
            }
            if !self.at.options.overlap {
                self.weights.bring_in(draft, timetable, time);
            }
        }
        self.finish(draft, false);
    }

    /// The computation of a step on this rank's micro-batch.
    fn compute(&mut self, draft: &mut Draft, group_step: &GroupStep, training: bool) {
        let GroupStep { step, buffer, .. } = *group_step;
        let Step { pass, shard } = step;
        let Some(micro) = self.at.micro(group_step.round) else { return };
        let (local, work) = (self.at.local, Work { micro, chunk: 0 });
        // Without a buffer the shard lives on this rank, or its weights are not needed.
        let weights = match buffer {
            Some(buffer) => Some(self.weights.region(draft, shard, buffer)),
            None => local.own(shard).map(|owned| owned.weights()),
        };
        // A gradient that is sent starts in a slot of its own; another is accumulated in place.
        let (gradient, start, accumulate) = match &group_step.gradient {
            Some(range) => (Some(self.gradients.outgoing(draft, range.len())), range.start, false),
            None => (local.own(shard).map(|owned| owned.accumulator), 0, self.gradients.started(shard)),
        };
        let shards = self.at.shards;
        let range = |unit| &shards.place(unit).range;
        let weights = |unit| weights.expect("a step that needs weights").sub(range(unit).clone());
        let into = |unit| {
            let (range, gradient) = (range(unit), gradient.expect("in training a step gives a gradient"));
            (gradient.sub(range.start - start..range.end - start), accumulate)
        };
        if let (Some(all), Pass::EmbedBackward, Some(gradient)) = (&group_step.gradient, pass, gradient) {
            // The rest of a tied shard, if that is sent too.
            let rest = range(Unit::Embed).len()..all.len();
            if !rest.is_empty() {
                draft.list.push(Lane::Compute, Action::Clear { dst: gradient.sub(rest) });
            }
        }
        local.step(&mut draft.list, shards, step, work, weights, training.then_some(into));
        let gives = matches!(pass, Pass::Head | Pass::EmbedBackward);
        if training && gives && group_step.gradient.is_none() {
            self.gradients.start(shard);
        }
    }

    /// Statistics and update, on the channel that all ranks share.
    fn finish(&self, draft: &mut Draft, training: bool) {
        let direct = self.at.options.hop == Hops::Direct;
        let channel = if direct { Channel::GradientHop } else { Channel::AllReduce };
        self.at.local.finish(&mut draft.list, training, channel.lane(), channel.comm());
    }
}
