//! `ddp`: weights and their gradients on every rank. A rank sums the gradients of its micro-batches; in the last round
//! each shard's sum is all-reduced as soon as it is complete, under the backward of the shards before it.
//!
//! `zero1 = true` (ZeRO stage 1): the sum is reduce-scattered instead, each rank keeps the optimizer state of its piece
//! and updates that, and the new weights are all-gathered. As many bytes, a fraction of the memory.

use crate::cluster::Rank;
use crate::plan::{Job, RankPlan, Refusal};

use super::super::{Entry, Schedule, System, SystemOptions};
use super::{DdpOptions, Recipe, rank, schedule, world};

/// See the module.
struct Ddp;

/// Its line of the table of systems.
pub const DDP: Entry = Entry {
    name: "ddp",
    summary: "weights on every rank, gradients all-reduced once an iteration; with zero1 each rank stores a piece of the optimizer state",
    domain: "any number of ranks in any groups; any number of layers",
    ends: "shards like any other",
    system: &Ddp,
};

impl System for Ddp {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let DdpOptions { blocks_per_shard, zero1 } = *options(job);
        let mut splits = vec![world("reduce", job)];
        if zero1 {
            splits.push(world("gather", job));
        }
        schedule(job, blocks_per_shard, splits)
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        // One rank's piece is everything: nothing to gather, and no second copy to gather it in.
        let pieces = options(&schedule.job).zero1 && schedule.job.groups.ranks() > 1;
        rank::plan(schedule, rank, Recipe { pieces, gathered: None, whole: true, across: None })
    }
}

fn options(job: &Job) -> &DdpOptions {
    match &job.system {
        SystemOptions::Ddp(options) => options,
        other => unreachable!("a job of system {:?}", other.name()),
    }
}
