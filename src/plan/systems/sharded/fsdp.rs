//! `fsdp`: every shard cut into as many pieces as there are ranks. A shard is all-gathered into a ring slot before it is
//! used, forward and backward, while the one before computes; its gradient is reduce-scattered, and each rank updates
//! its pieces.
//!
//! `sync = "round"` does so with the gradient of every micro-batch (ZeRO-3 in the paper's comparison); `"iteration"`
//! adds whole gradients up on every rank and reduce-scatters once, which takes memory for a whole model's gradient. With
//! `reshard_after_forward = false` every shard has a ring slot and is gathered once an iteration (ZeRO-2).

use crate::cluster::Rank;
use crate::plan::{Job, RankPlan, Refusal};

use super::super::{Entry, Schedule, System, SystemOptions};
use super::{FsdpOptions, Gathered, GradSync, Recipe, rank, schedule, world};

/// See the module.
struct Fsdp;

/// Its line of the table of systems.
pub const FSDP: Entry = Entry {
    name: "fsdp",
    summary: "every shard cut over all ranks, all-gathered for use; gradients reduce-scattered",
    domain: "any number of ranks in any groups; any number of layers",
    ends: "shards like any other",
    system: &Fsdp,
};

impl System for Fsdp {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        schedule(job, options(job).blocks_per_shard, vec![world("reduce", job), world("gather", job)])
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        let FsdpOptions { prefetch, sync, reshard_after_forward, .. } = *options(&schedule.job);
        let recipe = Recipe {
            pieces: true,
            gathered: Some(Gathered { prefetch, keep: !reshard_after_forward }),
            // One rank has nobody to sum with.
            whole: sync == GradSync::Iteration || schedule.job.groups.ranks() == 1,
            across: None,
        };
        rank::plan(schedule, rank, recipe)
    }
}

fn options(job: &Job) -> &FsdpOptions {
    match &job.system {
        SystemOptions::Fsdp(options) => options,
        other => unreachable!("a job of system {:?}", other.name()),
    }
}
