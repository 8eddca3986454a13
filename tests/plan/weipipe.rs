//! `weipipe` and `weipipe-naive`: every plan checks clean, and moves exactly the bytes of its flows.

use rayon::prelude::*;
use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::systems::SystemOptions;
use tawpipe::plan::{Job, Segment};

use super::clean::{clean, ring_bytes};
use super::jobs::{job, shape};

/// A job of `turn`'s options.
fn sample(turn: usize, layers: usize, sizes: &[usize], rounds: usize) -> Job {
    let ranks: usize = sizes.iter().sum();
    let pick = |bit: usize| turn >> bit & 1 == 1;
    let missing = if turn % 5 == 4 { ranks / 2 + 1 } else { 0 };
    let micros = (ranks * rounds).saturating_sub(missing).max(1);
    let system = if turn % 7 < 4 { SystemOptions::Weipipe } else { SystemOptions::WeipipeNaive };
    let mut job = job(layers, sizes, micros, system);
    job.shape = shape(layers, turn % 3 == 2);
    job.dtype = if pick(1) { Dtype::Bf16 } else { Dtype::F32 };
    job.grad_dtype = if turn % 11 < 5 { Dtype::Bf16 } else { Dtype::F32 };
    job.recompute =
        if pick(2) { [Recompute::None, Recompute::Selective, Recompute::Block][turn % 2] } else { Recompute::Block };
    job
}

/// Every shape of cluster and model, with options in turns, checks clean: fewer blocks than ranks, ranks without a
/// micro-batch in the last round or in any, uneven groups.
#[test]
fn checks_clean() {
    let mut clusters: Vec<Vec<usize>> =
        (1..=6).flat_map(|groups| (1..=4).map(move |size| vec![size; groups])).collect();
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1], vec![4, 3, 2, 1, 1]]);
    let mut jobs = Vec::new();
    for sizes in &clusters {
        let ranks: usize = sizes.iter().sum();
        for layers in 1..=13 {
            for rounds in 1..=3 {
                // Large clusters take their time, and see a third of the shapes.
                if ranks <= 6 || (layers + rounds + ranks).is_multiple_of(3) {
                    jobs.push(sample(jobs.len(), layers, sizes, rounds));
                }
            }
        }
    }
    jobs.par_iter().for_each(|job| {
        clean(job);
    });
    println!("{} plans check clean", jobs.len());
}

/// Two rounds that pass each other in the model need the inputs of its blocks once, and those of one more run.
#[test]
fn rounds_share_activations() {
    for (ranks, per_rank) in [(2, 1), (3, 4), (6, 2)] {
        let job = job(ranks * per_rank, &[ranks], 3 * ranks, SystemOptions::Weipipe);
        let wide = job.batch.micro_tokens() * job.shape.dim * job.dtype.bytes();
        let (_, summary) = clean(&job);
        // Of the blocks, of the unit that comes next, and the gradient on its way down.
        let inputs = ranks * per_rank + per_rank + 1 + 1;
        assert!(summary.memory.iter().all(|rank| rank[&Segment::Activation] == inputs * wide), "{ranks} x {per_rank}");
    }
}

/// With as many blocks a rank and full rounds: what crosses groups is, to the byte, the weights that each rank receives
/// for forward and for backward, the swap at the start of the backward flow, the gradients, and the complete sums.
///
/// In P passes (K interleaved, 2K - 1 naive) rank r receives P N - 1 + r shards of weights in each flow, where the paper
/// counts (K + 1) N whatever r: nothing is sent that nobody uses.
#[test]
fn bytes_of_the_flows() {
    for sizes in [&[1, 1][..], &[2, 2], &[3, 2, 1], &[2, 2, 2], &[5], &[1, 4]] {
        for (rounds, per_rank) in [(1, 1), (2, 3), (3, 1)] {
            for system in [SystemOptions::Weipipe, SystemOptions::WeipipeNaive] {
                let n: usize = sizes.iter().sum();
                let passes = if system == SystemOptions::Weipipe { rounds } else { 2 * rounds - 1 };
                let mut job = job(n * per_rank, sizes, n * rounds, system);
                job.dtype = Dtype::Bf16;
                let (schedule, summary) = clean(&job);
                let shard = schedule.shards.shards[1].len;
                let crosses = |from: usize, to: usize| {
                    let group = |rank: usize| job.groups.group_of(rank % n);
                    if group(from) == group(to) { 0 } else { shard }
                };
                let (weight, gradient) = (2, 4);
                let mut bytes = 0;
                for rank in 0..n {
                    let from_before = crosses(rank + n - 1, rank);
                    let gradients = if rank == 0 { (passes - 1) * n } else { passes * n };
                    bytes += from_before * (2 * weight * (passes * n - 1 + rank) + gradient * gradients);
                    bytes += weight * crosses(rank, n + 1 - rank);
                    bytes += gradient * crosses(n - 1, rank);
                }
                let ends = [0, schedule.shards.shards.len() - 1];
                bytes += ends.map(|end| ring_bytes(&job, schedule.shards.shards[end].len)).iter().sum::<usize>();
                assert_eq!(summary.traffic().inter, bytes, "{job:?}");
            }
        }
    }
}
