//! `tawpipe`: every rank takes its own micro-batches through the whole model, and the weights come to it.
//!
//! A shard stays with its owner. For a step it hops once to each other group, to the rank with the owner's local
//! index, and is broadcast inside the group; gradients are reduced inside the group onto the owner, or onto that same
//! rank, and hop once to the owner. Weights for the next step come in while the present one computes.
//!
//! Read [`paper`] first: the published system in one file. The other files are the general form, in which every option of
//! [`mod@options`] can be chosen: [`storage`] (who owns and who stages a shard), [`order`] (in which order a group uses them),
//! [`timetable`] (what all groups do when), and [`rank`] (one rank's ops, in which [`weights`] come in and [`gradients`] go to
//! their owners). A test compares the two where both can plan a job.
//!
//! With `hop = "collective"` a shard comes to all groups by one broadcast from its owner to all staging ranks, and its
//! gradient by one reduction over them.
//!
//! All ranks write their lists along one clock: the transfers of weights for the next step, the computation, the transfers of
//! its gradient. What two ranks do together has the same place in both lists, and an op waits only for ops before it, so no
//! two ranks can wait for each other: neither with all lanes at once nor with one operation at a time.

mod buffers;
mod channel;
mod choice;
mod gradients;
pub mod options;
mod order;
mod owners;
mod paper;
mod rank;
mod storage;
mod timetable;
mod weights;

use crate::cluster::{Groups, Rank};
use crate::model::{ShardId, Shards};
use crate::plan::{Job, RankPlan, Refusal, Split};

use super::{Layout, Schedule, System, SystemOptions};
use options::{Embed, Hops, Settled, Stagger, TawpipeOptions};

/// See the module.
pub struct Tawpipe;

impl System for Tawpipe {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let Some(options) = asked(job).settled() else { return choice::schedule_within(job) };
        if options.blocks_per_shard == 0 {
            return Err(Refusal("system.blocks_per_shard = 0; it must be at least 1".into()));
        }
        let groups = storage::groups(job, options.topology);
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
        match published(&options(&schedule.job)) {
            Some(delay) => paper::plan(schedule, delay, rank),
            None => rank::plan(schedule, rank),
        }
    }
}

/// Whether nothing goes beyond the paper; then by how many steps each group starts after the one before.
fn published(options: &Settled) -> Option<usize> {
    let Settled { blocks_per_shard, stagger, .. } = *options;
    let paper = Settled { blocks_per_shard, stagger, embed: Embed::Replicated, ..Settled::default() };
    (*options == paper).then_some(match stagger {
        Stagger::None => 0,
        Stagger::Slots => 1,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Costs;
    use crate::model::{Dtype, ModelShape, Recompute};
    use crate::plan::Batch;

    /// Where nothing goes beyond the paper, the general form gives the plans of the paper's file: with and without stagger,
    /// in one group and in uneven ones, with ragged rounds, shards of several blocks, a tied head, and both types.
    #[test]
    fn the_general_form_contains_the_paper() {
        let shape = |layers, tied| ModelShape {
            dim: 8,
            layers,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 12,
            vocab: 40,
            tied,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        };
        let (f32, bf16) = (Dtype::F32, Dtype::Bf16);
        for (sizes, layers, micros, tied, dtype, grad_dtype) in [
            (&[1][..], 3, 2, false, f32, f32),
            (&[3], 4, 6, true, bf16, bf16),
            (&[2, 2], 4, 4, false, f32, f32),
            (&[2, 2, 2], 7, 13, true, bf16, f32),
            (&[1, 3], 5, 6, false, bf16, bf16),
            (&[5, 6], 11, 22, false, f32, bf16),
            (&[1, 1, 1, 1], 2, 3, false, f32, f32),
        ] {
            for (stagger, blocks_per_shard) in [(Stagger::Slots, 1), (Stagger::None, 1), (Stagger::Slots, 2)] {
                let settled = Settled { blocks_per_shard, stagger, embed: Embed::Replicated, ..Settled::default() };
                let delay = published(&settled).unwrap();
                let job = Job {
                    shape: shape(layers, tied),
                    groups: Groups::new(sizes),
                    batch: Batch { seq: 4, micro: 2, micros },
                    dtype,
                    grad_dtype,
                    recompute: Recompute::Selective,
                    costs: Costs::unit(),
                    memory: None,
                    system: SystemOptions::Tawpipe(settled.into()),
                };
                let schedule = Tawpipe.schedule(&job).unwrap();
                for rank in 0..job.groups.ranks() {
                    assert_eq!(
                        rank::plan(&schedule, rank),
                        paper::plan(&schedule, delay, rank),
                        "rank {rank} of {job:?}"
                    );
                }
            }
        }
        assert_eq!(published(&Settled::default()), None);
    }
}
