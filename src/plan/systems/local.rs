//! What every rank has that takes micro-batches through the whole model, and the ops it computes them with.

use std::ops::Range;

use crate::model::{Dtype, Recompute, ShardId, Shards, Unit, footprint};
use crate::plan::build::{List, Slots};
use crate::plan::collective::Collective;
use crate::plan::{
    Action, Algorithm, Call, CommId, HeadGradient, Holding, Job, Lane, Op, Payload, Region, Segment, Work, stats, step,
};

/// A rank's memory for a shard that lives on it.
#[derive(Debug)]
pub struct Owned {
    pub shard: ShardId,
    /// The elements of it that live here.
    pub range: Range<usize>,
    /// Whether this copy counts in the norm.
    primary: bool,
    pub master: Region,
    moment1: Region,
    moment2: Region,
    /// What the update also writes: the weights in the compute dtype, where they are kept apart.
    home: Option<Region>,
    /// The iteration's gradient, f32.
    pub accumulator: Region,
}

impl Owned {
    /// Adds the slots of (a part of) a shard; it has a home of its own only where the compute dtype is not the master's.
    pub fn new(slots: &mut Slots, job: &Job, shard: ShardId, range: Range<usize>, primary: bool) -> Self {
        let holds = Holding { shard, range, primary };
        let home = (job.dtype != Dtype::F32).then(|| holding(slots, &holds, "home", job.dtype, Segment::Home));
        let accumulator = holding(slots, &holds, "accumulator", Dtype::F32, Segment::Accumulator);
        Owned::with(slots, holds, home, accumulator)
    }

    /// Adds master and moments of (a part of) a shard whose home and accumulator lie elsewhere.
    pub fn with(slots: &mut Slots, holds: Holding, home: Option<Region>, accumulator: Region) -> Self {
        let mut add = |what, segment| holding(slots, &holds, what, Dtype::F32, segment);
        let master = add("master", Segment::Master);
        let moment1 = add("moment1", Segment::Moment1);
        let moment2 = add("moment2", Segment::Moment2);
        let Holding { shard, range, primary } = holds;
        Owned { shard, range, primary, master, moment1, moment2, home, accumulator }
    }

    /// The shard's weights in the compute dtype.
    pub fn weights(&self) -> Region {
        self.home.unwrap_or(self.master)
    }

    /// What follows from the master: the copy in the compute dtype.
    pub fn prepare(&self, list: &mut List) {
        if let Some(home) = self.home {
            list.push(Lane::Compute, Action::Cast { src: self.master, dst: home });
        }
    }

    /// Adds the gradient's squares to the statistics, if this copy is the primary one.
    pub fn norm(&self, list: &mut List, stats: Region) {
        if self.primary {
            let stats = stats.sub(stats::SQUARES..stats::SQUARES + 1);
            list.push(Lane::Compute, Action::NormPartial { gradient: self.accumulator, stats });
        }
    }

    /// AdamW.
    pub fn update(&self, list: &mut List, step: Region, stats: Region) {
        let action = Action::Update {
            shard: self.shard,
            range: self.range.clone(),
            gradient: self.accumulator,
            step,
            stats,
            master: self.master,
            moment1: self.moment1,
            moment2: self.moment2,
            home: self.home,
        };
        list.push(Lane::Compute, action);
    }
}

/// Adds a slot that holds parameters.
pub fn holding(slots: &mut Slots, holds: &Holding, what: &str, dtype: Dtype, segment: Segment) -> Region {
    let region = slots.add(format!("shard {} {what}", holds.shard), holds.range.len(), dtype, segment);
    slots.get_mut(region).holds = Some(holds.clone());
    region
}

/// Slots of a rank that do not depend on how weights reach it.
#[derive(Debug)]
pub struct Local {
    pub owned: Vec<Owned>,
    recompute: Recompute,
    step: Region,
    pub stats: Region,
    /// The rank's micro-batches take turns with them.
    flights: Vec<Flight>,
    /// Of the job; each takes one micro-batch a round.
    ranks: usize,
    dx: Region,
    workspace: Option<Region>,
}

/// How many of a rank's micro-batches are on their way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flights {
    /// Each is done before the next begins.
    One,
    /// Two: one climbs through the model while the one before descends. So they share memory from both ends: what the
    /// descending one has given up is what the climbing one needs. At no time do both together hold more inputs of units
    /// or more blocks' saved state than this.
    Opposite {
        /// Inputs of units.
        inputs: usize,
        /// Blocks' saved state.
        saved: usize,
    },
}

/// What one micro-batch needs on its way through the model.
#[derive(Debug)]
struct Flight {
    /// i32: inputs, then targets.
    tokens: Region,
    /// Input of block i, and at last of the head: `[micro * seq, dim]`.
    activations: Vec<Region>,
    /// Of each block; one and the same, in all flights, with [`Recompute::Block`].
    saved: Vec<Option<Region>>,
}

impl Flight {
    /// Inputs (first half) or targets (second half).
    fn tokens(&self, half: usize) -> Region {
        let len = self.tokens.len / 2;
        self.tokens.sub(half * len..(half + 1) * len)
    }
}

impl Local {
    /// Adds the slots of a rank on which these shards live, each with whether its copy is the primary one.
    pub fn new(slots: &mut Slots, job: &Job, shards: &Shards, owned: impl Iterator<Item = (ShardId, bool)>) -> Self {
        let mut own =
            |(shard, primary): (ShardId, bool)| Owned::new(slots, job, shard, 0..shards.elems(shard), primary);
        let owned = owned.map(&mut own).collect();
        Local::with(slots, job, shards, owned, Flights::One)
    }

    /// Adds the slots of a rank beside those of what it owns.
    pub fn with(slots: &mut Slots, job: &Job, shards: &Shards, owned: Vec<Owned>, flights: Flights) -> Self {
        let step = slots.add("step", step::LEN, Dtype::F64, Segment::Scalars);
        let stats = slots.add("stats", stats::LEN, Dtype::F64, Segment::Scalars);
        let wide = job.batch.micro_tokens() * job.shape.dim;
        let layers = job.shape.layers;
        let dx = slots.add("dx", wide, job.dtype, Segment::Activation);
        let need = |unit| footprint(&job.shape, unit, job.dtype, job.recompute, job.batch.micro, job.batch.seq);
        let keep = |slots: &mut Slots, name: String| {
            slots.add_some(name, need(Unit::Block(0)).saved, Dtype::Byte, Segment::Saved)
        };
        let shared = (job.recompute == Recompute::Block).then(|| keep(slots, "saved".into()));
        let (count, inputs, saves) = match flights {
            Flights::One => (1, layers + 1, layers),
            Flights::Opposite { inputs, saved } => (2, inputs, saved),
        };
        let activation = |i| slots.add(format!("activation {i}"), wide, job.dtype, Segment::Activation);
        let inputs: Vec<Region> = (0..inputs).map(activation).collect();
        let saved = |i| shared.unwrap_or_else(|| keep(slots, format!("saved {i}")));
        let saves: Vec<Option<Region>> = (0..saves).map(saved).collect();
        // The second flight counts from the other end.
        let end = |flight: usize, i: usize, all: usize| if flight == 0 { i } else { all - 1 - i };
        let flight = |flight: usize| Flight {
            tokens: slots.add(
                if flight == 0 { "tokens".into() } else { format!("tokens, flight {flight}") },
                2 * job.batch.micro_tokens(),
                Dtype::I32,
                Segment::Tokens,
            ),
            activations: (0..=layers).map(|i| inputs[end(flight, i, inputs.len())]).collect(),
            saved: (0..layers).map(|i| saves[end(flight, i, saves.len())]).collect(),
        };
        let flights = (0..count).map(flight).collect();
        let workspace = shards.units.iter().map(|(unit, _)| need(*unit).workspace).max().unwrap_or(0);
        let workspace = slots.add_some("workspace", workspace, Dtype::Byte, Segment::Workspace);
        let ranks = job.groups.ranks();
        Local { owned, recompute: job.recompute, step, stats, flights, ranks, dx, workspace }
    }

    /// This rank's memory of a shard, if (part of) it lives here.
    pub fn own(&self, shard: ShardId) -> Option<&Owned> {
        self.owned.iter().find(|owned| owned.shard == shard)
    }

    fn flight(&self, work: Work) -> &Flight {
        &self.flights[work.micro / self.ranks % self.flights.len()]
    }

    /// Fetches a micro-batch.
    pub fn load(&self, list: &mut List, work: Work) {
        list.push(Lane::Compute, Action::Load { work, tokens: self.flight(work).tokens });
    }

    /// Forward of the embedding or a block; in training, a block's saved activations are kept if they are not
    /// recomputed.
    pub fn forward(&self, list: &mut List, unit: Unit, work: Work, weights: Region, training: bool) {
        let flight = self.flight(work);
        let (input, output, saved) = match unit {
            Unit::Embed => (flight.tokens(0), flight.activations[0], None),
            Unit::Block(i) => {
                let keeps = training && self.recompute.forward_keeps();
                (flight.activations[i], flight.activations[i + 1], flight.saved[i].filter(|_| keeps))
            }
            Unit::Head => unreachable!("the head's forward is its loss"),
        };
        let workspace = self.workspace;
        list.push(Lane::Compute, Action::Forward { unit, work, weights, input, output, saved, workspace });
    }

    /// The head's loss and, given a place for its parameters' gradient (and whether to add to it), its backward.
    pub fn head(&self, list: &mut List, work: Work, weights: Region, gradient: Option<(Region, bool)>) {
        let flight = self.flight(work);
        let action = Action::HeadLoss {
            work,
            weights,
            input: flight.activations[flight.activations.len() - 1],
            targets: flight.tokens(1),
            gradient: gradient.map(|(weights, accumulate)| HeadGradient { dx: self.dx, weights, accumulate }),
            loss: self.stats.sub(stats::LOSS..stats::LOSS + 1),
            workspace: self.workspace,
        };
        list.push(Lane::Compute, action);
    }

    /// A unit's backward, after its recomputation if there is one; the embedding needs no weights.
    pub fn backward(
        &self,
        list: &mut List,
        unit: Unit,
        work: Work,
        weights: Option<Region>,
        gradient: Region,
        accumulate: bool,
    ) {
        let (flight, dx, workspace) = (self.flight(work), self.dx, self.workspace);
        let (input, saved) = match unit {
            Unit::Embed => (flight.tokens(0), None),
            Unit::Block(i) => (flight.activations[i], flight.saved[i]),
            Unit::Head => unreachable!("the head's backward is part of its loss"),
        };
        if let (Recompute::Block, Some(saved), Some(weights)) = (self.recompute, saved, weights) {
            list.push(Lane::Compute, Action::Recompute { unit, work, weights, input, saved, workspace });
        }
        let action = Action::Backward { unit, work, weights, input, saved, dx, gradient, accumulate, workspace };
        list.push(Lane::Compute, action);
    }

    /// What follows from the masters: the copies in the compute dtype.
    pub fn prepare(&self, list: &mut List) {
        self.owned.iter().for_each(|owned| owned.prepare(list));
    }

    /// Sums the iteration's statistics over all ranks.
    pub fn sum_stats(&self, list: &mut List, lane: Lane, comm: CommId) {
        sum_stats(list, lane, comm, self.stats);
    }

    /// The end of an iteration or an evaluation: the statistics (loss, and in training the gradient's norm) are summed over all
    /// ranks, so that every rank knows them before it updates the shards that it owns.
    pub fn finish(&self, list: &mut List, training: bool, lane: Lane, comm: CommId) {
        if training {
            self.norm(list);
        }
        if self.ranks > 1 {
            self.sum_stats(list, lane, comm);
        }
        if training {
            self.update(list);
        }
    }

    /// Adds the norm of the gradients of those shards of which this rank has the primary copy.
    pub fn norm(&self, list: &mut List) {
        self.owned.iter().for_each(|owned| owned.norm(list, self.stats));
    }

    /// AdamW on every shard that lives here.
    pub fn update(&self, list: &mut List) {
        self.owned.iter().for_each(|owned| owned.update(list, self.step, self.stats));
    }
}

/// Sums an iteration's statistics over all ranks.
pub fn sum_stats(list: &mut List, lane: Lane, comm: CommId, stats: Region) {
    let call = Call {
        comm,
        what: Collective::AllReduce,
        algorithm: Algorithm::Flat,
        region: stats,
        scratch: None,
        payload: Payload::Scalars,
    };
    list.push(lane, Action::Collective(call));
}

/// The ops that a closure pushes for a rank.
pub fn list(rank: usize, write: impl FnOnce(&mut List)) -> Vec<Op> {
    let mut list = List::new(rank);
    write(&mut list);
    list.finish()
}
