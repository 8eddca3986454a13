//! Shared links and cores, overlap, and numbers that add up.

use std::path::Path;

use tawpipe::cluster::{Costs, Description, Duplex};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::systems::{Settled, SystemOptions, schedule};
use tawpipe::plan::{Batch, Job};
use tawpipe::simulate::{ERROR, Prices, Recommendation, Simulation, costs, named, recommend, simulate, systems};

pub fn machine(name: &str) -> Description {
    Description::read(&Path::new("inputs/clusters").join(name)).unwrap()
}

pub fn job(machine: &Description, layers: usize, rounds: usize) -> Job {
    let mut job = Job {
        shape: ModelShape {
            dim: 1024,
            layers,
            heads: 16,
            kv_heads: 16,
            head_dim: 64,
            ffn: 2816,
            vocab: 32000,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        },
        groups: machine.groups(),
        batch: Batch { seq: 4096, micro: 1, micros: rounds * machine.ranks() },
        dtype: Dtype::Bf16,
        grad_dtype: Dtype::Bf16,
        recompute: Recompute::Block,
        costs: Costs::unit(),
        memory: None,
        system: SystemOptions::Tawpipe(Settled::default().into()),
    };
    job.costs = costs(machine, &job);
    job
}

fn run(machine: &Description, job: &Job) -> Simulation {
    let schedule = schedule(job).unwrap();
    simulate(&schedule, &schedule.ranks(), &Prices::of(machine, job).unwrap()).unwrap()
}

/// Busy, exposed and idle add up to the step; spans of a lane do not overlap and every op runs once; bytes and memory
/// are those of the plan's tables; utilisation follows from the speed.
#[test]
fn numbers_add_up() {
    for name in ["paper-3x8-10gbe.toml", "lab-ethernet.toml", "laptop.toml"] {
        let machine = machine(name);
        let job = job(&machine, 6, 2);
        let simulation = run(&machine, &job);
        for rank in &simulation.ranks {
            let sum = rank.busy + rank.exposed + rank.idle;
            assert!((sum / simulation.step_s - 1.0).abs() < 1e-9, "{name}: {rank:?} of {}", simulation.step_s);
            assert!(rank.busy > 0.0);
        }
        let plans = schedule(&job).unwrap().ranks();
        for (spans, plan) in simulation.timeline.ranks.iter().zip(&plans) {
            assert_eq!(spans.len(), plan.train.len());
            let mut ends = std::collections::BTreeMap::new();
            for span in spans {
                let end = ends.entry(span.lane).or_insert(0.0);
                assert!(span.start >= *end && span.end >= span.start, "{name}");
                *end = span.end;
                let waits = &plan.train[span.op].waits;
                assert!(spans.iter().filter(|s| waits.contains(&s.op)).all(|s| s.end <= span.start));
            }
        }
        let tokens = simulation.tokens_per_s_rank * simulation.step_s * machine.ranks() as f64;
        assert!((tokens / job.batch.tokens() as f64 - 1.0).abs() < 1e-12);
        assert!(simulation.mfu.is_none_or(|mfu| 0.0 < mfu.causal && mfu.causal < mfu.full));
    }
}

/// The more is kept between forward and backward, the less is computed: none, selective, block, in memory as in time. What
/// `none` spares is what passes over memory: a small part.
#[test]
fn recomputation_is_priced() {
    let machine = machine("laptop.toml");
    let of = |recompute| run(&machine, &Job { recompute, ..job(&machine, 6, 2) });
    let [none, selective, block] = [Recompute::None, Recompute::Selective, Recompute::Block].map(of);
    assert!(none.step_s < selective.step_s && selective.step_s < block.step_s);
    assert!(none.step_s > 0.9 * selective.step_s, "{} of {}", none.step_s, selective.step_s);
    assert!(none.peak() > selective.peak() && selective.peak() > block.peak());
}

/// A plan that only computes takes the sum of its parts; on shared cores, two ranks a core take twice as long.
#[test]
fn cores_are_shared() {
    let mut machine = machine("laptop.toml");
    machine.overhead.copy = 0.0;
    machine.overhead.message = 0.0;
    (machine.links.intra.rate, machine.links.intra.latency) = (1e15, 0.0);
    let seconds = |cores: f64| {
        let mut machine = machine.clone();
        machine.nodes[0].cores = Some(cores);
        run(&machine, &job(&machine, 4, 2)).step_s
    };
    let (one, two, four, eight) = (seconds(1.0), seconds(2.0), seconds(4.0), seconds(8.0));
    assert!((one / two - 2.0).abs() < 0.05, "{one} {two}");
    assert!((two / four - 2.0).abs() < 0.1, "{two} {four}");
    assert!(eight <= four && eight > 0.9 * four, "a rank cannot use two cores: {four} {eight}");
}

/// Where the link between nodes is what everything waits for, the step is its bytes over its rate; a second network
/// card, or one that does both directions at once, takes part of that away.
#[test]
fn links_are_shared() {
    let mut machine = machine("paper-3x8-10gbe.toml");
    machine.links.inter.rate = 1e7;
    let job = job(&machine, 12, 2);
    let slow = run(&machine, &job);
    // What the busiest card sends: rank by rank, the bytes to other nodes.
    let groups = &job.groups;
    let sent = |group: usize| groups.members(group).map(|rank| slow.traffic[rank].inter).sum::<usize>();
    let busiest = (0..3).map(sent).max().unwrap() as f64;
    assert!(slow.step_s > busiest / 1e7, "{} {}", slow.step_s, busiest / 1e7);
    assert!(slow.step_s < 2.0 * busiest / 1e7, "{} {}", slow.step_s, busiest / 1e7);
    machine.links.inter.duplex = Duplex::Half;
    assert!(run(&machine, &job).step_s > 1.3 * slow.step_s);
    machine.links.inter.duplex = Duplex::Full;
    machine.links.inter.rate = 1e8;
    let ten = run(&machine, &job).step_s;
    assert!(ten < 0.12 * slow.step_s, "ten times the rate: {ten} {}", slow.step_s);
    machine.links.inter.nics = 8;
    assert!(run(&machine, &job).step_s < ten);
}

/// Between many nodes and over slow links a direct hop is as slow as all its copies over the owner's card, while a broadcast
/// loads every card at once: then the step is what one card sends, not what all do.
#[test]
fn collective_hops_use_all_cards() {
    let mut machine = machine("paper-3x8-10gbe.toml");
    (machine.nodes[0].count, machine.nodes[0].ranks, machine.links.inter.rate) = (8, 2, 1e7);
    let with = |hop: &str| {
        let system = named(&format!("name = 'tawpipe'\nauto = false\nhop = '{hop}'")).unwrap();
        run(&machine, &Job { system, ..job(&machine, 6, 2) })
    };
    let (direct, ours) = (with("direct"), with("collective"));
    assert_eq!(direct.total_traffic().inter, ours.total_traffic().inter);
    let card = ours.total_traffic().inter as f64 / 8.0 / 1e7;
    assert!(ours.step_s > card && ours.step_s < 2.0 * card, "{} of {card}", ours.step_s);
    assert!(direct.step_s > 3.0 * ours.step_s, "{} {}", direct.step_s, ours.step_s);
}

/// Options that no build knows are not silently dropped; every system is tried, each variant once.
#[test]
fn variants() {
    assert!(named("name = 'tawpipe'\nstagger = 'slots'").is_some());
    assert!(named("name = 'tawpipe'\nnothing = 1").is_none());
    assert!(named("name = 'nothing'").is_none());
    let all = systems();
    for entry in tawpipe::plan::systems::SYSTEMS {
        assert!(all.iter().any(|options| options.name() == entry.name), "{}", entry.name);
    }
    assert!(all.iter().enumerate().all(|(i, a)| all[..i].iter().all(|b| a != b)));
}

/// The recommendation is sorted by speed but for its first, which is as fast as the fastest as far as can be told, holds the memory limit, names what does not run, and says why the winner
/// wins; with no memory nothing fits, and it says so.
#[test]
fn recommendations() {
    let mut machine = machine("paper-3x8-10gbe.toml");
    machine.nodes[0].count = 1;
    machine.nodes[0].ranks = 4;
    let template = job(&machine, 4, 2);
    let found = recommend(&template, &machine, 80_000_000_000).unwrap();
    assert!(found.ranked[1..].windows(2).all(|pair| pair[0].step_s <= pair[1].step_s));
    assert!(found.ranked.iter().all(|other| found.ranked[0].step_s <= other.step_s * (1.0 + ERROR)));
    assert!(!found.ranked.is_empty() && found.reason.ends_with('.'), "{}", found.reason);
    assert!(found.refused.iter().any(|(name, why)| *name == "single" && !why.is_empty()));
    let limit = found.ranked.iter().map(|candidate| candidate.peak).min().unwrap();
    let tight = recommend(&template, &machine, limit).unwrap();
    assert!(!tight.ranked.is_empty() && tight.ranked.iter().all(|candidate| candidate.peak <= limit));
    let fastest = |found: &Recommendation| found.ranked.iter().map(|c| c.step_s).fold(f64::INFINITY, f64::min);
    assert!(fastest(&tight) >= fastest(&found) && tight.too_large.0 > 0);
    let none = recommend(&template, &machine, 1000).unwrap();
    assert!(none.ranked.is_empty() && none.reason.contains("Nothing fits"), "{}", none.reason);
}
