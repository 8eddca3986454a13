//! `hop = "collective"`: hops by one broadcast and one reduction instead of message by message.

use rayon::prelude::*;
use tawpipe::model::Dtype;
use tawpipe::plan::check::Summary;
use tawpipe::plan::systems::{
    Embed, GradSync, Hops, Settled, Stagger, SystemOptions, TawpipeOptions, Topology, WeightCache, schedule,
};
use tawpipe::plan::{Action, Job, Lane, Op, Segment};

use super::clean::{clean, options as sample};
use super::jobs::tawpipe;

/// A job with other options.
fn with(job: &Job, change: impl FnOnce(&mut Settled)) -> Job {
    let SystemOptions::Tawpipe(options) = &job.system else { unreachable!() };
    let mut options = options.settled().unwrap();
    change(&mut options);
    Job { system: SystemOptions::Tawpipe(options.into()), ..job.clone() }
}

fn hop(job: &Job, hop: Hops) -> Job {
    with(job, |options| options.hop = hop)
}

/// Options in turns, with periods that have no common divisor worth naming.
fn vary(turn: usize, job: &Job) -> Job {
    with(job, |options| {
        options.stagger = Stagger::None;
        options.overlap = !turn.is_multiple_of(5);
        options.weight_cache = if turn % 7 < 3 { WeightCache::None } else { WeightCache::Group };
        options.grad_sync = if turn % 11 < 5 { GradSync::Round } else { GradSync::Iteration };
        options.stripe = turn % 3 == 1;
    })
}

/// Sums of bytes inside groups and between them.
fn bytes(summary: &Summary) -> (usize, usize) {
    (summary.traffic().intra, summary.traffic().inter)
}

/// On every shape of cluster, from one group to six and from one rank in each, with all options in turns, plans check
/// clean. Where all groups have micro-batches in all rounds they move exactly the bytes of direct hops.
#[test]
fn collective_hops_check_clean() {
    let mut jobs = Vec::new();
    for (groups, ranks) in (1..=6).flat_map(|groups| (1..=4).map(move |ranks| (groups, ranks))) {
        for layers in 1..=9 {
            // Large clusters take their time, and see a third of the shapes.
            if groups * ranks > 8 && (layers + groups + ranks) % 3 > 0 {
                continue;
            }
            for rounds in 1..=3 {
                let turn = jobs.len();
                jobs.push(vary(turn, &sample(turn, layers, &vec![ranks; groups], rounds)));
            }
        }
    }
    let compared = jobs.par_iter().filter(|job| {
        let (_, ours) = clean(&hop(job, Hops::Collective));
        let full = job.batch.micros.is_multiple_of(job.groups.ranks());
        if full {
            assert_eq!(bytes(&ours), bytes(&clean(job).1), "{job:?}");
        }
        full
    });
    let compared = compared.count();
    println!("{} plans check clean; {compared} move the bytes of direct hops", jobs.len());
    assert!(compared > 200);
}

/// With fewer shards than groups, an owner's group sends every copy of its shards itself if hops are direct; in a
/// collective no group sends a shard's weights or its gradient more than once, and all together send as much.
#[test]
fn every_group_sends_a_shard_once() {
    let job = with(&tawpipe(3, &[2; 6], 24), |options| {
        (options.weight_cache, options.grad_sync) = (WeightCache::Group, GradSync::Iteration);
    });
    let most = |hop_by| {
        let (schedule, summary) = clean(&hop(&job, hop_by));
        let sent = |group: usize| job.groups.members(group).map(|rank| summary.train[rank].inter).sum::<usize>();
        let elems: usize = schedule.shards.shards.iter().map(|shard| shard.len).sum();
        ((0..6).map(sent).max().unwrap(), summary.traffic().inter, elems * (4 + 4))
    };
    let ((direct, all, _), (ours, same, once)) = (most(Hops::Direct), most(Hops::Collective));
    assert_eq!(all, same);
    assert!(ours <= once && ours < direct, "{ours} of at most {once}; direct {direct}");
}

/// What ranks of equal index keep of each other's shards is spread over the indices, also where there are fewer shards
/// than ranks: none keeps more than its share by more than a shard.
#[test]
fn kept_shards_are_balanced() {
    for (layers, sizes) in [(13, &[4, 4, 4][..]), (10, &[4; 6]), (30, &[3, 3])] {
        let ranks: usize = sizes.iter().sum();
        let job = with(&tawpipe(layers, sizes, ranks * 2), |options| {
            (options.weight_cache, options.grad_sync) = (WeightCache::Group, GradSync::Iteration);
            options.hop = Hops::Collective;
        });
        let (schedule, summary) = clean(&job);
        let largest = schedule.shards.shards.iter().map(|shard| 4 * shard.len).max().unwrap();
        for group in 0..job.groups.count() {
            let kept = |rank: usize| summary.memory[rank].get(&Segment::Cache).copied().unwrap_or(0);
            let members = job.groups.members(group);
            let total: usize = members.clone().map(kept).sum();
            let most = members.clone().map(kept).max().unwrap();
            assert!(most <= total / members.len() + largest, "{sizes:?}, group {group}: {most} of {total}");
        }
    }
}

/// A gradient in bf16 is rounded on its way, but what the owner's own group adds to the iteration's sum is not: the sum
/// that goes home starts from zeros there. In f32 it ends in the accumulator itself.
#[test]
fn the_owners_sum_stays_in_f32() {
    for grad_dtype in [Dtype::F32, Dtype::Bf16] {
        let mut job = with(&tawpipe(4, &[2, 2, 2], 12), |options| {
            (options.grad_sync, options.hop) = (GradSync::Iteration, Hops::Collective);
        });
        job.grad_dtype = grad_dtype;
        for plan in clean(&job).0.ranks() {
            let mut reductions = 0;
            for op in &plan.train {
                let Action::Collective(call) = &op.action else { continue };
                if call.comm == 3 && call.what == tawpipe::plan::collective::Collective::Reduce(plan.rank) {
                    let slot = &plan.slots[call.region.slot];
                    assert_eq!(slot.segment == Segment::Accumulator, grad_dtype == Dtype::F32, "{}", slot.name);
                    reductions += 1;
                }
            }
            let owns = plan.slots.iter().filter(|slot| slot.segment == Segment::Master).count();
            assert_eq!(reductions, owns, "one reduction for each shard of rank {}", plan.rank);
        }
    }
}

/// Kept weights come in the order of need: a hop begins after all but the last few shards have been given to the group, as
/// many as there are groups, whether an op waits for that itself or through others.
#[test]
fn kept_weights_come_in_their_turn() {
    for hop_by in [Hops::Direct, Hops::Collective] {
        let job = with(&tawpipe(12, &[2, 2, 2], 12), |options| {
            (options.weight_cache, options.hop) = (WeightCache::Group, hop_by);
        });
        let mut ordered = 0;
        for plan in clean(&job).0.ranks() {
            let mut spreads = Vec::new();
            for (id, op) in plan.train.iter().enumerate() {
                match op.lane {
                    Lane::Comm(0) if spreads.len() >= 3 => {
                        assert!(
                            comes_before(&plan.train, spreads[spreads.len() - 3], id),
                            "op {id} of rank {}",
                            plan.rank
                        );
                        ordered += 1;
                    }
                    Lane::Comm(1) => spreads.push(id),
                    _ => {}
                }
            }
        }
        assert!(ordered >= 12, "{ordered} hops are ordered");
    }
}

/// Whether an op is complete before another starts, by waits and lanes.
fn comes_before(ops: &[Op], first: usize, then: usize) -> bool {
    let mut before = vec![false; ops.len()];
    before[then] = true;
    for id in (first..=then).rev() {
        if before[id] {
            let lane = (0..id).rfind(|&other| ops[other].lane == ops[id].lane);
            ops[id].waits.iter().copied().chain(lane).for_each(|other| before[other] = true);
        }
    }
    before[first]
}

/// One group has nothing to hop: no op on the lanes of hops, and the bytes of direct hops.
#[test]
fn one_group_does_not_hop() {
    for embed in [Embed::Sharded, Embed::Replicated] {
        let job = with(&tawpipe(5, &[3], 6), |options| options.embed = embed);
        let (schedule, ours) = clean(&hop(&job, Hops::Collective));
        assert_eq!(bytes(&ours), bytes(&clean(&job).1));
        let hops = |op: &Op| matches!(op.action.comm(), Some(0 | 3));
        assert!(schedule.ranks().iter().all(|plan| !plan.train.iter().chain(&plan.evaluate).any(hops)));
    }
}

/// Groups of several sizes, or that want shards at different times, are refused in words; without groups there is
/// nothing to refuse.
#[test]
fn what_cannot_hop_together_is_refused() {
    let refusal = |job: &Job| schedule(job).unwrap_err().to_string();
    let uneven = hop(&tawpipe(3, &[1, 2], 3), Hops::Collective);
    let words = refusal(&uneven);
    assert!(words.contains("system.hop") && words.contains("[1, 2]"), "{words}");
    clean(&with(&uneven, |options| options.topology = Topology::Flat));
    let late = with(&tawpipe(3, &[2, 2], 4), |options| {
        (options.hop, options.stagger) = (Hops::Collective, Stagger::Slots);
    });
    let words = refusal(&late);
    assert!(words.contains("system.hop") && words.contains("system.stagger"), "{words}");
}

/// By default hops are collective between more than two groups, where they can be.
#[test]
fn the_default_hops_together() {
    let chosen = |sizes: &[usize], stagger| {
        let system = SystemOptions::Tawpipe(TawpipeOptions { stagger, ..TawpipeOptions::default() });
        let job = Job { system, ..tawpipe(3, sizes, 12) };
        let SystemOptions::Tawpipe(options) = clean(&job).0.job.system else { unreachable!() };
        options.settled().unwrap().hop
    };
    assert_eq!(chosen(&[2, 2, 2], Stagger::None), Hops::Collective);
    assert_eq!(chosen(&[2, 2], Stagger::None), Hops::Direct);
    assert_eq!(chosen(&[1, 2, 3], Stagger::None), Hops::Direct);
    assert_eq!(chosen(&[2, 2, 2], Stagger::Slots), Hops::Direct);
}
