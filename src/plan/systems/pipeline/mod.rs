//! Pipelines: every rank keeps a part of the model, and micro-batches travel through the ranks.
//!
//! The model is cut into [`stages`]. A system says in which order a stage works on its micro-batches: one small file
//! each. The [`clock`] runs that order with the job's costs and so puts all computation and all messages on one time
//! axis; [`rank`] writes one rank's ops down in that order, in [`memory`] that is used again as soon as it is free.

mod clock;
pub mod gpipe;
mod handmade;
pub mod interleaved;
mod memory;
pub mod one_f_one_b;
mod options;
mod rank;
mod search;
mod stages;
pub mod zb_1p;
pub mod zb_2p;
pub mod zb_h1;
pub mod zb_h2;
pub mod zb_v;

use std::sync::Arc;

use crate::cluster::Rank;
use crate::model::{Shards, Unit};
use crate::plan::{CommId, Job, RankPlan, Refusal, Split};

use self::clock::{Event, Hop, Item, Order, Pass};
use self::stages::{Durations, Placement, Stages};
use super::{Layout, Schedule, System, SystemOptions};

pub use options::{InterleavedOptions, PipelineOptions};

/// Which jobs a pipeline of one chunk a rank runs.
pub const DOMAIN: &str = "at most layers + 2 ranks in any groups; any number of micro-batches";

/// Where embedding and head live.
pub const ENDS: &str = "in the first and the last stage, which get fewer blocks for it; a tied table is in both";

/// A system of this kind.
pub struct Pipeline {
    /// What its options say; `None` if they are another system's.
    form: fn(&SystemOptions) -> Option<Form>,
    /// The order of every rank's items in training.
    order: fn(&Task) -> Order,
}

/// What distinguishes pipelines, but for the order.
#[derive(Clone, Copy)]
struct Form {
    placement: Placement,
    /// Whether backward comes in two parts.
    split: bool,
    /// Whether ranks compute while messages go.
    blocking: bool,
}

impl Form {
    /// With the backward in one piece.
    fn whole(placement: Placement, blocking: bool) -> Self {
        Form { placement, split: false, blocking }
    }

    /// With the backward split in two.
    fn split(placement: Placement) -> Self {
        Form { placement, split: true, blocking: false }
    }
}

/// What an order is made for.
struct Task<'a> {
    stages: &'a Stages,
    micros: usize,
    durations: &'a Durations,
}

/// Decisions that concern all ranks.
#[derive(Debug, PartialEq)]
pub struct Timetable {
    stages: Stages,
    split: bool,
    blocking: bool,
    /// Of each rank: computation and messages of an iteration, in the order of the clock.
    train: Vec<Vec<Event>>,
    /// The same of an evaluation.
    evaluate: Vec<Vec<Event>>,
}

impl System for Pipeline {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let form = (self.form)(&job.system).expect("the table finds a system by the name of its options");
        if form.placement.chunks() == 0 {
            return Err(Refusal("system.chunks = 0; it must be at least 1".into()));
        }
        let stages = Stages::new(job, form.placement)?;
        let durations = Durations::new(job, &stages, form.split);
        let task = Task { stages: &stages, micros: job.batch.micros, durations: &durations };
        let train = clock::run(&stages, &durations, &(self.order)(&task), form.blocking).events;
        let evaluate = clock::run(&stages, &durations, &forward_only(&task), form.blocking).events;
        let shards = Shards::new(&job.shape, 1);
        let timetable = Timetable { split: form.split, blocking: form.blocking, train, evaluate, stages };
        let splits = timetable.splits(job.shape.tied);
        Ok(Schedule { job: job.clone(), shards, layout: Layout::Stages(Arc::new(timetable)), splits })
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        rank::plan(schedule, rank)
    }
}

/// Evaluation: micro-batches follow each other as closely as they can, in rounds through a rank's chunks.
fn forward_only(task: &Task) -> Order {
    let stages = task.stages;
    let rank = |rank: Rank| {
        let items = (0..task.micros)
            .flat_map(|micro| stages.of(rank).map(move |chunk| Item { pass: Pass::Forward, micro, chunk }));
        let mut items: Vec<Item> = items.collect();
        // A time at which each item could run if all took one unit: in a V a new micro-batch starts every other time, and
        // its two visits of a rank are an odd number of times apart.
        items.sort_by_key(|item| match stages.placement {
            Placement::Round(_) => {
                (item.micro / stages.ranks * stages.chunks()) + item.micro % stages.ranks + item.chunk
            }
            Placement::V => 2 * item.micro + item.chunk,
        });
        items
    };
    (0..stages.ranks).map(rank).collect()
}

/// Communicators: two or three for each direction, so that a rank's two neighbours do not share one; then those of
/// sums. Each is also the number of its lane.
impl Timetable {
    /// Links in a row, or in a ring where chunks go round.
    fn links(&self) -> usize {
        let Stages { ranks, placement, .. } = self.stages;
        match placement {
            _ if ranks == 1 => 0,
            Placement::Round(chunks) if chunks > 1 => ranks,
            Placement::Round(_) | Placement::V => ranks - 1,
        }
    }

    /// Communicators of one direction.
    fn colours(&self) -> usize {
        let ring = self.links() == self.stages.ranks;
        match self.links() {
            0 | 1 => self.links(),
            links if ring && !links.is_multiple_of(2) => 3,
            _ => 2,
        }
    }

    /// The communicator of a message.
    fn way(&self, hop: &Hop) -> CommId {
        let Stages { ranks, placement, .. } = self.stages;
        let forward = hop.item.pass == Pass::Forward;
        let (link, up) = match placement {
            Placement::V => (hop.from.min(hop.to), hop.from < hop.to),
            // Forward messages leave link i from rank i, backward ones arrive there.
            Placement::Round(_) => (if forward { hop.from } else { hop.to }, forward),
        };
        let colours = self.colours();
        let colour = if colours == 3 && link == ranks - 1 { 2 } else { link % 2 };
        colour + if up { 0 } else { colours }
    }

    /// The communicator that sums the statistics of all ranks.
    fn sums(&self) -> CommId {
        2 * self.colours()
    }

    /// The ranks of the embedding and the head, if these are two.
    fn ends(&self) -> Option<[Rank; 2]> {
        let ends = [self.stages.rank(0), self.stages.rank(self.stages.chunks() - 1)];
        (ends[0] != ends[1]).then_some(ends)
    }

    /// The communicator of the ends of a tied model.
    fn tie(&self) -> CommId {
        self.sums() + 1
    }

    fn splits(&self, tied: bool) -> Vec<Split> {
        let world = || vec![(0..self.stages.ranks).collect()];
        if self.stages.ranks == 1 {
            return Vec::new();
        }
        let names = |names: [&'static str; 3]| names.into_iter().take(self.colours());
        let up = names(["up, even link", "up, odd link", "up, last link"]);
        let down = names(["down, even link", "down, odd link", "down, last link"]);
        let mut splits: Vec<Split> = up.chain(down).map(|name| Split { name, sets: world() }).collect();
        splits.push(Split { name: "sums", sets: world() });
        if let Some(ends) = self.ends().filter(|_| tied) {
            splits.push(Split { name: "tied ends", sets: vec![ends.to_vec()] });
        }
        splits
    }
}

/// A rank's units, in model order.
fn units(stages: &Stages, rank: Rank, layers: usize) -> impl Iterator<Item = Unit> + '_ {
    stages.of(rank).flat_map(move |chunk| stages.units[chunk].clone().map(move |place| stages::unit(place, layers)))
}
