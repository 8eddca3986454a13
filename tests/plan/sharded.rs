//! `ddp`, `fsdp` and `hsdp`: every plan checks clean, and every rank sends the bytes that theory says.

use rayon::prelude::*;
use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::Job;
use tawpipe::plan::collective::piece;
use tawpipe::plan::systems::{DdpOptions, FsdpOptions, GradSync, HsdpOptions, Schedule, SystemOptions, schedule};
use tawpipe::plan::tables::Traffic;

use super::clean::clean;
use super::jobs::job;

/// One of the three systems with options of `turn`: the periods have no common divisor worth naming, so that any few of
/// them meet on many shapes.
fn system(turn: usize) -> SystemOptions {
    let blocks_per_shard = if turn % 11 < 8 { 1 } else { 2 + turn % 2 };
    let prefetch = turn % 13 / 4;
    let sync = if turn % 7 < 4 { GradSync::Round } else { GradSync::Iteration };
    let reshard_after_forward = turn % 5 != 3;
    match turn % 3 {
        0 => SystemOptions::Ddp(DdpOptions { blocks_per_shard, zero1: turn.is_multiple_of(2) }),
        1 => SystemOptions::Fsdp(FsdpOptions { blocks_per_shard, prefetch, sync, reshard_after_forward }),
        _ => SystemOptions::Hsdp(HsdpOptions { blocks_per_shard, prefetch, sync, reshard_after_forward }),
    }
}

fn options(turn: usize, layers: usize, sizes: &[usize], rounds: usize) -> Job {
    let ranks: usize = sizes.iter().sum();
    // Some ranks, and sometimes whole groups, have no micro-batch in the last round, or none at all.
    let missing = if turn % 5 < 2 { ranks / 2 + 1 } else { 0 };
    let mut job = job(layers, sizes, (ranks * rounds).saturating_sub(missing).max(1), system(turn));
    job.shape.tied = turn % 4 == 2;
    job.dtype = if turn % 17 < 8 { Dtype::Bf16 } else { Dtype::F32 };
    job.grad_dtype = if turn % 19 < 9 { Dtype::Bf16 } else { Dtype::F32 };
    job.recompute = [Recompute::None, Recompute::Selective, Recompute::Block][turn % 23 % 3];
    job
}

/// How often an iteration gathers each shard, in model order, where theory says so: all shards kept, or one block a
/// shard and more blocks than the two turning points save.
fn gathers(job: &Job, shards: usize, prefetch: usize, reshard: bool, rounds: usize) -> Option<Vec<usize>> {
    if !reshard {
        return Some(vec![usize::from(rounds > 0); shards]);
    }
    let layers = job.shape.layers;
    if job.shape.tied || shards != layers + 2 || layers < 2 * prefetch + 1 {
        return None;
    }
    let block = |i| match i {
        _ if i + prefetch >= layers => rounds,
        _ if i < prefetch && rounds > 0 => rounds + 1,
        _ => 2 * rounds,
    };
    Some([rounds].into_iter().chain((0..layers).map(block)).chain([rounds]).collect())
}

/// What a member of a set sends, in elements, in an all-gather (everything but the piece of the member behind it) and in
/// a reduce-scatter (everything but its own piece) of `len` elements; an all-reduce is both.
fn sends(len: usize, members: usize, index: usize) -> (usize, usize) {
    if members == 1 {
        return (0, 0);
    }
    (len - piece(len, members, (index + 1) % members).len(), len - piece(len, members, index).len())
}

/// What a rank sends in an iteration, to the next rank of its set and to the one of the same index in the next group;
/// `None` where theory says nothing of the gathers.
fn expected(schedule: &Schedule, rank: usize) -> Option<[usize; 2]> {
    let job = &schedule.job;
    let (groups, ranks) = (&job.groups, job.groups.ranks());
    let (group, local) = groups.locate(rank);
    let rounds = job.batch.rounds(ranks);
    let (weight, gradient) = (job.dtype.bytes(), job.grad_dtype.bytes());
    let lens: Vec<usize> = schedule.shards.shards.iter().map(|shard| shard.len).collect();
    let mut bytes = [0, 0];
    match &job.system {
        SystemOptions::Ddp(options) => {
            for len in lens {
                let (gather, scatter) = sends(len, ranks, rank);
                bytes[0] += scatter * gradient + gather * if options.zero1 { weight } else { gradient };
            }
        }
        SystemOptions::Fsdp(options) => {
            let counts = gathers(job, lens.len(), options.prefetch, options.reshard_after_forward, rounds)?;
            let scatters = if options.sync == GradSync::Round { rounds } else { 1 };
            for (len, count) in lens.into_iter().zip(counts) {
                let (gather, scatter) = sends(len, ranks, rank);
                bytes[0] += count * gather * weight + scatters * scatter * gradient;
            }
        }
        SystemOptions::Hsdp(options) => {
            // Rounds in which the group has anything to do.
            let first = groups.members(group).start;
            let own = (job.batch.micros + ranks - 1 - first) / ranks;
            let counts = gathers(job, lens.len(), options.prefetch, options.reshard_after_forward, own)?;
            let crossings = if options.sync == GradSync::Round { rounds } else { 1 };
            for (len, count) in lens.into_iter().zip(counts) {
                let (gather, scatter) = sends(len, groups.size(group), local);
                bytes[0] += count * gather * weight + own * scatter * gradient;
                let across = sends(piece(len, groups.size(group), local).len(), groups.count(), group);
                bytes[1] += crossings * (across.0 + across.1) * gradient;
            }
        }
        other => unreachable!("{other:?}"),
    }
    Some(bytes)
}

/// A flat ring in rank order crosses to another group behind each group's last rank only; inside a group nothing does,
/// across groups everything.
fn classed(schedule: &Schedule, rank: usize, [ring, across]: [usize; 2]) -> (usize, usize) {
    let groups = &schedule.job.groups;
    let next = groups.group_of((rank + 1) % groups.ranks());
    let flat = !matches!(schedule.job.system, SystemOptions::Hsdp(_));
    if flat && next != groups.group_of(rank) { (0, ring) } else { (ring, across) }
}

/// Every shape of cluster and model, with systems and options in turns, checks clean; where theory gives the bytes,
/// every rank sends them to the byte, inside its group and out of it.
#[test]
fn sharded_systems_check_clean() {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for groups in 1..=6 {
        for ranks in 1..=4 {
            clusters.push(vec![ranks; groups]);
        }
    }
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1]]);
    let mut jobs = Vec::new();
    for sizes in &clusters {
        let combinations = match sizes.iter().sum() {
            0..=4 => 4,
            5..=8 => 2,
            _ => 1,
        };
        for layers in 1..=13 {
            for rounds in 1..=3 {
                for _ in 0..combinations {
                    jobs.push(options(jobs.len(), layers, sizes, rounds));
                }
            }
        }
    }
    let results: Vec<(bool, bool)> = jobs.par_iter().map(checked).collect();
    let (ran, formulas) = (count(&results, |r| r.0), count(&results, |r| r.1));
    println!("{ran} plans check clean; {formulas} have the bytes that theory gives; {} refused", jobs.len() - ran);
    assert!(formulas > 1000 && ran > 2000);
}

fn count(results: &[(bool, bool)], which: impl Fn(&&(bool, bool)) -> bool) -> usize {
    results.iter().filter(which).count()
}

/// Checks one job: whether it runs, and whether theory gives its bytes.
fn checked(job: &Job) -> (bool, bool) {
    let sizes = job.groups.sizes();
    let uneven = sizes.iter().any(|&size| size != sizes[0]);
    if uneven && matches!(job.system, SystemOptions::Hsdp(_)) {
        let refusal = schedule(job).expect_err("groups of different sizes").to_string();
        assert!(refusal.contains("groups of equal size") && refusal.contains("fsdp"), "{refusal}");
        return (false, false);
    }
    let (schedule, summary) = clean(job);
    let ranks = 0..job.groups.ranks();
    let Some(theory) = ranks.map(|rank| expected(&schedule, rank)).collect::<Option<Vec<_>>>() else {
        return (true, false);
    };
    for (rank, bytes) in theory.into_iter().enumerate() {
        let Traffic { intra, inter, .. } = summary.train[rank];
        assert_eq!((intra, inter), classed(&schedule, rank, bytes), "rank {rank}: {job:?}");
    }
    (true, true)
}
