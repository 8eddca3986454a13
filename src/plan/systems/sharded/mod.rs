//! Systems that replicate or cut up shards: `ddp`, `fsdp`, `hsdp`. Every rank takes its own micro-batches through the
//! whole model; ranks differ in what they keep of it, and agree by all-gather, reduce-scatter and all-reduce.
//!
//! The three differ in a [`Recipe`] alone; read one of them, then [`rank`] (the steps of a rank), [`gradients`]
//! (sums over ranks) and [`cache`] (where gathered weights lie).
//!
//! All ranks write their lists along the same steps: first the weights that come in while a step computes, then its
//! computation, then the sums of its gradient. What ranks do together has the same place in all their lists, and an op
//! waits only for ops before it, so no two ranks can wait for each other. Ranks without a micro-batch in the last round
//! take part in its collectives with zeros; a group without any skips its own.

mod cache;
mod ddp;
mod fsdp;
mod gradients;
mod hsdp;
mod options;
mod rank;

pub use ddp::DDP;
pub use fsdp::FSDP;
pub use hsdp::HSDP;
pub use options::{DdpOptions, FsdpOptions, GradSync, HsdpOptions};

use crate::model::Shards;
use crate::plan::{CommId, Job, Lane, Refusal, Split};

use super::{Layout, Schedule};

/// A communication lane, which is also the number of its split. A system has the first so many.
#[derive(Clone, Copy)]
enum Channel {
    /// Gradients over the ranks that share a shard's pieces.
    Reduce,
    /// Weights over the same ranks.
    Gather,
    /// Gradients over ranks with the same pieces.
    Across,
    /// Loss and norm, where none of the above spans the world.
    Statistics,
}

impl Channel {
    fn lane(self) -> Lane {
        Lane::Comm(self as usize)
    }

    fn comm(self) -> CommId {
        self as usize
    }
}

/// What a system does with weights and gradients. "The set" is the rank's set of [`Channel::Reduce`].
#[derive(Clone, Copy, Debug)]
struct Recipe {
    /// Each rank keeps masters of its pieces only; the set has all of them.
    pieces: bool,
    /// Weights are gathered for use; else they are kept whole on every rank.
    gathered: Option<Gathered>,
    /// Gradients add up whole on every rank and are summed over the set in the last round; else each round's gradient is
    /// reduce-scattered, and pieces add up.
    whole: bool,
    /// When gradients are summed over [`Channel::Across`], if at all.
    across: Option<GradSync>,
}

/// How weights are gathered.
#[derive(Clone, Copy, Debug)]
struct Gathered {
    /// Visits ahead.
    prefetch: usize,
    /// Whether all are kept until the update.
    keep: bool,
}

/// The schedule that all of these systems share.
fn schedule(job: &Job, blocks_per_shard: usize, splits: Vec<Split>) -> Result<Schedule, Refusal> {
    options::positive("blocks_per_shard", blocks_per_shard)?;
    let shards = Shards::new(&job.shape, blocks_per_shard);
    Ok(Schedule { job: job.clone(), shards, layout: Layout::Uniform, splits })
}

/// All ranks in one set.
fn world(name: &'static str, job: &Job) -> Split {
    Split { name, sets: vec![(0..job.groups.ranks()).collect()] }
}
