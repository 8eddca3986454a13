//! Every plan checks clean, and its bytes are those of the formulas.

use tawpipe::cluster::Groups;
use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::check::{Summary, check};
use tawpipe::plan::systems::{Embed, Schedule, Stagger, SystemOptions, schedule};
use tawpipe::plan::{Batch, Job};

use super::jobs::{shape, tawpipe, with};

/// Plans and checks a job, and panics with the first defects.
fn clean(job: &Job) -> (Schedule, Summary) {
    let schedule = schedule(job).unwrap_or_else(|refusal| panic!("{refusal}: {job:?}"));
    let summary = check(&schedule, &schedule.ranks()).unwrap_or_else(|defects| {
        let first: Vec<String> = defects.iter().take(5).map(|d| d.to_string()).collect();
        panic!("{} defects of {job:?}:\n{}", defects.len(), first.join("\n"))
    });
    (schedule, summary)
}

/// `single` for every kind of job it knows.
#[test]
fn single_checks_clean() {
    for layers in [1, 2, 5] {
        for micros in [1, 3] {
            for tied in [false, true] {
                for recompute in [Recompute::None, Recompute::Block] {
                    for dtype in [Dtype::F32, Dtype::Bf16] {
                        let job = Job {
                            shape: shape(layers, tied),
                            groups: Groups::new(&[1]),
                            batch: Batch { seq: 4, micro: 2, micros },
                            dtype,
                            grad_dtype: Dtype::F32,
                            recompute,
                            system: SystemOptions::Single,
                        };
                        let (_, summary) = clean(&job);
                        assert_eq!((summary.traffic().intra, summary.traffic().inter), (0, 0));
                    }
                }
            }
        }
    }
}

/// Bytes between groups that theory asks for, where it says something: one block a shard, at least three blocks, all
/// rounds full, no tied head.
fn inter_bytes(schedule: &Schedule, embed: Embed) -> usize {
    let job = &schedule.job;
    let rounds = job.batch.micros / job.groups.ranks();
    let (weight, gradient) = (job.dtype.bytes(), job.grad_dtype.bytes());
    let shards = &schedule.shards.shards;
    let last = shards.len() - 1;
    let per_group: usize = (0..=last)
        .map(|shard| {
            let visits = match (shard, embed) {
                (0, _) => rounds,
                (s, _) if s == last => rounds,
                (1, _) => rounds + 1,
                (s, _) if s == last - 1 => rounds,
                _ => 2 * rounds,
            };
            let travels = embed == Embed::Sharded || (shard != 0 && shard != last);
            usize::from(travels) * shards[shard].len * (visits * weight + rounds * gradient)
        })
        .sum();
    (job.groups.count() - 1) * per_group
}

/// Every shape of cluster and model, with every option, checks clean; where theory gives the bytes between groups, the
/// plan has them to the byte.
#[test]
fn tawpipe_checks_clean() {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for groups in 1..=6 {
        for ranks in 1..=4 {
            clusters.push(vec![ranks; groups]);
        }
    }
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1], vec![4, 3, 2, 1, 1]]);
    let (mut plans, mut formulas) = (0, 0);
    for sizes in &clusters {
        let ranks: usize = sizes.iter().sum();
        for layers in 1..=13 {
            // Options take turns, so that every pair of them meets many shapes.
            for rounds in 1..=3 {
                let turn = plans;
                let pick = |bit: usize| turn >> bit & 1 == 1;
                let tied = turn % 3 == 2;
                let ragged = turn % 5 == 4;
                let micros =
                    if ragged { (ranks * rounds).saturating_sub(ranks / 2 + 1).max(1) } else { ranks * rounds };
                let embed = if turn % 7 >= 4 { Embed::Replicated } else { Embed::Sharded };
                let stagger = if pick(0) { Stagger::Slots } else { Stagger::None };
                let per_shard = if turn % 11 < 8 { 1 } else { 1 + turn % 4 };
                let mut job = with(tawpipe(layers, sizes, micros), embed, stagger, per_shard);
                job.shape.tied = tied;
                job.dtype = if pick(1) { Dtype::Bf16 } else { Dtype::F32 };
                job.grad_dtype = if turn % 13 < 5 { Dtype::Bf16 } else { Dtype::F32 };
                job.recompute = if pick(2) { Recompute::None } else { Recompute::Block };
                let (schedule, summary) = clean(&job);
                plans += 1;
                if per_shard == 1 && layers >= 3 && !tied && !ragged && embed == Embed::Sharded {
                    assert_eq!(summary.traffic().inter, inter_bytes(&schedule, embed), "{job:?}");
                    formulas += 1;
                }
            }
        }
    }
    println!("{plans} plans check clean; {formulas} compared with the formula for bytes between groups");
    assert!(formulas > 100);
}
