//! What all ranks know alike: which group makes which visit at which tick of the global clock, and what hops between
//! groups because of it.

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::ShardId;
use crate::plan::{Job, Payload};

use super::super::walk::Pass;
use super::super::{Schedule, Stagger};
use super::options;
use super::visits::{Visit, visits};

/// A message between groups.
#[derive(Clone, Debug)]
pub struct Hop {
    pub from: Rank,
    pub to: Rank,
    pub payload: Payload,
}

/// A shard whose weights come to a group, and the ring slot they come into where they are not at home.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    pub shard: ShardId,
    pub slot: usize,
}

/// The course of an iteration or an evaluation.
pub struct Course<'a> {
    schedule: &'a Schedule,
    job: &'a Job,
    groups: &'a Groups,
    /// Visits of the first group, which has the most rounds; the others make the first of them.
    visits: Vec<Visit>,
}

impl<'a> Course<'a> {
    pub fn new(schedule: &'a Schedule, training: bool) -> Self {
        let job = &schedule.job;
        let travels = |shard: ShardId| schedule.owners()[shard].is_some();
        let visits = visits(&schedule.shards, rounds(job, 0), training, travels);
        Course { schedule, job, groups: &job.groups, visits }
    }

    /// Ticks until the last group has made its last visit.
    pub fn ticks(&self) -> usize {
        self.first(self.groups.count() - 1) + self.visits.len()
    }

    /// The tick at which a group makes its first visit; tick 0 only fetches.
    fn first(&self, group: usize) -> usize {
        match options(self.job).stagger {
            Stagger::None => 1,
            Stagger::Slots => 1 + group,
        }
    }

    fn makes(&self, group: usize, index: usize) -> bool {
        self.visits.get(index).is_some_and(|visit| visit.round < rounds(self.job, group))
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
        self.makes(group, index).then_some(Fetch { shard: visit.shard, slot: ring.slot })
    }

    /// The owner of a shard that travels.
    pub fn owner(&self, shard: ShardId) -> Rank {
        self.schedule.owners()[shard].expect("a shard that travels has an owner")
    }

    /// The rank of a group through which a shard comes in and its gradient goes out: the owner itself, or the one with
    /// the owner's local index (modulo the group's size).
    pub fn gate(&self, group: usize, shard: ShardId) -> Rank {
        let (_, local) = self.groups.locate(self.owner(shard));
        self.groups.members(group).start + local % self.groups.size(group)
    }

    /// Weights that hop at a tick, from owners to gates.
    pub fn weight_hops(&self, tick: usize) -> Vec<Hop> {
        let hop = |group| {
            let shard = self.fetch(group, tick)?.shard;
            let (from, to) = (self.owner(shard), self.gate(group, shard));
            let all = 0..self.schedule.shards.shards[shard].len;
            (from != to).then_some(Hop { from, to, payload: Payload::Weights(shard, all) })
        };
        (0..self.groups.count()).filter_map(hop).collect()
    }

    /// The shard and the part of it whose gradient a group computes at a tick, if it travels.
    pub fn gradient(&self, group: usize, tick: usize) -> Option<(ShardId, Range<usize>)> {
        let visit = self.visit(group, tick)?;
        visit.gradient.clone().map(|range| (visit.shard, range))
    }

    /// Gradients that hop at a tick, from gates to owners, in waves: an owner receives one at a time, which bounds its
    /// memory, while different owners receive together.
    pub fn gradient_hops(&self, tick: usize) -> Vec<Vec<Hop>> {
        let mut waves: Vec<Vec<Hop>> = Vec::new();
        for group in 0..self.groups.count() {
            let Some((shard, range)) = self.gradient(group, tick) else { continue };
            let (from, to) = (self.gate(group, shard), self.owner(shard));
            if from == to {
                continue;
            }
            let hop = Hop { from, to, payload: Payload::Gradient(shard, range) };
            match waves.iter_mut().find(|wave| wave.iter().all(|other| other.to != to)) {
                Some(wave) => wave.push(hop),
                None => waves.push(vec![hop]),
            }
        }
        waves
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
fn rounds(job: &Job, group: usize) -> usize {
    let ranks = job.groups.ranks();
    (job.batch.micros + ranks - 1 - job.groups.members(group).start) / ranks
}
