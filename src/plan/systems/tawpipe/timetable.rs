//! What all ranks know alike: which group makes which step in which slot of a clock that all groups share, and what hops
//! between groups because of it.

use std::ops::Range;

use crate::cluster::Groups;
use crate::model::ShardId;
use crate::plan::{Job, Payload};

use super::super::steps::Pass;
use super::super::{GradSync, Schedule};
use super::channel::{Hop, waves};
use super::options;
use super::options::{Hops, Settled, Stagger, WeightCache};
use super::order::{GroupStep, Order, Prefetch};
use super::storage::Storage;

/// The timetable of an iteration or an evaluation. Its unit of time is one step.
pub struct Timetable<'a> {
    job: &'a Job,
    options: Settled,
    pub storage: &'a Storage,
    groups: &'a Groups,
    /// Steps of the first group, which has the most rounds; the others make the first of them.
    order: Order,
}

impl<'a> Timetable<'a> {
    pub fn new(schedule: &'a Schedule, storage: &'a Storage, training: bool) -> Self {
        let (job, options, groups) = (&schedule.job, options(&schedule.job), &storage.groups);
        let sent = |shard| storage.owner_group(shard).is_some();
        let order = Order::new(&schedule.shards, rounds(job, groups, 0), training, &options, sent);
        Timetable { job, options, storage, groups, order }
    }

    /// Rounds that a group takes part in: those in which it has a micro-batch. What groups do together they do in all.
    fn rounds(&self, group: usize) -> usize {
        match self.options.hop {
            Hops::Direct => rounds(self.job, self.groups, group),
            Hops::Collective => rounds(self.job, self.groups, 0),
        }
    }

    /// The time at which the last group has made its last step.
    pub fn end(&self) -> usize {
        self.start(self.groups.count() - 1) + self.order.steps.len()
    }

    /// The time at which a group makes its first step. At time 0 weights come in, and nothing is computed.
    fn start(&self, group: usize) -> usize {
        match self.options.stagger {
            Stagger::None => 1,
            Stagger::Slots => 1 + group,
        }
    }

    /// The step that a group makes at a time.
    pub fn step(&self, group: usize, time: usize) -> Option<&GroupStep> {
        let step = self.order.steps.get(time.checked_sub(self.start(group))?)?;
        (step.round < self.rounds(group)).then_some(step)
    }

    /// The weights that come to all ranks of a group while its step of a time computes.
    pub fn prefetch(&self, group: usize, time: usize) -> Option<Prefetch> {
        let prefetch = match (time + 1).checked_sub(self.start(group))? {
            0 => self.order.before,
            done => self.order.steps.get(done - 1)?.prefetch,
        };
        prefetch.filter(|prefetch| prefetch.round < self.rounds(group))
    }

    /// Whether what comes in comes from another group, unless this is the owner's.
    pub fn hops_in(&self, prefetch: &Prefetch) -> bool {
        self.groups.count() > 1 && (self.options.weight_cache == WeightCache::None || prefetch.first)
    }

    /// Weights that hop at a time: to each group what it needs next and has not kept, from the owners to the staging
    /// ranks.
    pub fn weight_hops(&self, time: usize) -> Vec<Hop> {
        let mut hops = Vec::new();
        for group in 0..self.groups.count() {
            let Some(prefetch) = self.prefetch(group, time).filter(|prefetch| self.hops_in(prefetch)) else { continue };
            let shard = prefetch.shard;
            let home = self.storage.owner_group(shard).expect("what is sent has an owner");
            if home == group {
                continue;
            }
            for ((from, part), (to, _)) in self.storage.parts(home, shard).zip(self.storage.parts(group, shard)) {
                hops.push(Hop { from, to, payload: Payload::Weights(shard, part) });
            }
        }
        hops
    }

    /// The shard and the part of it whose gradient a group computes at a time, if it is sent.
    pub fn gradient(&self, group: usize, time: usize) -> Option<(ShardId, Range<usize>)> {
        let step = self.step(group, time)?;
        step.gradient.clone().map(|range| (step.step.shard, range))
    }

    /// Gradients that hop at a time, from staging ranks to owners, an owner receiving one at a time.
    pub fn gradient_hops(&self, time: usize) -> Vec<Vec<Hop>> {
        let mut hops = Vec::new();
        for group in 0..self.groups.count() {
            let Some((shard, range)) = self.gradient(group, time) else { continue };
            let home = self.storage.owner_group(shard).expect("a gradient that is sent has an owner");
            let once = self.options.grad_sync == GradSync::Iteration;
            if home == group || !self.hops_home(group, time) {
                continue;
            }
            for ((from, part), (to, _)) in self.storage.parts(group, shard).zip(self.storage.parts(home, shard)) {
                // A sum over the iteration is of all that the rank stages.
                let range = if once { part } else { part.start.max(range.start)..part.end.min(range.end) };
                hops.push(Hop { from, to, payload: Payload::Gradient(shard, range) });
            }
        }
        waves(hops)
    }

    /// Whether the gradient that a group computes at a time, or the sum of the iteration's, goes to the owner now.
    pub fn hops_home(&self, group: usize, time: usize) -> bool {
        self.groups.count() > 1 && (self.options.grad_sync == GradSync::Round || self.is_last(group, time))
    }

    /// Whether a group's step of a time gives the iteration's last gradient of its shard there.
    fn is_last(&self, group: usize, time: usize) -> bool {
        let last = self.rounds(group) - 1;
        self.step(group, time).is_some_and(|step| step.round == last && step.completes)
    }

    /// The time at which the last gradient of a shard that is not sent is computed.
    pub fn last_gradient(&self, shard: ShardId) -> Option<usize> {
        let gives = |GroupStep { step, .. }: &GroupStep| {
            step.shard == shard && matches!(step.pass, Pass::Head | Pass::EmbedBackward)
        };
        let last = |group| (0..self.end()).rfind(|&time| self.step(group, time).is_some_and(gives));
        (0..self.groups.count()).filter_map(last).max()
    }
}

/// Rounds in which any rank of a group has a micro-batch: its lowest rank has the most.
fn rounds(job: &Job, groups: &Groups, group: usize) -> usize {
    let ranks = groups.ranks();
    (job.batch.micros + ranks - 1 - groups.members(group).start) / ranks
}
