//! Pipelines: every plan checks clean, moves the bytes of theory, keeps the micro-batches in flight and has the bubble
//! that the schedules' authors give.

use rayon::prelude::*;
use tawpipe::cluster::{Costs, UnitCost};
use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::check::{Summary, check};
use tawpipe::plan::systems::{InterleavedOptions, PipelineOptions, Schedule, SystemOptions, schedule};
use tawpipe::plan::{Action, Job, Payload, RankPlan, Segment};

use super::jobs::tawpipe;
use super::pace::{Pace, pace};

fn interleaved(chunks: usize, blocking: bool) -> SystemOptions {
    SystemOptions::Interleaved(InterleavedOptions { chunks, blocking })
}

/// Every pipeline with default options.
fn systems() -> [SystemOptions; 8] {
    let plain = PipelineOptions::default();
    [
        SystemOptions::Gpipe(plain.clone()),
        SystemOptions::OneFOneB(plain),
        interleaved(2, false),
        SystemOptions::ZbH1,
        SystemOptions::ZbH2,
        SystemOptions::Zb1p,
        SystemOptions::Zb2p,
        SystemOptions::ZbV,
    ]
}

/// Chunks of the model on each rank.
fn chunks(system: &SystemOptions) -> usize {
    match system {
        SystemOptions::Interleaved(options) => options.chunks,
        SystemOptions::ZbV => 2,
        _ => 1,
    }
}

fn job(system: SystemOptions, layers: usize, groups: &[usize], micros: usize) -> Job {
    Job { system, ..tawpipe(layers, groups, micros) }
}

/// Plans and checks a job, and panics with the first defects.
fn clean(job: &Job) -> (Schedule, Vec<RankPlan>, Summary) {
    let schedule = schedule(job).unwrap_or_else(|refusal| panic!("{refusal}: {job:?}"));
    let plans = schedule.ranks();
    let summary = check(&schedule, &plans).unwrap_or_else(|defects| {
        let first: Vec<String> = defects.iter().take(5).map(|d| d.to_string()).collect();
        panic!("{} defects of {job:?}:\n{}", defects.len(), first.join("\n"))
    });
    (schedule, plans, summary)
}

/// Bytes of activations and their gradients that one iteration sends: each boundary between ranks is passed by every
/// micro-batch, up and down (papers.md §7.2); an evaluation passes them once.
fn boundary_bytes(job: &Job) -> usize {
    let ranks = job.groups.ranks();
    let boundaries = match &job.system {
        _ if ranks == 1 => 0,
        // The two chunks of the last rank are neighbours.
        SystemOptions::ZbV => 2 * ranks - 2,
        system => chunks(system) * ranks - 1,
    };
    2 * boundaries * job.batch.micros * job.batch.micro_tokens() * job.shape.dim * job.dtype.bytes()
}

/// Bytes that the gradient of a tied embedding moves between the ranks of embedding and head, if these are two.
fn tied_bytes(job: &Job) -> usize {
    let together = job.groups.ranks() == 1 || job.system == SystemOptions::ZbV;
    let embed = job.shape.vocab * job.shape.dim;
    if job.shape.tied && !together { 2 * embed.next_multiple_of(128) * job.grad_dtype.bytes() } else { 0 }
}

/// A job with the options of a turn; their periods have no common divisor worth naming.
fn turn(turn: usize, groups: &[usize], layers: usize, micros: usize) -> Job {
    let blocking = turn % 3 == 1;
    let mut systems = systems().to_vec();
    systems[0] = SystemOptions::Gpipe(PipelineOptions { blocking });
    systems[1] = SystemOptions::OneFOneB(PipelineOptions { blocking });
    systems[2] = interleaved(1 + turn / 8 % 4, blocking);
    let mut job = job(systems[turn % 8].clone(), layers, groups, micros);
    job.shape.tied = turn % 5 >= 3;
    job.dtype = if turn % 7 >= 4 { Dtype::Bf16 } else { Dtype::F32 };
    job.grad_dtype = if turn % 11 >= 7 { Dtype::Bf16 } else { Dtype::F32 };
    job.recompute = [Recompute::None, Recompute::Selective, Recompute::Block][turn % 13 % 3];
    job.costs = match turn % 17 {
        0..=5 => Costs::unit(),
        6..=9 => Costs::flops(&job.shape, job.batch.micro, job.batch.seq),
        10 => Costs::default(),
        _ => Costs {
            embed: UnitCost { forward: 0.1, backward_input: 0.0, backward_weight: 0.3 },
            block: UnitCost { forward: 1.0, backward_input: 1.2 + turn as f64 % 3.0, backward_weight: 0.7 },
            head: UnitCost { forward: 0.9, backward_input: 0.8, backward_weight: 1.1 },
            hop: [0.0, 0.05, 0.7, 5.0][turn % 4],
        },
    };
    job
}

/// Every shape of cluster and model, with systems and options in turns: the job checks clean and moves the bytes of
/// theory, or has more stages than units and is refused with both numbers.
#[test]
fn pipelines_check_clean() {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for groups in 1..=6 {
        for ranks in 1..=4 {
            clusters.push(vec![ranks; groups]);
        }
    }
    clusters.extend([vec![1, 2, 3], vec![3, 1], vec![2, 1, 4, 1], vec![4, 3, 2, 1, 1]]);
    let mut jobs = Vec::new();
    for sizes in &clusters {
        for layers in 1..=13 {
            for micros in 1..=9 {
                // Beyond the domain nothing is planned, so that a few cases will do.
                let beyond = sizes.iter().sum::<usize>() > layers + 2;
                if !beyond || micros == 1 {
                    jobs.push(turn(jobs.len() + jobs.len() / 8, sizes, layers, micros));
                }
            }
        }
    }
    let refused: usize = jobs
        .par_iter()
        .map(|job| {
            let (stages, units) = (job.groups.ranks() * chunks(&job.system), job.shape.layers + 2);
            if stages > units {
                let refusal = schedule(job).unwrap_err().to_string();
                assert!(refusal.contains(&format!("{stages} stages")), "{refusal}");
                assert!(refusal.contains(&format!("{units} units")), "{refusal}");
                return 1;
            }
            let (_, _, summary) = clean(job);
            let sum = |traffic: &[tawpipe::plan::tables::Traffic]| -> usize {
                traffic.iter().map(|traffic| traffic.intra + traffic.inter).sum()
            };
            assert_eq!(sum(&summary.train), boundary_bytes(job) + tied_bytes(job), "{job:?}");
            assert_eq!(sum(&summary.evaluate), boundary_bytes(job) / 2, "{job:?}");
            0
        })
        .sum();
    println!("{} plans check clean, {refused} are refused", jobs.len() - refused);
    assert!(jobs.len() > 1000 + refused && refused > 100);
}

/// Four equal stages of two blocks (or two chunks of one), free ends.
const RANKS: usize = 4;

/// How long a plan of equal stages takes: forward F = 1 a stage, and the halves of backward as given.
fn paced(system: SystemOptions, micros: usize, input: f64, weight: f64) -> (Pace, Vec<RankPlan>) {
    let mut job = job(system, 2 * RANKS, &[RANKS], micros);
    job.recompute = Recompute::None;
    job.costs.block = UnitCost { forward: 1.0, backward_input: input, backward_weight: weight };
    let plans = clean(&job).1;
    let pace = pace(&plans, |action| match action {
        Action::Forward { saved: Some(_), .. } => 0.5,
        Action::Backward { saved: Some(_), .. } => 0.5 * (input + weight),
        Action::BackwardInput { .. } => 0.5 * input,
        Action::BackwardWeight { .. } => 0.5 * weight,
        _ => 0.0,
    });
    (pace, plans)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// With F = 1, B = 1, W = 1 a plan's own lanes, waits and messages give the bubbles of papers.md §6.1 and §6.2; those of
/// the first three also as share of the whole time, (p-1)/(M+p-1) and (p-1)/(vM+p-1).
#[test]
fn bubbles() {
    let p = RANKS as f64;
    for micros in [RANKS, 2 * RANKS, 3 * RANKS] {
        let m = micros as f64;
        let [gpipe, plain, interleaved, h1, h2, p1, p2, v] = systems().map(|system| paced(system, micros, 1.0, 1.0).0);
        for pace in [&gpipe, &plain] {
            assert!(close(pace.bubble(), 3.0 * (p - 1.0)) && close(pace.end(), 3.0 * (m + p - 1.0)), "{micros}");
        }
        assert!(close(interleaved.end(), 3.0 * (m + (p - 1.0) / 2.0)), "{micros}: {}", interleaved.end());
        assert!(close(h1.bubble(), p - 1.0) && close(h1.end(), 3.0 * m + p - 1.0), "{micros}: {}", h1.bubble());
        // No schedule ends earlier than a last stage that starts after p - 1 forwards and never waits.
        assert!(p1.bubble() <= h1.bubble() + 1e-9 && p1.end() >= 3.0 * m + p - 1.0 - 1e-9, "{}", p1.bubble());
        if micros >= 2 * RANKS {
            assert!(close(h2.bubble(), 0.0), "{micros}: {}", h2.bubble());
            assert!(close(p2.bubble(), 0.0), "{micros}: {}", p2.bubble());
            assert!(close(v.bubble(), 0.0), "{micros}: {}", v.bubble());
        }
        println!("{micros} micro-batches: zb-1p {}, zb-2p {}, zb-v {}", p1.bubble(), p2.bubble(), v.bubble());
    }
}

/// The formulas hold for unequal times too: (p-1)(F+B-W) and (p-1)(F+B-2W). The search never ends later than either.
#[test]
fn bubbles_of_unequal_times() {
    let p = RANKS as f64;
    for (input, weight) in [(1.2, 0.8), (1.1, 0.9), (1.3, 0.95)] {
        let pace = |system| paced(system, 4 * RANKS, input, weight).0;
        let (h1, h2) = (pace(SystemOptions::ZbH1), pace(SystemOptions::ZbH2));
        let (p1, p2) = (pace(SystemOptions::Zb1p), pace(SystemOptions::Zb2p));
        let bubble = |weights: f64| (p - 1.0) * (1.0 + input - weights * weight);
        for (name, pace) in [("zb-h1", &h1), ("zb-h2", &h2), ("zb-1p", &p1), ("zb-2p", &p2)] {
            println!(
                "B {input}, W {weight}: {name} has a bubble of {:.2} and ends at {:.2}",
                pace.bubble(),
                pace.end()
            );
        }
        assert!(close(h1.bubble(), bubble(1.0)) && close(h2.bubble(), bubble(2.0)));
        assert!(p1.end() <= h1.end() + 1e-9 && p2.end() <= h1.end().min(h2.end()) + 1e-9);
    }
}

fn count(plan: &RankPlan, segment: Segment) -> usize {
    plan.slots.iter().filter(|slot| slot.segment == segment).count()
}

/// Stages hold as many micro-batches as papers.md §6.1 and §6.2 say, M_B in slots of saved activations and M_W in slots
/// of pending gradients of parameters; while half a backward becomes the other, one micro-batch is in both.
#[test]
fn micro_batches_in_flight() {
    let micros = 3 * RANKS;
    for (index, system) in systems().into_iter().enumerate() {
        let name = system.name();
        let (_, plans) = paced(system, micros, 1.0, 1.0);
        for (i, plan) in plans.iter().enumerate() {
            let behind = RANKS - i;
            let found = (count(plan, Segment::Saved), count(plan, Segment::Pending));
            // Two blocks a stage, one a chunk.
            let expected = match index {
                0 => (2 * micros, 0),
                1 => (2 * behind, 0),
                2 => (2 * (behind - 1) + RANKS + 1, 0),
                3 => (2 * behind, 2 * (i + 1)),
                4 => (2 * (2 * behind - 1), 2 * (2 * i + 1)),
                _ => found,
            };
            assert_eq!(found, expected, "{name}, rank {i}");
            println!("{name}, rank {i}: saved {}, pending {}", found.0, found.1);
            let limit = match index {
                5 => 2 * RANKS,
                6 => 4 * RANKS,
                7 => 2 * RANKS,
                _ => continue,
            };
            let mut inside = 0_usize;
            for op in &plan.train {
                match op.action {
                    Action::Forward { saved: Some(_), .. } => inside += 1,
                    Action::BackwardWeight { .. } => inside -= 1,
                    _ => {}
                }
                assert!(inside <= limit, "{name}, rank {i}: {inside} blocks between forward and end of backward");
            }
            assert!(found.0 <= limit, "{name}, rank {i}: {found:?}");
        }
    }
}

/// With recomputation a stage keeps its blocks' inputs only, and needs few slots more than those: what comes in, what
/// goes out, the gradient, and what is computed.
#[test]
fn recomputation_keeps_inputs() {
    for (blocking, more) in [(false, 4), (true, 3)] {
        let system = SystemOptions::OneFOneB(PipelineOptions { blocking });
        let plans = clean(&job(system, 2 * RANKS, &[RANKS], 3 * RANKS)).1;
        for (i, plan) in plans.iter().enumerate() {
            let (wide, kept) = (count(plan, Segment::Activation), 2 * (RANKS - i));
            println!("blocking {blocking}, rank {i}: {wide} slots for {kept} inputs");
            assert!((kept..=kept + more).contains(&wide), "rank {i}: {wide} slots for {kept} inputs");
            assert_eq!(count(plan, Segment::Saved), 1);
        }
    }
}

/// Blocking ranks never compute while one of their messages goes; others do, and are done earlier.
#[test]
fn blocking() {
    let time = |action: &Action| match action {
        Action::Forward { .. } | Action::Backward { .. } => 1.0,
        Action::Exchange { .. } => 0.25,
        _ => 0.0,
    };
    for index in 0..3 {
        let [blocked, free] = [true, false].map(|blocking| {
            let systems = [
                SystemOptions::Gpipe(PipelineOptions { blocking }),
                SystemOptions::OneFOneB(PipelineOptions { blocking }),
                interleaved(2, blocking),
            ];
            let mut job = job(systems[index].clone(), 2 * RANKS, &[RANKS], 2 * RANKS);
            job.costs.hop = 0.25;
            let plans = clean(&job).1;
            (pace(&plans, time), plans)
        });
        // Pairs of a message and of computation of one rank at one time.
        let overlaps = |(pace, plans): &(Pace, Vec<RankPlan>)| -> usize {
            let rank = |(plan, times): (&RankPlan, &Vec<(f64, f64)>)| {
                let all = || plan.train.iter().zip(times).filter(|(_, (start, end))| end > start);
                let message = |op: &Action| matches!(op, Action::Exchange { .. });
                let pairs = all().filter(|(op, _)| message(&op.action)).map(|(_, a)| {
                    all().filter(|(op, b)| !message(&op.action) && a.0 < b.1 - 1e-9 && b.0 < a.1 - 1e-9).count()
                });
                pairs.sum::<usize>()
            };
            plans.iter().zip(&pace.ops).map(rank).sum()
        };
        assert_eq!(overlaps(&blocked), 0);
        assert!(overlaps(&free) > 0);
        assert!(free.0.end() < blocked.0.end(), "{} {}", free.0.end(), blocked.0.end());
    }
}

/// Activations only ever go to the neighbour that needs them, and every rank's dearest stage is as cheap as it can be
/// when head and embedding cost something.
#[test]
fn ends_count() {
    let mut job = job(SystemOptions::OneFOneB(PipelineOptions::default()), 7, &[4], 4);
    job.costs.head = UnitCost { forward: 1.0, backward_input: 1.0, backward_weight: 1.0 };
    let plans = clean(&job).1;
    let blocks = |plan: &RankPlan| {
        plan.train.iter().filter(|op| matches!(op.action, Action::Recompute { .. })).count() / job.batch.micros
    };
    // Seven blocks and a head: eight equal units and a free embedding on four ranks.
    assert_eq!(plans.iter().map(blocks).collect::<Vec<_>>(), [2, 2, 2, 1]);
    for (rank, plan) in plans.iter().enumerate() {
        for op in &plan.train {
            let Action::Exchange { sends, .. } = &op.action else { continue };
            for message in sends {
                match message.payload {
                    Payload::Activation(..) => assert_eq!(message.peer, rank + 1),
                    Payload::Dx(..) => assert_eq!(message.peer + 1, rank),
                    ref other => panic!("{other} in a pipeline"),
                }
            }
        }
    }
}

/// Pipelines of the size of a real run are planned in a blink, the search included: 48 blocks on 24 ranks.
#[test]
fn planning_is_fast() {
    for system in systems() {
        let (name, micros) = (system.name(), 24 * 16);
        let mut job = job(system, 48, &[8, 8, 8], micros);
        job.costs = Costs::flops(&job.shape, job.batch.micro, job.batch.seq);
        let start = std::time::Instant::now();
        let schedule = schedule(&job).unwrap();
        let ordered = start.elapsed();
        let ops: usize = schedule.ranks().iter().map(|plan| plan.train.len()).sum();
        println!("{name}: {ops} ops, ordered in {ordered:?}, written in {:?}", start.elapsed() - ordered);
        // Not a measurement: a guard against quadratic growth, far above what it takes (see what is printed).
        assert!(start.elapsed().as_secs() < 60);
    }
}
