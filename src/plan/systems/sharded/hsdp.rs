//! `hsdp`: every shard cut over the ranks of a group, every group with all of it. Weights are all-gathered and gradients
//! reduce-scattered inside the group, as in `fsdp`; pieces of gradients are then all-reduced across groups, over ranks
//! of equal local index.
//!
//! With `sync = "iteration"` the pieces of all rounds add up first and cross between groups once, under the backward of
//! the last round; with `"round"` every round's do. One group is `fsdp` with `sync = "round"`; groups of one rank are
//! `ddp`.

use crate::cluster::Rank;
use crate::plan::{Job, RankPlan, Refusal, Split};

use super::super::{Entry, Schedule, System, SystemOptions};
use super::{Gathered, GradSync, HsdpOptions, Recipe, rank, schedule, world};

/// See the module.
struct Hsdp;

/// Its line of the table of systems.
pub const HSDP: Entry = Entry {
    name: "hsdp",
    summary: "every shard cut over the ranks of a group, every group with a copy; gradients are summed over groups once an iteration",
    domain: "groups of equal size; any number of layers",
    ends: "shards like any other",
    system: &Hsdp,
};

impl System for Hsdp {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let sizes = job.groups.sizes();
        if sizes.iter().any(|&size| size != sizes[0]) {
            return Err(Refusal(format!(
                "system \"hsdp\" cuts every shard alike in all groups, and these have {sizes:?} ranks; use groups of \
                 equal size (cluster.ranks_per_group), or \"fsdp\""
            )));
        }
        let splits = vec![
            Split::inside("reduce", &job.groups),
            Split::inside("gather", &job.groups),
            Split::across("across", &job.groups),
            world("statistics", job),
        ];
        schedule(job, options(job).blocks_per_shard, splits)
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        let HsdpOptions { prefetch, sync, reshard_after_forward, .. } = *options(&schedule.job);
        let alone = schedule.job.groups.size(0) == 1;
        let recipe = Recipe {
            pieces: true,
            gathered: Some(Gathered { prefetch, keep: !reshard_after_forward }),
            // Without others in the group a piece is the whole shard, and backward adds it up in place.
            whole: alone && (sync == GradSync::Iteration || schedule.job.groups.count() == 1),
            across: (schedule.job.groups.count() > 1).then_some(sync),
        };
        rank::plan(schedule, rank, recipe)
    }
}

fn options(job: &Job) -> &HsdpOptions {
    match &job.system {
        SystemOptions::Hsdp(options) => options,
        other => unreachable!("a job of system {:?}", other.name()),
    }
}
