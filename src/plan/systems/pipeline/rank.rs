//! One rank's lists of ops: its own part of the timetable.

use std::collections::HashMap;

use crate::cluster::Rank;
use crate::model::{Dtype, Unit, footprint};
use crate::plan::build::{List, Slots};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{
    Action, Algorithm, Call, HeadGradient, Job, Lane, Message, OpId, Payload, RankPlan, Region, Segment, Work, stats,
    step,
};

use super::super::local::{Owned, list, sum_stats};
use super::super::{Layout, Schedule};
use super::clock::{Event, Hop, Item, Pass};
use super::memory::Pool;
use super::{Timetable, stages, units};

/// A rank's plan.
pub fn plan(schedule: &Schedule, rank: Rank) -> RankPlan {
    let Layout::Stages(timetable) = &schedule.layout else { unreachable!("a pipeline has stages") };
    let mut writer = Writer::new(schedule, timetable, rank);
    let train = list(rank, |list| writer.train(list));
    let evaluate = list(rank, |list| writer.evaluate(list));
    let prepare = list(rank, |list| writer.owned.iter().for_each(|owned| owned.prepare(list)));
    let comm_lanes = schedule.splits.len();
    RankPlan { rank, slots: writer.slots.finish(), comm_lanes, prepare, train, evaluate }
}

/// A micro-batch and the number of an activation: i is the input of block i, or at last of the head.
type Key = (usize, usize);

struct Writer<'a> {
    schedule: &'a Schedule,
    job: &'a Job,
    timetable: &'a Timetable,
    rank: Rank,
    slots: Slots,
    owned: Vec<Owned>,
    step: Region,
    stats: Region,
    /// i32: inputs, then targets.
    tokens: Region,
    /// Micro-batch whose tokens are there.
    loaded: Option<usize>,
    workspace: Option<Region>,
    /// Activations and gradients with respect to them: `[micro * seq, dim]`.
    wide: Pool,
    /// What forward keeps for backward; with recomputation what it keeps for the next op.
    saved: Pool,
    pending: Pool,
    /// What is where at this point of the list.
    activations: HashMap<Key, Region>,
    dx: HashMap<Key, Region>,
    kept: HashMap<Key, Region>,
    halves: HashMap<Key, Region>,
    /// Sent under the present item, and so not to be used by the next.
    sent: Vec<Region>,
    /// Units whose gradient has been written in this iteration.
    begun: Vec<Unit>,
    /// If messages block: the last op of computation, and the messages since.
    last: Option<OpId>,
    messages: Vec<OpId>,
}

impl<'a> Writer<'a> {
    fn new(schedule: &'a Schedule, timetable: &'a Timetable, rank: Rank) -> Self {
        let Schedule { job, shards, .. } = schedule;
        let mut slots = Slots::default();
        let mut owned: Vec<Owned> = Vec::new();
        for unit in units(&timetable.stages, rank, job.shape.layers) {
            let place = shards.place(unit);
            // A tied head's region begins with the embedding's. The rank of both has it once; of two ranks, that of the
            // head has the primary copy.
            let ends = timetable.ends().filter(|_| job.shape.tied);
            if ends.is_some() || !owned.iter().any(|owned| owned.shard == place.shard) {
                let (range, primary) = match ends {
                    Some(_) => (place.range.clone(), unit != Unit::Embed),
                    None => (0..shards.shards[place.shard].len, true),
                };
                owned.push(Owned::new(&mut slots, job, place.shard, range, primary));
            }
        }
        let tokens = job.batch.micro_tokens();
        let step = slots.add("step", step::LEN, Dtype::F64, Segment::Scalars);
        let stats = slots.add("stats", stats::LEN, Dtype::F64, Segment::Scalars);
        let need = |unit| footprint(&job.shape, unit, job.dtype, job.recompute, job.batch.micro, job.batch.seq);
        let has = |end: Unit| units(&timetable.stages, rank, job.shape.layers).any(|unit| unit == end);
        // Stages between the ends see no tokens.
        let read = if has(Unit::Embed) || has(Unit::Head) { 2 * tokens } else { 0 };
        let workspace = units(&timetable.stages, rank, job.shape.layers).map(|unit| need(unit).workspace).max();
        let block = need(Unit::Block(0));
        Writer {
            schedule,
            job,
            timetable,
            rank,
            owned,
            step,
            stats,
            tokens: slots.add("tokens", read, Dtype::I32, Segment::Tokens),
            loaded: None,
            workspace: slots.add_some("workspace", workspace.unwrap_or(0), Dtype::Byte, Segment::Workspace),
            wide: Pool::new("activation", tokens * job.shape.dim, job.dtype, Segment::Activation),
            saved: Pool::new("saved", block.saved, Dtype::Byte, Segment::Saved),
            pending: Pool::new("pending", block.pending, Dtype::Byte, Segment::Pending),
            activations: HashMap::new(),
            dx: HashMap::new(),
            kept: HashMap::new(),
            halves: HashMap::new(),
            sent: Vec::new(),
            begun: Vec::new(),
            last: None,
            messages: Vec::new(),
            slots,
        }
    }

    fn train(&mut self, list: &mut List) {
        let timetable = self.timetable;
        // Where one rank has both, the tied head comes before the embedding's backward.
        if self.job.shape.tied && timetable.ends().is_none() {
            self.begun.push(Unit::Embed);
        }
        self.walk(list, &timetable.train[self.rank], true);
        self.sum_tied(list);
        for owned in &self.owned {
            owned.norm(list, self.stats);
        }
        self.sum_stats(list);
        for owned in &self.owned {
            owned.update(list, self.step, self.stats);
        }
    }

    fn evaluate(&mut self, list: &mut List) {
        let timetable = self.timetable;
        self.walk(list, &timetable.evaluate[self.rank], false);
        self.sum_stats(list);
    }

    fn walk(&mut self, list: &mut List, events: &[Event], training: bool) {
        (self.loaded, self.last) = (None, None);
        for event in events {
            match event {
                Event::Message(hop) => self.message(list, hop),
                Event::Compute(item) => {
                    // What is being sent stays as it is while the next item computes, unless that waits for messages.
                    let sent = std::mem::take(&mut self.sent);
                    let (now, later) = if self.timetable.blocking { (sent, Vec::new()) } else { (Vec::new(), sent) };
                    now.into_iter().for_each(|region| self.wide.give(region));
                    self.compute(list, *item, training);
                    later.into_iter().for_each(|region| self.wide.give(region));
                }
            }
        }
        std::mem::take(&mut self.sent).into_iter().for_each(|region| self.wide.give(region));
        self.messages.clear();
    }

    fn compute(&mut self, list: &mut List, item: Item, training: bool) {
        let layers = self.job.shape.layers;
        let work = Work { micro: item.micro, chunk: 0 };
        let timetable = self.timetable;
        let units = timetable.stages.units[item.chunk].clone().map(|place| stages::unit(place, layers));
        match item.pass {
            Pass::Forward => units.for_each(|unit| self.forward(list, unit, work, training)),
            Pass::Backward => units.rev().for_each(|unit| self.backward(list, unit, work)),
            Pass::Weight => units.rev().for_each(|unit| self.backward_weight(list, unit, work)),
        }
    }

    fn push(&mut self, list: &mut List, action: Action) {
        let id = list.push_after(Lane::Compute, action, &std::mem::take(&mut self.messages));
        self.last = Some(id);
    }

    /// Fetches a micro-batch, if it is not there from the last time; gives inputs (0) or targets (1).
    fn load(&mut self, list: &mut List, work: Work, half: usize) -> Region {
        if self.loaded.replace(work.micro) != Some(work.micro) {
            self.push(list, Action::Load { work, tokens: self.tokens });
        }
        let len = self.tokens.len / 2;
        self.tokens.sub(half * len..(half + 1) * len)
    }

    fn weights(&self, unit: Unit) -> Region {
        let place = self.schedule.shards.place(unit);
        self.own(unit).weights().sub(place.range.clone())
    }

    /// Where a unit's gradient goes, and whether it is added to what is there.
    fn gradient(&mut self, unit: Unit) -> (Region, bool) {
        let accumulate = self.begun.contains(&unit);
        if !accumulate {
            self.begun.push(unit);
        }
        let place = self.schedule.shards.place(unit);
        (self.own(unit).accumulator.sub(place.range.clone()), accumulate)
    }

    fn own(&self, unit: Unit) -> &Owned {
        let shard = self.schedule.shards.place(unit).shard;
        self.owned.iter().find(|owned| owned.shard == shard).expect("a rank owns the shards of its units")
    }

    fn forward(&mut self, list: &mut List, unit: Unit, work: Work, training: bool) {
        let (micro, workspace) = (work.micro, self.workspace);
        let (input, layer) = match unit {
            Unit::Embed => (self.load(list, work, 0), 0),
            Unit::Block(i) => (self.activations[&(micro, i)], i + 1),
            Unit::Head if training => return,
            Unit::Head => return self.head(list, work, None),
        };
        let keeps = training && self.job.recompute.forward_keeps() && matches!(unit, Unit::Block(_));
        let saved = keeps.then(|| self.saved.take(&mut self.slots));
        let output = self.wide.take(&mut self.slots);
        let weights = self.weights(unit);
        self.push(list, Action::Forward { unit, work, weights, input, output, saved, workspace });
        self.activations.insert((micro, layer), output);
        if let Unit::Block(i) = unit {
            self.kept.extend(saved.map(|region| ((micro, i), region)));
            if !training {
                let input = self.activations.remove(&(micro, i)).expect("just read");
                self.wide.give(input);
            }
        }
    }

    fn head(&mut self, list: &mut List, work: Work, gradient: Option<HeadGradient>) {
        let input = self.activations.remove(&(work.micro, self.job.shape.layers)).expect("the head has its input");
        let action = Action::HeadLoss {
            work,
            weights: self.weights(Unit::Head),
            input,
            targets: self.load(list, work, 1),
            gradient,
            loss: self.stats.sub(stats::LOSS..stats::LOSS + 1),
            workspace: self.workspace,
        };
        self.push(list, action);
        self.wide.give(input);
    }

    fn backward(&mut self, list: &mut List, unit: Unit, work: Work) {
        let (micro, workspace) = (work.micro, self.workspace);
        let layers = self.job.shape.layers;
        match unit {
            Unit::Head => {
                let dx = self.wide.take(&mut self.slots);
                let (weights, accumulate) = self.gradient(unit);
                self.head(list, work, Some(HeadGradient { dx, weights, accumulate }));
                self.dx.insert((micro, layers), dx);
            }
            Unit::Block(i) => self.backward_block(list, i, work),
            Unit::Embed => {
                let input = self.load(list, work, 0);
                let dx = self.dx.remove(&(micro, 0)).expect("the embedding has its gradient");
                let (gradient, accumulate) = self.gradient(unit);
                let action = Action::Backward {
                    unit,
                    work,
                    weights: None,
                    input,
                    saved: None,
                    dx,
                    gradient,
                    accumulate,
                    workspace,
                };
                self.push(list, action);
                self.wide.give(dx);
            }
        }
    }

    fn backward_block(&mut self, list: &mut List, block: usize, work: Work) {
        let (unit, workspace, key) = (Unit::Block(block), self.workspace, (work.micro, block));
        let weights = self.weights(unit);
        let input = self.activations.remove(&key).expect("a block has its input");
        let dx = self.dx.remove(&(work.micro, block + 1)).expect("a block has its gradient");
        let saved = match self.kept.remove(&key) {
            Some(saved) => saved,
            None => {
                let saved = self.saved.take(&mut self.slots);
                self.push(list, Action::Recompute { unit, work, weights, input, saved, workspace });
                saved
            }
        };
        let action = if self.timetable.split {
            let pending = self.pending.take(&mut self.slots);
            self.halves.insert(key, pending);
            Action::BackwardInput { unit, work, weights, input, saved, dx, pending, workspace }
        } else {
            let (gradient, accumulate) = self.gradient(unit);
            let (weights, saved) = (Some(weights), Some(saved));
            Action::Backward { unit, work, weights, input, saved, dx, gradient, accumulate, workspace }
        };
        self.push(list, action);
        self.dx.insert(key, dx);
        self.wide.give(input);
        self.saved.give(saved);
    }

    fn backward_weight(&mut self, list: &mut List, unit: Unit, work: Work) {
        // The ends have done all of their backward.
        let Unit::Block(block) = unit else { return };
        let pending = self.halves.remove(&(work.micro, block)).expect("half a backward is done");
        let (gradient, accumulate) = self.gradient(unit);
        self.push(list, Action::BackwardWeight { unit, work, pending, gradient, accumulate });
        self.pending.give(pending);
    }

    /// This rank's end of a message.
    fn message(&mut self, list: &mut List, hop: &Hop) {
        let timetable = self.timetable;
        let units = &timetable.stages.units[hop.item.chunk];
        let work = Work { micro: hop.item.micro, chunk: 0 };
        // Unit u (from 0) reads activation u - 1.
        let (payload, layer) = match hop.item.pass {
            Pass::Forward => (Payload::Activation(work, units.end - 1), units.end - 1),
            _ => (Payload::Dx(work, units.start - 1), units.start - 1),
        };
        let key = (hop.item.micro, layer);
        let place = if hop.item.pass == Pass::Forward { &mut self.activations } else { &mut self.dx };
        let (mut sends, mut recvs) = (Vec::new(), Vec::new());
        if hop.from == self.rank {
            let region = place.remove(&key).expect("what is sent has been computed");
            sends.push(Message { peer: hop.to, region, payload });
            self.sent.push(region);
        } else {
            let region = self.wide.take(&mut self.slots);
            place.insert(key, region);
            recvs.push(Message { peer: hop.from, region, payload });
        }
        let comm = timetable.way(hop);
        let action = Action::Exchange { comm, sends, recvs };
        let after = self.last.filter(|_| timetable.blocking);
        let id = list.push_after(Lane::Comm(comm), action, after.as_slice());
        if timetable.blocking {
            self.messages.push(id);
        }
    }

    /// Sums the gradient of a tied embedding over the two ranks that have it: both end with the same bits and make the
    /// same update.
    fn sum_tied(&mut self, list: &mut List) {
        let ends = self.timetable.ends().filter(|ends| self.job.shape.tied && ends.contains(&self.rank));
        let Some(ends) = ends else { return };
        let place = self.schedule.shards.place(Unit::Embed).clone();
        let sum = self.own(Unit::Embed).accumulator.sub(place.range.clone());
        let (comm, lane) = (self.timetable.tie(), Lane::Comm(self.timetable.tie()));
        let wire = self.job.grad_dtype;
        let casts = wire != Dtype::F32;
        let region = if casts { self.slots.add("tied wire", sum.len, wire, Segment::Gradient) } else { sum };
        if casts {
            list.push(lane, Action::Cast { src: sum, dst: region });
        }
        let (what, algorithm) = (Collective::AllReduce, Algorithm::Ring);
        let needed = scratch(what, algorithm, sum.len, ends.len());
        let call = Call {
            comm,
            what,
            algorithm,
            region,
            scratch: needed.map(|len| self.slots.add("tied scratch", len, wire, Segment::Gradient)),
            payload: Payload::Gradient(place.shard, place.range),
        };
        list.push(lane, Action::Collective(call));
        if casts {
            list.push(lane, Action::Cast { src: region, dst: sum });
        }
    }

    fn sum_stats(&self, list: &mut List) {
        if self.timetable.stages.ranks > 1 {
            let comm = self.timetable.sums();
            sum_stats(list, Lane::Comm(comm), comm, self.stats);
        }
    }
}
