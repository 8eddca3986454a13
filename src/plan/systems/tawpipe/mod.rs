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
//! With `hop = "collective"` a shard comes to all groups by one broadcast over the ranks with the owner's local index, and
//! a gradient goes home by one reduction over them; all else stays.
//!
//! All ranks write their lists down tick by tick of one global clock: the transfers of weights that arrive for the next
//! visit, the computation, the transfers of its gradient. What two ranks do together has the same place in both lists,
//! and an op waits only for what comes earlier, so nothing can wait in a circle: neither with all lanes at once nor with
//! one operation at a time.

mod choice;
mod collect;
mod course;
mod fetch;
mod holders;
pub mod options;
mod owners;
mod rank;
mod visits;

use crate::cluster::{Groups, Rank};
use crate::model::{ShardId, Shards};
use crate::plan::{CommId, Job, Lane, RankPlan, Refusal, Split};

use super::{Layout, Schedule, System, SystemOptions};
use options::{Embed, Hops, Settled, Stagger, TawpipeOptions};

/// See the module.
pub struct Tawpipe;

/// A communication lane, which is also the number of its split.
#[derive(Clone, Copy)]
enum Way {
    WeightHop,
    Broadcast,
    Reduce,
    GradientHop,
    /// Only with replicated embedding and head, or where hops are collectives, for the statistics.
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
        let Some(options) = asked(job).settled() else { return choice::schedule_within(job) };
        if options.blocks_per_shard == 0 {
            return Err(Refusal("system.blocks_per_shard = 0; it must be at least 1".into()));
        }
        let groups = holders::groups(job, options.topology);
        if options.stripe && !alike(&groups) {
            return Err(Refusal(format!(
                "system.stripe = true cuts shards alike in all groups, which must be of one size, not {:?}",
                groups.sizes()
            )));
        }
        let collective = options.hop == Hops::Collective;
        if collective {
            can_hop_together(options.stagger, &groups)?;
        }
        let shards = Shards::new(&job.shape, options.blocks_per_shard);
        let outside = [shards.units[0].1.shard, shards.units[shards.units.len() - 1].1.shard];
        let lives = |shard: ShardId| options.embed == Embed::Sharded || !outside.contains(&shard);
        let owners = owners::owners(&shards, &job.groups, lives, collective);
        let layout = match options.stripe {
            false => Layout::Owners(owners),
            true => Layout::Striped(owners.iter().map(|owner| owner.map(|owner| groups.group_of(owner))).collect()),
        };
        let world = vec![(0..job.groups.ranks()).collect()];
        let hops = |name| match options.hop {
            Hops::Direct => Split { name, sets: world.clone() },
            Hops::Collective => Split::across(name, &groups),
        };
        let mut splits = vec![
            hops("weight hop"),
            Split::inside("broadcast", &groups),
            Split::inside("reduce", &groups),
            hops("gradient hop"),
        ];
        if options.embed == Embed::Replicated || collective {
            splits.push(Split { name: "all-reduce", sets: world });
        }
        Ok(Schedule { job: job.clone(), shards, layout, splits })
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        rank::plan(schedule, rank)
    }
}

/// Whether all groups are of one size.
fn alike(groups: &Groups) -> bool {
    groups.sizes().windows(2).all(|pair| pair[0] == pair[1])
}

/// Whether hops can be collectives, or why not.
fn can_hop_together(stagger: Stagger, groups: &Groups) -> Result<(), Refusal> {
    if stagger != Stagger::None {
        return Err(Refusal(
            "system.hop = \"collective\" brings a shard to all groups at once, which must want it at the same time: \
             system.stagger = \"none\", not \"slots\""
                .into(),
        ));
    }
    if !alike(groups) {
        return Err(Refusal(format!(
            "system.hop = \"collective\" joins ranks of equal index in their groups, which must be of one size, not {:?}; \
             use cluster.ranks_per_group, or system.hop = \"direct\"",
            groups.sizes()
        )));
    }
    Ok(())
}

/// The options of a job that is scheduled, which leave nothing open.
fn options(job: &Job) -> Settled {
    asked(job).settled().expect("scheduled")
}

fn asked(job: &Job) -> &TawpipeOptions {
    match &job.system {
        SystemOptions::Tawpipe(options) => options,
        other => unreachable!("a job of system {:?}", other.name()),
    }
}
