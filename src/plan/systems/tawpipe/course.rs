//! What all ranks know alike: which group makes which visit at which tick of the global clock, and what hops between
//! groups because of it.

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::ShardId;
use crate::plan::{Job, Payload};

use super::super::walk::Pass;
use super::super::{GradSync, Schedule};
use super::holders::Holders;
use super::options;
use super::options::{Hops, Settled, Stagger, WeightCache};
use super::visits::{Visit, visits};

/// A message between groups.
#[derive(Clone, Debug)]
pub struct Hop {
    pub from: Rank,
    pub to: Rank,
    pub payload: Payload,
}

/// A shard whose weights come to all ranks of a group, and the ring slot they come into where they are not kept.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    pub shard: ShardId,
    pub slot: usize,
    /// The group has not had it before.
    first: bool,
}

/// The course of an iteration or an evaluation.
pub struct Course<'a> {
    job: &'a Job,
    options: Settled,
    pub holders: &'a Holders,
    groups: &'a Groups,
    /// Visits of the first group, which has the most rounds; the others make the first of them.
    visits: Vec<Visit>,
}

impl<'a> Course<'a> {
    pub fn new(schedule: &'a Schedule, holders: &'a Holders, training: bool) -> Self {
        let (job, options, groups) = (&schedule.job, options(&schedule.job), &holders.groups);
        let travels = |shard| holders.home(shard).is_some();
        let visits = visits(&schedule.shards, rounds(job, groups, 0), training, &options, travels);
        Course { job, options, holders, groups, visits }
    }

    /// Rounds that a group takes part in: those in which it has a micro-batch. What groups do together they do in all.
    fn rounds(&self, group: usize) -> usize {
        match self.options.hop {
            Hops::Direct => rounds(self.job, self.groups, group),
            Hops::Collective => rounds(self.job, self.groups, 0),
        }
    }

    /// Ticks until the last group has made its last visit.
    pub fn ticks(&self) -> usize {
        self.first(self.groups.count() - 1) + self.visits.len()
    }

    /// The tick at which a group makes its first visit; tick 0 only fetches.
    fn first(&self, group: usize) -> usize {
        match self.options.stagger {
            Stagger::None => 1,
            Stagger::Slots => 1 + group,
        }
    }

    fn makes(&self, group: usize, index: usize) -> bool {
        self.visits.get(index).is_some_and(|visit| visit.round < self.rounds(group))
    }

    /// The visit that a group makes at a tick.
    pub fn visit(&self, group: usize, tick: usize) -> Option<&Visit> {
        let index = tick.checked_sub(self.first(group))?;
        self.makes(group, index).then(|| &self.visits[index])
    }

    /// The weights that come to a group while its visit of a tick computes (before the first visit: at the tick before).
    pub fn fetch(&self, group: usize, tick: usize) -> Option<Fetch> {
        let next = (tick + 1).checked_sub(self.first(group))?;
        let under = next.checked_sub(1);
        let index = (next..self.visits.len()).find(|&index| self.visits[index].ring.is_some())?;
        let visit = &self.visits[index];
        let ring = visit.ring.filter(|ring| ring.fetch == Some(under))?;
        self.makes(group, index).then_some(Fetch { shard: visit.shard, slot: ring.slot, first: ring.first })
    }

    /// Whether what is fetched comes from another group, unless this is its home.
    pub fn comes_over(&self, fetch: &Fetch) -> bool {
        self.groups.count() > 1 && (self.options.weight_cache == WeightCache::None || fetch.first)
    }

    /// Weights that hop at a tick: to each group what it fetches and has not kept, part by part, from those who own it
    /// to those who hold it there.
    pub fn weight_hops(&self, tick: usize) -> Vec<Hop> {
        let mut hops = Vec::new();
        for group in 0..self.groups.count() {
            let Some(fetch) = self.fetch(group, tick).filter(|fetch| self.comes_over(fetch)) else { continue };
            let shard = fetch.shard;
            let home = self.holders.home(shard).expect("what is fetched has a home");
            if home == group {
                continue;
            }
            for ((from, part), (to, _)) in self.holders.of(home, shard).zip(self.holders.of(group, shard)) {
                hops.push(Hop { from, to, payload: Payload::Weights(shard, part) });
            }
        }
        hops
    }

    /// The shard and the part of it whose gradient a group computes at a tick, if it travels.
    pub fn gradient(&self, group: usize, tick: usize) -> Option<(ShardId, Range<usize>)> {
        let visit = self.visit(group, tick)?;
        visit.gradient.clone().map(|range| (visit.shard, range))
    }

    /// Gradients that hop at a tick, from holders to owners, in waves: an owner receives one at a time, which bounds its
    /// memory, while different owners receive together.
    pub fn gradient_hops(&self, tick: usize) -> Vec<Vec<Hop>> {
        let mut waves: Vec<Vec<Hop>> = Vec::new();
        for group in 0..self.groups.count() {
            let Some((shard, range)) = self.gradient(group, tick) else { continue };
            let home = self.holders.home(shard).expect("a gradient that travels has a home");
            let once = self.options.grad_sync == GradSync::Iteration;
            if home == group || !self.goes_over(group, tick) {
                continue;
            }
            for ((from, part), (to, _)) in self.holders.of(group, shard).zip(self.holders.of(home, shard)) {
                // A sum over the iteration is of all that the rank holds.
                let range = if once { part } else { part.start.max(range.start)..part.end.min(range.end) };
                let hop = Hop { from, to, payload: Payload::Gradient(shard, range) };
                match waves.iter_mut().find(|wave| wave.iter().all(|other| other.to != to)) {
                    Some(wave) => wave.push(hop),
                    None => waves.push(vec![hop]),
                }
            }
        }
        waves
    }

    /// Whether the gradient that a group computes at a tick, or the sum of the iteration's, goes home now.
    pub fn goes_over(&self, group: usize, tick: usize) -> bool {
        self.groups.count() > 1 && (self.options.grad_sync == GradSync::Round || self.is_last(group, tick))
    }

    /// Whether a group's visit of a tick gives the iteration's last gradient of its shard there.
    fn is_last(&self, group: usize, tick: usize) -> bool {
        let last = self.rounds(group) - 1;
        self.visit(group, tick).is_some_and(|visit| visit.round == last && visit.closes)
    }

    /// The tick at which the last gradient of a shard that does not travel is computed.
    pub fn last_gradient(&self, shard: ShardId) -> Option<usize> {
        let gives = |visit: &Visit| visit.shard == shard && matches!(visit.pass, Pass::Head | Pass::EmbedBackward);
        let last = |group| {
            let index = (0..self.visits.len()).rfind(|&i| gives(&self.visits[i]) && self.makes(group, i))?;
            Some(self.first(group) + index)
        };
        (0..self.groups.count()).filter_map(last).max()
    }
}

/// Rounds in which any rank of a group has a micro-batch: its lowest rank has the most.
fn rounds(job: &Job, groups: &Groups, group: usize) -> usize {
    let ranks = groups.ranks();
    (job.batch.micros + ranks - 1 - groups.members(group).start) / ranks
}
