//! Every plan checks clean, and its bytes are those of the formulas.

use rayon::prelude::*;
use tawpipe::cluster::{Costs, Groups};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::check::{Summary, check};
use tawpipe::plan::collective::piece;
use tawpipe::plan::systems::{Choice, Embed, Schedule, Stagger, SystemOptions, schedule};
use tawpipe::plan::{Batch, Job};

use super::jobs::{shape, tawpipe, with};

/// Plans and checks a job, and panics with the first defects.
pub fn clean(job: &Job) -> (Schedule, Summary) {
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
                for recompute in [Recompute::None, Recompute::Selective, Recompute::Block] {
                    for dtype in [Dtype::F32, Dtype::Bf16] {
                        let job = Job {
                            shape: shape(layers, tied),
                            groups: Groups::new(&[1]),
                            batch: Batch { seq: 4, micro: 2, micros },
                            dtype,
                            grad_dtype: Dtype::F32,
                            recompute,
                            costs: Costs::unit(),
                            memory: None,
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

/// Bytes between groups that theory asks for, where it says something: one block a shard, at least three blocks (four
/// with replicated embedding), all rounds full, no tied head.
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
                // Without embedding and head in the ring, two shards are still there at each turning point.
                (2, Embed::Replicated) => rounds + 1,
                (s, Embed::Replicated) if s == last - 2 => rounds,
                _ => 2 * rounds,
            };
            let travels = embed == Embed::Sharded || (shard != 0 && shard != last);
            usize::from(travels) * shards[shard].len * (visits * weight + rounds * gradient)
        })
        .sum();
    let ring: usize = match embed {
        Embed::Sharded => 0,
        Embed::Replicated => [0, last].map(|shard| ring_bytes(job, shards[shard].len)).iter().sum(),
    };
    (job.groups.count() - 1) * per_group + ring
}

/// Bytes between groups of a ring all-reduce over all ranks: the last rank of each group sends to the next group all of
/// the N chunks but one, twice.
pub fn ring_bytes(job: &Job, len: usize) -> usize {
    let n = job.groups.ranks();
    let chunk = |i: usize| piece(len, n, i % n).len();
    let groups = if job.groups.count() > 1 { job.groups.count() } else { 0 };
    let last = |group: usize| job.groups.members(group).end - 1;
    let elems: usize = (0..groups).map(|group| 2 * len - chunk(last(group)) - chunk(last(group) + 1)).sum();
    elems * job.grad_dtype.bytes()
}

/// As many equal shards as ranks, embedding replicated: owners are those of the paper. Between nodes go as many messages
/// as a replay of the released schedule's control flow gave, 2KG(N-R) - (G-1)K - (G-1)(K-1) of weights and KG(N-R) of
/// gradients, less another (G-1)K + (G-1)(K-1): at a turning point the ring still holds two shards, not one.
#[test]
fn the_papers_case() {
    for (groups, ranks) in [(2, 2), (3, 2), (2, 4), (3, 8), (4, 4)] {
        for rounds in 1..=3 {
            for (per_shard, stagger) in [(1, Stagger::Slots), (2, Stagger::None)] {
                let n = groups * ranks;
                let job = with(
                    tawpipe(n * per_shard, &vec![ranks; groups], n * rounds),
                    Embed::Replicated,
                    stagger,
                    per_shard,
                );
                let (schedule, summary) = clean(&job);
                let owners: Vec<_> = schedule.owners()[1..=n].iter().map(|owner| owner.unwrap()).collect();
                let paper: Vec<_> = (0..n).map(|s| (s % groups) * ranks + s / groups).collect();
                assert_eq!(owners, paper);
                let weights = 2 * rounds * groups * (n - ranks) - 2 * (groups - 1) * (2 * rounds - 1);
                let gradients = rounds * groups * (n - ranks);
                let shards = &schedule.shards.shards;
                let replicated: usize = [0, n + 1].iter().map(|&s| ring_bytes(&job, shards[s].len)).sum();
                assert_eq!(summary.traffic().inter, 4 * shards[1].len * (weights + gradients) + replicated);
            }
        }
    }
}

/// A plan of the size of a real run is checked in a blink: a model of 10 billion parameters on three nodes of eight.
#[test]
fn checking_is_fast() {
    let mut job = with(tawpipe(48, &[8, 8, 8], 24), Embed::Sharded, Stagger::Slots, 1);
    let shape = ModelShape { dim: 4096, heads: 32, kv_heads: 32, head_dim: 128, ffn: 11008, vocab: 32000, ..job.shape };
    (job.shape, job.batch.seq) = (shape, 16384);
    let schedule = schedule(&job).unwrap();
    let start = std::time::Instant::now();
    let plans = schedule.ranks();
    let planned = start.elapsed();
    check(&schedule, &plans).unwrap();
    let ops: usize = plans.iter().map(|plan| plan.train.len()).sum();
    println!("{ops} ops on 24 ranks: planned in {planned:?}, checked in {:?}", start.elapsed() - planned);
    // Not a measurement: a guard against quadratic growth, far above what it takes (see what is printed).
    assert!(start.elapsed().as_secs() < 60);
}

/// A job of `turn`'s options. The options' periods have no common divisor worth naming, so that any few of them meet in
/// any combination and on many shapes.
pub fn options(turn: usize, layers: usize, sizes: &[usize], rounds: usize) -> Job {
    let ranks: usize = sizes.iter().sum();
    let pick = |bit: usize| turn >> bit & 1 == 1;
    // Some ranks, and sometimes whole groups, have no micro-batch in the last round.
    let missing = if turn % 5 == 4 { ranks / 2 + 1 } else { 0 };
    let micros = (ranks * rounds).saturating_sub(missing).max(1);
    let embed = if turn % 7 >= 4 { Embed::Replicated } else { Embed::Sharded };
    let stagger = if pick(0) { Stagger::Slots } else { Stagger::None };
    let per_shard = if turn % 11 < 7 { 1 } else { 2 + turn % 3 };
    let mut job = with(tawpipe(layers, sizes, micros), embed, stagger, per_shard);
    job.shape.tied = turn % 3 == 2;
    job.dtype = if pick(1) { Dtype::Bf16 } else { Dtype::F32 };
    job.grad_dtype = if turn % 13 < 5 { Dtype::Bf16 } else { Dtype::F32 };
    job.recompute =
        if pick(2) { [Recompute::None, Recompute::Selective, Recompute::Block][turn % 2] } else { Recompute::Block };
    job
}

/// Whether theory gives the bytes between groups.
pub fn has_formula(job: &Job) -> bool {
    let SystemOptions::Tawpipe(options) = &job.system else { return false };
    let least = if options.embed == Embed::Replicated { 4 } else { 3 };
    let full = job.batch.micros.is_multiple_of(job.groups.ranks());
    options.blocks_per_shard == Choice::Is(1) && job.shape.layers >= least && !job.shape.tied && full
}

/// Every shape of cluster and model, with options in turns, checks clean; where theory gives the bytes between groups,
/// the plan has them to the byte.
#[test]
fn tawpipe_checks_clean() {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for groups in 1..=6 {
        for ranks in 1..=4 {
            clusters.push(vec![ranks; groups]);
        }
    }
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1], vec![4, 3, 2, 1, 1]]);
    let mut jobs = Vec::new();
    for sizes in &clusters {
        // Small clusters are cheap to plan, and see more combinations.
        let combinations = match sizes.iter().sum() {
            0..=4 => 8,
            5..=8 => 3,
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
    let formulas: usize = jobs
        .par_iter()
        .map(|job| {
            let (schedule, summary) = clean(job);
            let SystemOptions::Tawpipe(options) = &job.system else { unreachable!() };
            if has_formula(job) {
                assert_eq!(summary.traffic().inter, inter_bytes(&schedule, options.embed), "{job:?}");
            }
            usize::from(has_formula(job))
        })
        .sum();
    println!("{} plans check clean; {formulas} have the bytes between groups that theory gives", jobs.len());
    assert!(formulas > 500);
}
