//! The schedule that the TawPipe paper draws: 3 groups of 2 ranks, 6 blocks, one round.

use tawpipe::cluster::{Costs, Groups, Rank};
use tawpipe::model::{Dtype, ModelShape, Recompute, Unit};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::{Embed, Schedule, Settled, Stagger, SystemOptions, schedule};
use tawpipe::plan::{Action, Batch, Job, Payload, RankPlan};
use tawpipe::simulate::{Prices, Simulation, simulate};

fn papers_figure() -> (Schedule, Vec<RankPlan>, Simulation) {
    let options = Settled { embed: Embed::Replicated, stagger: Stagger::Slots, ..Settled::default() }.into();
    let job = Job {
        shape: ModelShape {
            dim: 8,
            layers: 6,
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
            ffn: 12,
            vocab: 16,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        },
        groups: Groups::new(&[2, 2, 2]),
        batch: Batch { seq: 4, micro: 1, micros: 6 },
        dtype: Dtype::Bf16,
        grad_dtype: Dtype::F32,
        recompute: Recompute::Selective,
        costs: Costs::unit(),
        memory: None,
        system: SystemOptions::Tawpipe(options),
    };
    let schedule = schedule(&job).unwrap();
    let plans = schedule.ranks();
    let simulation = simulate(&schedule, &plans, &Prices::unit()).unwrap();
    (schedule, plans, simulation)
}

/// Starts of all blocks' forward and backward on a rank, and whether it is a backward.
fn blocks(plans: &[RankPlan], simulation: &Simulation, rank: Rank) -> Vec<(char, usize, f64)> {
    let spans = simulation.timeline.ranks[rank].iter();
    let mut blocks: Vec<_> = spans
        .filter_map(|span| match &plans[rank].train[span.op].action {
            Action::Forward { unit: Unit::Block(i), .. } => Some(('F', *i, span.start)),
            Action::Backward { unit: Unit::Block(i), .. } => Some(('B', *i, span.start)),
            _ => None,
        })
        .collect();
    blocks.sort_by(|a, b| a.2.total_cmp(&b.2));
    blocks
}

/// Every group starts a unit after the one before it, when its weights have hopped, and never pauses: forward 0 to 5,
/// backward 5 to 0. The figure has the same but for one idle unit between forward and backward of groups 1 and 2, which
/// nothing depends on: it ends at 21, this at 20.
#[test]
fn times_of_the_papers_figure_less_an_idle_unit() {
    let (_, plans, simulation) = papers_figure();
    assert_eq!(simulation.step_s, 20.0);
    for rank in 0..6 {
        let late = (rank / 2) as f64;
        let forward = (0..6).map(|i| ('F', i, late + i as f64));
        let backward = (0..6).map(|i| ('B', 5 - i, late + 6.0 + 2.0 * i as f64));
        assert_eq!(blocks(&plans, &simulation, rank), forward.chain(backward).collect::<Vec<_>>(), "rank {rank}");
        assert_eq!(simulation.ranks[rank].busy, 18.0);
    }
    // Idle is the stagger alone: G - 1 units on every rank.
    assert!((simulation.bubble() - 2.0 / 20.0).abs() < 1e-12);
}

/// Weights that each rank sends, in order, as (receiver, block): the paper's table of steps, where each line's messages
/// belong to one prefetch. At the turn from forward to backward the ring still holds two shards, not one, so the table's
/// second transfers of W4 (3 to 1, 3 to 5) are not needed.
#[test]
fn transfers_of_the_papers_table() {
    let (schedule, plans, _) = papers_figure();
    let block = |shard: usize| shard - 1;
    let mut sent: Vec<Vec<(Rank, usize)>> = vec![Vec::new(); 6];
    let mut roots: Vec<Vec<(Rank, usize)>> = vec![Vec::new(); 3];
    let mut sums: Vec<Vec<(Rank, usize)>> = vec![Vec::new(); 3];
    let mut back: Vec<Vec<(Rank, usize)>> = vec![Vec::new(); 6];
    for plan in &plans {
        let group = schedule.job.groups.group_of(plan.rank);
        for op in &plan.train {
            match &op.action {
                Action::Exchange { sends, .. } => {
                    for message in sends {
                        match &message.payload {
                            Payload::Weights(shard, _) => sent[plan.rank].push((message.peer, block(*shard))),
                            Payload::Gradient(shard, _) => back[plan.rank].push((message.peer, block(*shard))),
                            _ => {}
                        }
                    }
                }
                Action::Collective(call) if plan.rank % 2 == 0 => match (&call.what, &call.payload) {
                    (Collective::Broadcast(root), Payload::Weights(shard, _)) => {
                        roots[group].push((*root, block(*shard)))
                    }
                    (Collective::Reduce(root), Payload::Gradient(shard, _)) => sums[group].push((*root, block(*shard))),
                    _ => {}
                },
                _ => {}
            }
        }
    }
    // Forward in the table's order, t = 0 to 5; backward t = 7 to 12.
    assert_eq!(sent[0], [(2, 0), (4, 0), (2, 0), (4, 0)]);
    assert_eq!(sent[1], [(3, 3), (5, 3), (3, 3), (5, 3)]);
    assert_eq!(sent[2], [(0, 1), (4, 1), (0, 1), (4, 1)]);
    assert_eq!(sent[3], [(1, 4), (5, 4)]);
    assert_eq!(sent[4], [(0, 2), (2, 2), (0, 2), (2, 2)]);
    assert_eq!(sent[5], [(1, 5), (3, 5)]);
    // Broadcasts: forward 0 to 5 from local rank s div 3, backward 4 to 0 less those still in the ring.
    for (group, roots) in roots.iter().enumerate() {
        let root = |s: usize| (2 * group + s / 3, s);
        let expected: Vec<_> = (0..6).chain([3, 2, 1, 0]).map(root).collect();
        assert_eq!(*roots, expected, "group {group}");
    }
    // Gradients: summed in the order 5 to 0 onto the owner or its counterpart, which sends the sum to the owner.
    for (group, sums) in sums.iter().enumerate() {
        let expected: Vec<_> = (0..6).rev().map(|s| (2 * group + s / 3, s)).collect();
        assert_eq!(*sums, expected, "group {group}");
    }
    for (rank, back) in back.iter().enumerate() {
        let (group, local) = (rank / 2, rank % 2);
        let owned_by_others = (0..6).rev().filter(|s| s / 3 == local && s % 3 != group);
        let expected: Vec<_> = owned_by_others.map(|s| ((s % 3) * 2 + s / 3, s)).collect();
        assert_eq!(*back, expected, "rank {rank}");
    }
}
