//! One rank's memory and lists of ops.

use std::ops::Range;

use crate::cluster::Rank;
use crate::model::{Dtype, ShardId, Shards, Unit};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::{Collective, piece};
use crate::plan::{Action, Algorithm, Call, Holding, Job, Lane, Payload, RankPlan, Region, Segment, Work};

use super::super::Schedule;
use super::super::local::{Flights, Local, Owned, holding, list};
use super::super::steps::{Pass, Step, steps};
use super::cache::{Need, uses};
use super::gradients::Gradients;
use super::{Channel, Recipe};

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank, recipe: Recipe) -> RankPlan {
    let Schedule { job, shards, splits, .. } = schedule;
    let set = |channel: Channel| splits.get(channel.comm()).and_then(|split| split.set_of(rank)).unwrap_or(&[]);
    let (inside, across) = (set(Channel::Reduce), set(Channel::Across));
    let index = inside.iter().position(|&member| member == rank).expect("every rank is in a set");

    let mut slots = Slots::default();
    let (mut homes, mut sums, mut owned) = (Vec::new(), Vec::new(), Vec::new());
    for (shard, len) in shards.shards.iter().map(|shard| shard.len).enumerate() {
        let all = Holding { shard, range: 0..len, primary: false };
        let range = if recipe.pieces { piece(len, inside.len(), index) } else { 0..len };
        // Every set has a copy; the first set's counts. Without pieces, so does every rank.
        let primary = if recipe.pieces { inside[0] == 0 } else { rank == 0 };
        let holds = Holding { shard, range: range.clone(), primary };
        let home = (recipe.gathered.is_none() && (recipe.pieces || job.dtype != Dtype::F32))
            .then(|| holding(&mut slots, &all, "home", job.dtype, Segment::Home));
        let mut accumulator = |holds| holding(&mut slots, holds, "accumulator", Dtype::F32, Segment::Accumulator);
        let sum = recipe.whole.then(|| accumulator(&all));
        sums.extend(sum);
        if !range.is_empty() {
            let accumulator = sum.map_or_else(|| accumulator(&holds), |sum| sum.sub(range.clone()));
            owned.push(Owned::with(&mut slots, holds, home.map(|home| home.sub(range)), accumulator));
        }
        if recipe.gathered.is_none() {
            homes.push(home.unwrap_or_else(|| owned[owned.len() - 1].master));
        }
    }
    let local = Local::with(&mut slots, job, shards, owned, Flights::One);
    let count = shards.shards.len();
    let rings = recipe.gathered.map_or(0, |gathered| if gathered.keep { count } else { gathered.prefetch + 1 });
    let mut writer = Writer {
        job,
        shards,
        rank,
        recipe,
        inside,
        across,
        local: &local,
        slots: &mut slots,
        homes,
        ring: (0..rings).map(|i| Elastic::new(format!("ring {i}"), job.dtype, Segment::Ring)).collect(),
        gradients: Gradients::new(job, sums),
    };
    let train = list(rank, |list| writer.train(list));
    let evaluate = list(rank, |list| writer.evaluate(list));
    let prepare = list(rank, |list| writer.prepare(list));
    RankPlan { rank, slots: slots.finish(), comm_lanes: splits.len(), prepare, train, evaluate }
}

/// Writes a rank's lists.
pub struct Writer<'a> {
    pub job: &'a Job,
    pub shards: &'a Shards,
    rank: Rank,
    pub recipe: Recipe,
    /// Ranks that have a shard's pieces between them (or each all of it), in the order of the pieces.
    pub inside: &'a [Rank],
    /// Ranks with the same pieces.
    pub across: &'a [Rank],
    pub local: &'a Local,
    pub slots: &'a mut Slots,
    /// Whole weights of every shard, where they are kept.
    homes: Vec<Region>,
    /// Whole weights that have been gathered.
    ring: Vec<Elastic>,
    pub gradients: Gradients,
}

impl Writer<'_> {
    fn train(&mut self, list: &mut List) {
        self.walk(list, true);
        self.finish(list, true);
        self.gather_homes(list);
    }

    fn evaluate(&mut self, list: &mut List) {
        self.walk(list, false);
        self.finish(list, false);
    }

    fn prepare(&mut self, list: &mut List) {
        self.local.prepare(list);
        self.gather_homes(list);
    }

    /// All rounds of an iteration or an evaluation.
    fn walk(&mut self, list: &mut List, training: bool) {
        let steps = steps(self.shards, training);
        let rounds = self.job.batch.rounds(self.job.groups.ranks());
        let all: Vec<(usize, Step)> =
            (0..rounds).flat_map(|round| steps.iter().map(move |&step| (round, step))).collect();

        let needs = all.iter().enumerate().filter(|(_, (round, step))| {
            self.recipe.gathered.is_some() && self.active(*round) && step.pass.needs_weights()
        });
        let needs: Vec<Need> = needs.map(|(index, (_, step))| Need { index, shard: step.shard }).collect();
        let prefetch = self.recipe.gathered.map_or(0, |gathered| gathered.prefetch);
        let mut slot_of = vec![None; all.len()];
        let mut fetches = vec![Vec::new(); all.len()];
        for (need, found) in needs.iter().zip(uses(&needs, self.ring.len(), prefetch)) {
            slot_of[need.index] = Some(found.slot);
            if let Some(before) = found.fetch {
                fetches[before].push((need.shard, found.slot));
            }
        }
        for (index, &(round, step)) in all.iter().enumerate() {
            for &(shard, slot) in &fetches[index] {
                self.gather(list, shard, slot);
            }
            let micro = self.micro(round);
            if let Some(micro) = micro {
                self.compute(list, step, Work { micro, chunk: 0 }, slot_of[index], training);
            }
            if training && self.completes(step) {
                self.collect(list, step.shard, micro.is_some(), self.active(round), round + 1 == rounds);
            }
        }
    }

    /// This rank's micro-batch in a round.
    fn micro(&self, round: usize) -> Option<usize> {
        Some(round * self.job.groups.ranks() + self.rank).filter(|&micro| micro < self.job.batch.micros)
    }

    /// Whether any rank of the set has a micro-batch in a round: its lowest has the most.
    fn active(&self, round: usize) -> bool {
        round * self.job.groups.ranks() + self.inside[0] < self.job.batch.micros
    }

    /// Whether a step gives the last part of its shard's gradient: a tied head's is followed by the embedding's.
    fn completes(&self, step: Step) -> bool {
        match step.pass {
            Pass::Embed | Pass::Forward => false,
            Pass::Head => !self.shared(step.shard),
            Pass::Backward | Pass::EmbedBackward => true,
        }
    }

    /// Whether embedding and head share this shard.
    pub fn shared(&self, shard: ShardId) -> bool {
        [Unit::Embed, Unit::Head].iter().all(|&unit| self.shards.place(unit).shard == shard)
    }

    fn compute(&mut self, list: &mut List, step: Step, work: Work, slot: Option<usize>, training: bool) {
        let shard = step.shard;
        let weights = match slot {
            Some(slot) => Some(self.ring[slot].take(self.slots, self.shards.elems(shard))),
            None => self.homes.get(shard).copied(),
        };
        let gives = matches!(step.pass, Pass::Head | Pass::Backward | Pass::EmbedBackward);
        let into = (training && gives).then(|| self.gradient(step));
        let shards = self.shards;
        let range = |unit| -> Range<usize> { shards.place(unit).range.clone() };
        let weights = |unit| weights.expect("a step that needs weights").sub(range(unit));
        let into = |unit| {
            let (region, accumulate) = into.expect("a step that gives a gradient");
            (region.sub(range(unit)), accumulate)
        };
        self.local.step(list, shards, step, work, weights, training.then_some(into));
    }

    /// Brings a shard's weights into a ring slot.
    fn gather(&mut self, list: &mut List, shard: ShardId, slot: usize) {
        let region = self.ring[slot].take(self.slots, self.shards.elems(shard));
        if let Some(owned) = self.local.own(shard) {
            list.push(
                self.lane(Channel::Gather),
                Action::Cast { src: owned.master, dst: region.sub(owned.range.clone()) },
            );
        }
        self.all_gather(list, shard, region);
    }

    /// Where updates write pieces of weights that are kept whole: gathers the others' pieces.
    fn gather_homes(&mut self, list: &mut List) {
        if self.recipe.pieces {
            for (shard, &home) in self.homes.iter().enumerate() {
                self.all_gather(list, shard, home);
            }
        }
    }

    fn all_gather(&self, list: &mut List, shard: ShardId, region: Region) {
        if self.inside.len() > 1 {
            let call = Call {
                comm: Channel::Gather.comm(),
                what: Collective::AllGather,
                algorithm: Algorithm::Ring,
                region,
                scratch: None,
                payload: Payload::Weights(shard, 0..region.len),
            };
            list.push(self.lane(Channel::Gather), Action::Collective(call));
        }
    }

    /// Statistics and update.
    fn finish(&self, list: &mut List, training: bool) {
        let channel = if self.across.is_empty() { Channel::Reduce } else { Channel::Statistics };
        self.local.finish(list, training, channel.lane(), channel.comm());
    }

    /// The lane of a communication and of the copies and sums that belong to it; one rank has only the one lane.
    pub fn lane(&self, channel: Channel) -> Lane {
        if self.job.groups.ranks() > 1 { channel.lane() } else { Lane::Compute }
    }
}
