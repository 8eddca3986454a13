//! `tawpipe`'s options, each alone and together: every plan checks clean, and moves the bytes that it is meant to.

use rayon::prelude::*;
use tawpipe::cluster::Groups;
use tawpipe::model::Dtype;
use tawpipe::plan::check::Summary;
use tawpipe::plan::systems::{
    Choice, Embed, GradSync, Hops, Layout, Preset, Schedule, Settled, Stagger, SystemOptions, TawpipeOptions, Topology,
    WeightCache, schedule,
};
use tawpipe::plan::{Action, Job, Lane, Segment};

use super::clean::{clean, options as sample, ring_bytes};
use super::jobs::{shape, tawpipe};

/// A job with other options.
fn with(job: Job, change: impl FnOnce(&mut Settled)) -> Job {
    let mut options = options(&job);
    change(&mut options);
    Job { system: SystemOptions::Tawpipe(options.into()), ..job }
}

fn options(job: &Job) -> Settled {
    let SystemOptions::Tawpipe(options) = &job.system else { unreachable!() };
    options.settled().unwrap()
}

/// How often a shard is brought in, in all rounds together, by a ring of two slots; see `clean.rs`.
fn visits(schedule: &Schedule, shard: usize, rounds: usize) -> usize {
    let last = schedule.shards.shards.len() - 1;
    let replicated = options(&schedule.job).embed == Embed::Replicated;
    match shard {
        0 => rounds,
        s if s == last || s == last - 1 => rounds,
        1 => rounds + 1,
        2 if replicated => rounds + 1,
        s if replicated && s == last - 2 => rounds,
        _ => 2 * rounds,
    }
}

/// Bytes between groups, where theory says something: one block a shard, enough blocks, full rounds, no tied head.
fn inter_bytes(schedule: &Schedule) -> usize {
    let job = &schedule.job;
    let options = options(job);
    let rounds = job.batch.micros / job.groups.ranks();
    let (weight, gradient) = (job.dtype.bytes(), job.grad_dtype.bytes());
    let mut bytes = 0;
    for (id, shard) in schedule.shards.shards.iter().enumerate() {
        let last = schedule.shards.shards.len() - 1;
        if options.embed == Embed::Replicated && (id == 0 || id == last) {
            bytes += ring_bytes(job, shard.len);
            continue;
        }
        let times = visits(schedule, id, rounds);
        let others = job.groups.count() - 1;
        // A chain over the world leaves every group, but for the one it ends in if it began at its first rank.
        let crossings = |edge: fn(std::ops::Range<usize>) -> usize| {
            let owner = schedule.owners()[id].expect("flat without stripes");
            let group = job.groups.members(job.groups.group_of(owner));
            if others == 0 { 0 } else { others + usize::from(owner != edge(group)) }
        };
        bytes += match (options.topology, options.weight_cache, options.grad_sync) {
            (Topology::Flat, ..) => {
                shard.len * (times * weight * crossings(|g| g.start) + rounds * gradient * crossings(|g| g.end - 1))
            }
            (_, cache, sync) => {
                let times = if cache == WeightCache::Group { 1 } else { times };
                let sums = if sync == GradSync::Iteration { 1 } else { rounds };
                others * shard.len * (times * weight + sums * gradient)
            }
        };
    }
    bytes
}

fn has_formula(job: &Job) -> bool {
    let options = options(job);
    let flat_stripe = options.topology == Topology::Flat && options.stripe;
    super::clean::has_formula(job) && !flat_stripe
}

/// Options in turns, with periods that have no common divisor worth naming.
fn vary(turn: usize, mut job: Job) -> Job {
    let alike = job.groups.sizes().windows(2).all(|pair| pair[0] == pair[1]);
    job = with(job, |options| {
        options.overlap = !turn.is_multiple_of(5);
        options.topology = if turn % 7 == 3 { Topology::Flat } else { Topology::Groups };
        options.weight_cache = if turn.is_multiple_of(3) { WeightCache::None } else { WeightCache::Group };
        options.grad_sync = if turn % 17 < 7 { GradSync::Round } else { GradSync::Iteration };
        options.stripe = turn % 11 < 5 && (alike || options.topology == Topology::Flat);
    });
    job
}

/// Every shape of cluster and model, with all options in turns, checks clean; where theory gives the bytes between
/// groups, the plan has them to the byte.
#[test]
fn all_options_check_clean() {
    let mut clusters: Vec<Vec<usize>> =
        (1..=6).flat_map(|groups| (1..=4).map(move |ranks| vec![ranks; groups])).collect();
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1], vec![4, 3, 2, 1, 1]]);
    let mut jobs = Vec::new();
    for sizes in &clusters {
        let combinations = match sizes.iter().sum() {
            0..=4 => 4,
            5..=8 => 2,
            _ => 1,
        };
        for layers in 1..=13 {
            for rounds in 1..=3 {
                // Large clusters take their time, and see a third of the shapes.
                let skipped = sizes.len() * sizes[0] > 8 && (layers + rounds + sizes.len()) % 3 > 0;
                for _ in 0..combinations * usize::from(!skipped) {
                    jobs.push(vary(jobs.len(), sample(jobs.len() + 1, layers, sizes, rounds)));
                }
            }
        }
    }
    let formulas: usize = jobs
        .par_iter()
        .map(|job| {
            let (schedule, summary) = clean(job);
            if has_formula(job) {
                assert_eq!(summary.traffic().inter, inter_bytes(&schedule), "{job:?}");
            }
            usize::from(has_formula(job))
        })
        .sum();
    println!("{} plans check clean; {formulas} have the bytes between groups that theory gives", jobs.len());
    assert!(formulas > 150);
}

/// A job on three groups of four, three rounds, with one block a shard.
fn roomy() -> Job {
    tawpipe(12, &[4, 4, 4], 36)
}

fn plan(change: impl FnOnce(&mut Settled)) -> (Schedule, Summary) {
    clean(&with(roomy(), change))
}

/// A kept shard crosses between groups once an iteration, and so does a summed gradient, also with a tied head, shards
/// of several blocks and an almost empty last round.
#[test]
fn caches_cross_once() {
    for (tied, per_shard, micros) in [(false, 1, 36), (true, 1, 25), (true, 3, 33), (false, 5, 12)] {
        for stripe in [false, true] {
            let mut job = with(roomy(), |options| {
                options.blocks_per_shard = per_shard;
                options.weight_cache = WeightCache::Group;
                options.grad_sync = GradSync::Iteration;
                options.stripe = stripe;
            });
            job.shape = shape(12, tied);
            job.batch.micros = micros;
            (job.dtype, job.grad_dtype) = (Dtype::Bf16, Dtype::F32);
            let (schedule, summary) = clean(&job);
            let elems: usize = schedule.shards.shards.iter().map(|shard| shard.len).sum();
            assert_eq!(summary.traffic().inter, 2 * elems * (2 + 4), "{job:?}");
        }
    }
}

/// What a group keeps is spread over its ranks: none keeps more than its share by more than a shard, also where groups
/// differ in size.
#[test]
fn caches_are_balanced() {
    for sizes in [&[4, 4, 4][..], &[1, 2, 3], &[6, 2, 1]] {
        let ranks: usize = sizes.iter().sum();
        let job = with(tawpipe(13, sizes, ranks * 2), |options| {
            options.weight_cache = WeightCache::Group;
            options.grad_sync = GradSync::Iteration;
        });
        let (schedule, summary) = clean(&job);
        let largest = schedule.shards.shards.iter().map(|shard| 4 * shard.len).max().unwrap();
        for group in 0..job.groups.count() {
            for segment in [Segment::Cache, Segment::GradientSum] {
                let kept = |rank: usize| summary.memory[rank].get(&segment).copied().unwrap_or(0);
                let members = job.groups.members(group);
                let total: usize = members.clone().map(kept).sum();
                let most = members.clone().map(kept).max().unwrap();
                assert!(most <= total / members.len() + largest, "{sizes:?}, group {group}: {most} of {total}");
            }
        }
    }
}

/// Stripes move as many bytes between groups, and spread them over all ranks.
#[test]
fn stripes_use_every_link() {
    let (_, plain) = plan(|_| {});
    let (schedule, striped) = plan(|options| options.stripe = true);
    assert!(matches!(schedule.layout, Layout::Striped(_)));
    assert_eq!(plain.traffic().inter, striped.traffic().inter);
    let most = |summary: &Summary| summary.train.iter().map(|traffic| traffic.inter).max().unwrap();
    let share = striped.traffic().inter / 12;
    // The tiny shards of this model are cut between cache lines: pieces differ.
    assert!(most(&striped) < share * 5 / 4, "{} of {share}", most(&striped));
    let largest = |change: fn(&mut Settled)| {
        let plans = plan(change).0.ranks();
        let ops = plans.iter().flat_map(|plan| &plan.train);
        let sends = ops.flat_map(|op| match &op.action {
            Action::Exchange { sends, .. } => sends.iter().map(|message| message.region.len).collect(),
            _ => Vec::new(),
        });
        sends.max().unwrap()
    };
    let (whole, piece) = (largest(|_| {}), largest(|options| options.stripe = true));
    assert!(piece < whole / 4 + 64, "{piece} of {whole}");
}

/// Without overlap the same bytes move, and every op waits for the one before.
#[test]
fn without_overlap_nothing_is_beside_anything() {
    let (_, with) = plan(|_| {});
    let (schedule, without) = plan(|options| options.overlap = false);
    assert_eq!(with.traffic(), without.traffic());
    for plan in schedule.ranks() {
        for (id, op) in plan.train.iter().enumerate().skip(1) {
            let before = plan.train[id - 1].lane;
            assert!(op.lane == before || op.waits.contains(&(id - 1)), "op {id} of rank {}", plan.rank);
        }
        assert!(plan.train.iter().any(|op| op.lane == Lane::Compute) && plan.comm_lanes > 1);
    }
}

/// By default everything is kept if there is memory for it, less if there is not, and it never needs more memory than there is as long as
/// anything fits.
#[test]
fn the_default_fits() {
    let job = Job { system: SystemOptions::Tawpipe(TawpipeOptions::default()), ..roomy() };
    let all = |memory| clean(&Job { memory, ..job.clone() });
    let (schedule, roomy) = all(None);
    let chosen = options(&schedule.job);
    assert_eq!((chosen.weight_cache, chosen.grad_sync), (WeightCache::Group, GradSync::Iteration));
    let (_, least) = plan(|_| {});
    let mut between = roomy.traffic().inter;
    for limit in [roomy.peak(), roomy.peak() - 1, (roomy.peak() + least.peak()) / 2, least.peak()] {
        let (_, summary) = all(Some(limit));
        assert!(summary.peak() <= limit);
        assert!(summary.traffic().inter >= between, "less memory, but fewer bytes");
        between = summary.traffic().inter;
    }
    assert_eq!(between, least.traffic().inter);
}

/// Stripes over groups of several sizes are refused, in words.
#[test]
fn stripes_need_equal_groups() {
    let job = with(tawpipe(3, &[1, 2], 3), |options| options.stripe = true);
    let refusal = schedule(&job).unwrap_err().to_string();
    assert!(refusal.contains("system.stripe") && refusal.contains("[1, 2]"), "{refusal}");
    let flat = with(job, |options| options.topology = Topology::Flat);
    clean(&Job { groups: Groups::new(&[1, 2]), ..with(flat, |options| options.stagger = Stagger::None) });
}

/// The published system by name: every rank owns one shard, embedding and head are replicated, groups start one after the
/// other, hops are direct, nothing is kept; what a deck sets wins over it, as over the default.
#[test]
fn presets() {
    let read = |text: &str| -> SystemOptions { toml::from_str(text).unwrap() };
    let of = |text: &str, layers: usize, groups: &[usize]| {
        options(&clean(&Job { system: read(text), ..tawpipe(layers, groups, 2 * groups.iter().sum::<usize>()) }).0.job)
    };
    let paper = of("name = 'tawpipe'\npreset = 'paper'", 7, &[2, 2]);
    let published = Settled {
        blocks_per_shard: 2,
        embed: Embed::Replicated,
        stagger: Stagger::Slots,
        overlap: true,
        topology: Topology::Groups,
        hop: Hops::Direct,
        weight_cache: WeightCache::None,
        grad_sync: GradSync::Round,
        stripe: false,
    };
    assert_eq!(paper, published);
    assert_eq!(of("name = 'tawpipe'\npreset = 'paper'", 3, &[2, 2, 2]).blocks_per_shard, 1);
    let set =
        of("name = 'tawpipe'\npreset = 'paper'\nblocks_per_shard = 1\nstagger = 'none'\nhop = 'auto'", 7, &[2, 2, 2]);
    let wanted = Settled { blocks_per_shard: 1, stagger: Stagger::None, hop: Hops::Collective, ..published };
    assert_eq!(set, wanted);
    let default = of("name = 'tawpipe'", 7, &[2, 2]);
    assert_eq!((default.weight_cache, default.grad_sync), (WeightCache::Group, GradSync::Iteration));
    let set = of("name = 'tawpipe'\nweight_cache = 'none'", 7, &[2, 2]);
    assert_eq!((set.weight_cache, set.grad_sync), (WeightCache::None, GradSync::Iteration));
    // What was chosen is written down with the preset, and is kept when it is read again.
    let schedule =
        schedule(&Job { system: read("name = 'tawpipe'\npreset = 'paper'"), ..tawpipe(7, &[2, 2], 4) }).unwrap();
    let written = toml::to_string(&schedule.job.system).unwrap();
    let SystemOptions::Tawpipe(again) = read(&written) else { unreachable!() };
    assert_eq!((again.settled(), again.preset), (Some(published), Preset::Paper));
}

/// Decks from before there were presets: `auto = true` leaves everything open but a hop that is not the old default,
/// `auto = false` nothing.
#[test]
fn old_decks_say_auto() {
    let read = |text: &str| -> TawpipeOptions {
        let SystemOptions::Tawpipe(options) = toml::from_str(&format!("name = 'tawpipe'\n{text}")).unwrap() else {
            unreachable!()
        };
        options
    };
    let resolved = "hop = 'direct'\nweight_cache = 'none'\ngrad_sync = 'round'\nauto = ";
    let open = read(&format!("{resolved}true"));
    assert_eq!((open.hop, open.weight_cache, open.grad_sync), (Choice::Auto, Choice::Auto, Choice::Auto));
    assert_eq!(read("auto = true\nhop = 'collective'").hop, Choice::Is(Hops::Collective));
    let closed = TawpipeOptions { auto: Some(false), ..Settled::default().into() };
    assert_eq!(read(&format!("{resolved}false")), closed);
    assert_eq!(read("auto = false"), closed);
    assert_eq!(read("auto = false\nweight_cache = 'group'").weight_cache, Choice::Is(WeightCache::Group));
}
