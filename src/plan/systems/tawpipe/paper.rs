//! TawPipe as published, the whole of it in one file: Wu and Chen, *TawPipe: Topology-Aware Weight Pipeline Parallelism for
//! Accelerating Long-Context Large Models Training*, AAAI 2026. docs/tawpipe.md explains it with a worked example.
//!
//! A group is the ranks of one node. Every rank trains on micro-batches of its own, through the whole model, so that no
//! activation leaves it: the weights come to it, one shard (a block, or a few) at a time. The paper has three parts:
//!
//! 1. *Device-bound storage* ([`Storage`]): every shard has one owner; only embedding and head are on all ranks.
//! 2. *Group-based weight pipeline scheduler* ([`Scheduler`]): a shard hops once from its owner to the staging rank of each
//!    other group, and is broadcast inside the group. Gradients take the same way back.
//! 3. *Communication-computation overlap* ([`Writer`]): the weights of the next step come in while the present step computes,
//!    and the gradient of a step leaves while the next one computes. There are two buffers for each.
//!
//! Every rank writes its own list of ops, all along the same clock (see [`super`] for why none waits for ever). What goes
//! beyond the paper is in the other files of this folder; where nothing of that is chosen, they give these very plans.

use crate::cluster::{Groups, Rank};
use crate::model::{ShardId, Shards};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::Collective;
use crate::plan::{Algorithm, Job, Payload, RankPlan, Region, Segment, Work};

use super::super::Schedule;
use super::super::local::{Local, list};
use super::super::replicated::Replicated;
use super::super::steps::{Pass, Step, steps};
use super::buffers::{GradientBuffers, Reduction};
use super::channel::{Channel, Exchange, Hop, waves};

/// Device-bound storage: who owns and who stages each shard.
struct Storage<'a> {
    groups: &'a Groups,
    /// The owner of each shard; none if it is replicated. Consecutive shards belong to consecutive groups: of G equal groups,
    /// shard s to local rank s div G of group s mod G.
    owners: &'a [Option<Rank>],
}

impl Storage<'_> {
    fn owner(&self, shard: ShardId) -> Rank {
        self.owners[shard].expect("a shard that is not replicated")
    }

    /// The rank through which a shard comes into a group and its gradient leaves: the owner, or the one with its local index.
    fn staging_rank(&self, group: usize, shard: ShardId) -> Rank {
        let (home, local) = self.groups.locate(self.owner(shard));
        if home == group {
            self.owner(shard)
        } else {
            self.groups.members(group).start + local % self.groups.size(group)
        }
    }
}

/// What all ranks of a group do at the same time, each with its own micro-batch of the round.
struct GroupStep {
    round: usize,
    step: Step,
    /// The buffer of the weights; none if they are replicated, or not needed.
    buffer: Option<usize>,
    /// The later step whose weights come in while this one computes.
    prefetch: Option<usize>,
}

/// The group-based scheduler: which group makes which step when. Time counts steps.
struct Scheduler {
    /// The steps of the first group, which has the most rounds; the others make the first of them.
    steps: Vec<GroupStep>,
    /// Rounds of each group.
    rounds: Vec<usize>,
    /// Steps by which each group starts after the one before it: one in the paper, so that groups exchange shards in pairs.
    delay: usize,
}

impl Scheduler {
    fn new(schedule: &Schedule, delay: usize, training: bool) -> Self {
        let (groups, micros) = (&schedule.job.groups, schedule.job.batch.micros);
        // Micro-batch m runs on rank m mod N in round m div N: of a group's ranks, the first has the most rounds.
        let rounds_of = |group| (micros + groups.ranks() - 1 - groups.members(group).start) / groups.ranks();
        let rounds: Vec<usize> = (0..groups.count()).map(rounds_of).collect();
        let mut all: Vec<GroupStep> = Vec::new();
        // What each buffer holds: at the turn from forward to backward, and at that to the next round, no transfer is needed.
        let mut held = [None; 2];
        let (mut buffer, mut last) = (1, 0);
        for round in 0..rounds[0] {
            for step in steps(&schedule.shards, training) {
                let comes = step.pass.needs_weights() && schedule.owners()[step.shard].is_some();
                if comes {
                    let found = held.iter().position(|&shard| shard == Some(step.shard));
                    buffer = found.unwrap_or(1 - buffer);
                    if found.is_none() {
                        held[buffer] = Some(step.shard);
                        // While the last step before computes that needs weights: it uses the other buffer.
                        all[last].prefetch = Some(all.len());
                    }
                    last = all.len();
                }
                all.push(GroupStep { round, step, buffer: comes.then_some(buffer), prefetch: None });
            }
        }
        Scheduler { steps: all, rounds, delay }
    }

    /// The time at which the last group ends.
    fn end(&self) -> usize {
        self.steps.len() + self.delay * (self.rounds.len() - 1)
    }

    /// The step of a group at a time.
    fn step(&self, group: usize, time: usize) -> Option<&GroupStep> {
        self.steps.get(time.checked_sub(group * self.delay)?).filter(|step| step.round < self.rounds[group])
    }

    /// The shard whose weights come to a group at a time, and the buffer they come into.
    fn prefetch(&self, group: usize, time: usize) -> Option<(ShardId, usize)> {
        let next = &self.steps[self.step(group, time)?.prefetch?];
        Some((next.step.shard, next.buffer?)).filter(|_| next.round < self.rounds[group])
    }

    /// The shard whose gradient a group computes at a time, unless it is replicated.
    fn gradient(&self, group: usize, time: usize) -> Option<ShardId> {
        let Step { pass, shard } = self.step(group, time)?.step;
        (pass == Pass::Backward).then_some(shard)
    }

    /// When the last gradient of a replicated shard is computed anywhere.
    fn last_gradient(&self, shard: ShardId) -> Option<usize> {
        let gives = |s: &GroupStep| s.step.shard == shard && matches!(s.step.pass, Pass::Head | Pass::EmbedBackward);
        (0..self.end()).rfind(|&time| (0..self.rounds.len()).any(|group| self.step(group, time).is_some_and(gives)))
    }
}

/// A rank's plan; `delay` as in [`Scheduler`].
pub fn plan(schedule: &Schedule, delay: usize, rank: Rank) -> RankPlan {
    let Schedule { job, shards, .. } = schedule;
    let (storage, ids) = (Storage { groups: &job.groups, owners: schedule.owners() }, 0..shards.shards.len());
    let mut slots = Slots::default();
    // Of a replicated shard the copy on rank 0 counts in the gradient's norm.
    let counts = |shard: ShardId| (shard, storage.owners[shard].unwrap_or(0) == rank);
    let own = ids.clone().map(counts).filter(|&(shard, counts)| counts || storage.owners[shard].is_none());
    let local = Local::new(&mut slots, job, shards, own);
    let replicated = ids.filter(|&shard| storage.owners[shard].is_none()).collect();
    let mut writer = Writer {
        job,
        shards,
        storage,
        rank,
        group: job.groups.group_of(rank),
        local: &local,
        replicated: Replicated::new(job, replicated, Channel::AllReduce.lane(), Channel::AllReduce.comm()),
        slots: &mut slots,
        weights: [0, 1].map(|i| Elastic::new(format!("ring {i}"), job.dtype, Segment::Ring)),
        gradients: GradientBuffers::new(job),
        started: vec![false; shards.shards.len()],
    };
    let train = list(rank, |list| writer.iteration(list, &Scheduler::new(schedule, delay, true), true));
    let evaluate = list(rank, |list| writer.iteration(list, &Scheduler::new(schedule, delay, false), false));
    let prepare = list(rank, |list| local.prepare(list));
    RankPlan { rank, slots: slots.finish(), comm_lanes: schedule.splits.len(), prepare, train, evaluate }
}

/// Writes a rank's lists.
struct Writer<'a> {
    job: &'a Job,
    shards: &'a Shards,
    storage: Storage<'a>,
    rank: Rank,
    group: usize,
    /// The rank's own shards, and the activations of its micro-batch.
    local: &'a Local,
    replicated: Replicated,
    slots: &'a mut Slots,
    weights: [Elastic; 2],
    gradients: GradientBuffers,
    /// Shards whose gradient sum has been written in this iteration.
    started: Vec<bool>,
}

impl Writer<'_> {
    /// An iteration of the training, or an evaluation.
    fn iteration(&mut self, list: &mut List, scheduler: &Scheduler, training: bool) {
        if training && self.micro(0).is_none() {
            self.replicated.clear(list, self.local);
        }
        let with_end = |&shard: &ShardId| (shard, scheduler.last_gradient(shard));
        let replicated: Vec<_> = self.replicated.shards.iter().map(with_end).collect();
        for time in 0..scheduler.end() {
            self.bring_weights(list, scheduler, time);
            self.compute(list, scheduler, time, training);
            if training {
                self.take_gradients(list, scheduler, time);
            }
            for &(shard, _) in replicated.iter().filter(|&&(_, end)| training && end == Some(time)) {
                self.replicated.sum(list, self.slots, self.local, shard);
            }
        }
        self.local.finish(list, training, Channel::GradientHop.lane(), Channel::GradientHop.comm());
    }

    /// Weights hop from owners to staging ranks, for all groups together, and are broadcast inside each group.
    fn bring_weights(&mut self, list: &mut List, scheduler: &Scheduler, time: usize) {
        let mut exchange = Exchange::default();
        for group in 0..self.storage.groups.count() {
            let Some((shard, buffer)) = scheduler.prefetch(group, time) else { continue };
            let (from, to) = (self.storage.owner(shard), self.storage.staging_rank(group, shard));
            if from != to {
                let payload = Payload::Weights(shard, 0..self.shards.elems(shard));
                exchange.add(self.rank, Hop { from, to, payload }, || self.weights(shard, buffer));
            }
        }
        Channel::WeightHop.exchange(list, exchange, &[]);
        let size = self.storage.groups.size(self.group);
        if let Some((shard, buffer)) = scheduler.prefetch(self.group, time).filter(|_| size > 1) {
            let broadcast = Collective::Broadcast(self.storage.staging_rank(self.group, shard));
            // Whole messages down a shallow tree, or chunks along a chain of many ranks.
            let how = (broadcast, if size <= 4 { Algorithm::Tree } else { Algorithm::Chain });
            let (region, payload) = (self.weights(shard, buffer), Payload::Weights(shard, 0..self.shards.elems(shard)));
            Channel::Broadcast.collective(list, how, region, None, payload, &[]);
        }
    }

    /// The present step of this rank's group, on this rank's micro-batch.
    fn compute(&mut self, list: &mut List, scheduler: &Scheduler, time: usize, training: bool) {
        let Some(&GroupStep { round, step, buffer, .. }) = scheduler.step(self.group, time) else { return };
        let Some(micro) = self.micro(round) else { return };
        let shard = step.shard;
        let weights = match buffer {
            Some(buffer) => Some(self.weights(shard, buffer)),
            None => self.local.own(shard).map(|owned| owned.weights()),
        };
        // A replicated shard's gradient is accumulated in place; another's leaves.
        let (gradient, accumulate) = match step.pass {
            Pass::Backward => (Some(self.gradients.outgoing(self.slots, self.shards.elems(shard))), false),
            _ => (self.local.own(shard).map(|owned| owned.accumulator), self.started[shard]),
        };
        let shards = self.shards;
        let part = |all: Option<Region>, unit| all.expect("the step's").sub(shards.place(unit).range.clone());
        let into = |unit| (part(gradient, unit), accumulate);
        let work = Work { micro, chunk: 0 };
        self.local.step(list, shards, step, work, |unit| part(weights, unit), training.then_some(into));
        self.started[shard] |= training && matches!(step.pass, Pass::Head | Pass::EmbedBackward);
    }

    /// Gradients are reduced inside each group onto its staging rank, and hop from there to the owner, who adds them up.
    fn take_gradients(&mut self, list: &mut List, scheduler: &Scheduler, time: usize) {
        let mut staged = None;
        if let Some(shard) = scheduler.gradient(self.group, time) {
            let root = self.storage.staging_rank(self.group, shard);
            let reduction = Reduction {
                how: (Collective::Reduce(root), Algorithm::Chain),
                size: self.storage.groups.size(self.group),
                leaves: root != self.storage.owner(shard),
                computed: scheduler.step(self.group, time).is_some_and(|step| self.micro(step.round).is_some()),
            };
            let sum = self.gradients.reduce(list, self.slots, reduction, shard, 0..self.shards.elems(shard));
            if self.rank == self.storage.owner(shard) {
                self.accumulate(list, Channel::Reduce, shard, sum);
            }
            staged = Some(sum);
        }
        let hop = |group| {
            let shard = scheduler.gradient(group, time)?;
            let (from, to) = (self.storage.staging_rank(group, shard), self.storage.owner(shard));
            (from != to).then(|| Hop { from, to, payload: Payload::Gradient(shard, 0..self.shards.elems(shard)) })
        };
        for wave in waves((0..self.storage.groups.count()).filter_map(hop)) {
            let (mut exchange, mut arrived) = (Exchange::default(), None);
            for hop in wave {
                let Payload::Gradient(shard, _) = hop.payload else { unreachable!("gradients hop back") };
                let mut region = staged;
                if hop.to == self.rank {
                    region = Some(self.gradients.incoming(self.slots, self.shards.elems(shard)));
                    arrived = region.map(|region| (shard, region));
                }
                exchange.add(self.rank, hop, || region.expect("its group's sum"));
            }
            Channel::GradientHop.exchange(list, exchange, &[]);
            if let Some((shard, region)) = arrived {
                self.accumulate(list, Channel::GradientHop, shard, region);
            }
        }
    }

    /// The owner adds a gradient to the iteration's sum.
    fn accumulate(&mut self, list: &mut List, channel: Channel, shard: ShardId, gradient: Region) {
        let sum = self.local.own(shard).expect("the owner").accumulator;
        let first = !std::mem::replace(&mut self.started[shard], true);
        channel.accumulate(list, gradient, sum, first);
    }

    /// A shard's weights: its owner's, or those in a buffer.
    fn weights(&mut self, shard: ShardId, buffer: usize) -> Region {
        let own = self.local.own(shard).map(|owned| owned.weights());
        own.unwrap_or_else(|| self.weights[buffer].take(self.slots, self.shards.elems(shard)))
    }

    /// This rank's micro-batch of a round.
    fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.storage.groups.ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }
}
