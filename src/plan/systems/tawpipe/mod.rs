//! `tawpipe`: every rank takes its own micro-batches through the whole model, and the weights come to it.
//!
//! A shard stays with its owner. For a visit it hops once to each other group, to the rank with the owner's local
//! index, and is broadcast inside the group; gradients are reduced inside the group onto the owner, or onto that same
//! rank, and hop once to the owner. Weights for the next visit come in while the present one computes.
//!
//! Read [`visits`] (the order of work in a group), then [`course`] (all groups on one clock), then [`rank`] (one rank's
//! ops: it [`fetch`]es weights, computes, and [`collect`]s gradients). Beyond the paper, [`mod@options`] tells what else can
//! be chosen; most of it comes down to who holds what in a group ([`holders`]) and for how long.
//!
//! All ranks write their lists down tick by tick of one global clock: the transfers of weights that arrive for the next
//! visit, the computation, the transfers of its gradient. What two ranks do together has the same place in both lists,
//! and an op waits only for what comes earlier, so nothing can wait in a circle: neither with all lanes at once nor with
//! one operation at a time.

mod auto;
mod collect;
mod course;
mod fetch;
mod holders;
pub mod options;
mod owners;
mod rank;
mod visits;

use crate::cluster::Rank;
use crate::model::{ShardId, Shards};
use crate::plan::{CommId, Job, Lane, RankPlan, Refusal, Split};

use super::{Layout, Schedule, System, SystemOptions};
use options::{Embed, TawpipeOptions};

/// See the module.
pub struct Tawpipe;

/// A communication lane, which is also the number of its split.
#[derive(Clone, Copy)]
enum Way {
    WeightHop,
    Broadcast,
    Reduce,
    GradientHop,
    /// Only with replicated embedding and head.
    AllReduce,
}

impl Way {
    fn lane(self) -> Lane {
        Lane::Comm(self as usize)
    }

    fn comm(self) -> CommId {
        self as usize
    }
}

impl System for Tawpipe {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        if options(job).auto {
            return auto::schedule_within(job);
        }
        let options = options(job);
        if options.blocks_per_shard == 0 {
            return Err(Refusal("system.blocks_per_shard = 0; it must be at least 1".into()));
        }
        let groups = holders::groups(job);
        let sizes = groups.sizes();
        if options.stripe && sizes.iter().any(|&size| size != sizes[0]) {
            return Err(Refusal(format!(
                "system.stripe = true cuts shards alike in all groups, which must be of one size, not {sizes:?}"
            )));
        }
        let shards = Shards::new(&job.shape, options.blocks_per_shard);
        let outside = [shards.units[0].1.shard, shards.units[shards.units.len() - 1].1.shard];
        let lives = |shard: ShardId| options.embed == Embed::Sharded || !outside.contains(&shard);
        let owners = owners::owners(&shards, &job.groups, lives);
        let layout = match options.stripe {
            false => Layout::Owners(owners),
            true => Layout::Striped(owners.iter().map(|owner| owner.map(|owner| groups.group_of(owner))).collect()),
        };
        let world = vec![(0..job.groups.ranks()).collect()];
        let mut splits = vec![
            Split { name: "weight hop", sets: world.clone() },
            Split::inside("broadcast", &groups),
            Split::inside("reduce", &groups),
            Split { name: "gradient hop", sets: world.clone() },
        ];
        if options.embed == Embed::Replicated {
            splits.push(Split { name: "all-reduce", sets: world });
        }
        Ok(Schedule { job: job.clone(), shards, layout, splits })
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        rank::plan(schedule, rank)
    }
}

fn options(job: &Job) -> &TawpipeOptions {
    match &job.system {
        SystemOptions::Tawpipe(options) => options,
        other => unreachable!("a job of system {:?}", other.name()),
    }
}
