//! Random small changes to right plans: the checker and the independent interpreter must agree on every one.

use tawpipe::model::{Dtype, Recompute};
use tawpipe::plan::check::{Rule, check};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::{Embed, SYSTEMS, Schedule, Stagger, SystemOptions, schedule};
use tawpipe::plan::{Action, Call, Job, Lane, Op, RankPlan, Region};

use super::interpret::{Dice, Manner, run};
use super::jobs::{tawpipe, with};
use super::truth::{GRID, Truth};

/// Drops an op; what waited for it waits for what it waited for.
pub fn drop_op(list: &mut Vec<Op>, id: usize) {
    let gone = list.remove(id);
    let before = (0..id).rev().find(|&i| list[i].lane == gone.lane);
    for (index, op) in list.iter_mut().enumerate().skip(id) {
        if op.waits.contains(&id) {
            op.waits.retain(|&wait| wait != id);
            op.waits.extend(gone.waits.iter().chain(&before).filter(|&&wait| wait < index));
        }
        op.waits.iter_mut().for_each(|wait| *wait -= usize::from(*wait > id));
        op.waits.sort_unstable();
        op.waits.dedup();
    }
}

/// Swaps two ops; waits follow them, but none may look ahead.
pub fn swap_ops(list: &mut [Op], a: usize, b: usize) {
    list.swap(a, b);
    for (index, op) in list.iter_mut().enumerate() {
        for wait in &mut op.waits {
            *wait = if *wait == a {
                b
            } else if *wait == b {
                a
            } else {
                *wait
            };
        }
        op.waits.retain(|&wait| wait < index);
    }
}

/// All regions of an action.
pub fn regions(action: &mut Action) -> Vec<&mut Region> {
    match action {
        Action::Load { tokens, .. } => vec![tokens],
        Action::Forward { weights, input, output, saved, workspace, .. } => {
            [weights, input, output].into_iter().chain(saved).chain(workspace).collect()
        }
        Action::Recompute { weights, input, saved, workspace, .. } => {
            [weights, input, saved].into_iter().chain(workspace).collect()
        }
        Action::HeadLoss { weights, input, targets, gradient, loss, workspace, .. } => {
            let own = gradient.iter_mut().flat_map(|g| [&mut g.dx, &mut g.weights]);
            [weights, input, targets, loss].into_iter().chain(own).chain(workspace).collect()
        }
        Action::Backward { weights, input, saved, dx, gradient, workspace, .. } => {
            [input, dx, gradient].into_iter().chain(weights).chain(saved).chain(workspace).collect()
        }
        Action::BackwardInput { weights, input, saved, dx, pending, workspace, .. } => {
            [weights, input, saved, dx, pending].into_iter().chain(workspace).collect()
        }
        Action::BackwardWeight { pending, gradient, .. } => vec![pending, gradient],
        Action::Clear { dst } => vec![dst],
        Action::Cast { src, dst } | Action::Accumulate { src, dst } => vec![src, dst],
        Action::NormPartial { gradient, stats } => vec![gradient, stats],
        Action::Update { gradient, step, stats, master, moment1, moment2, home, .. } => {
            [gradient, step, stats, master, moment1, moment2].into_iter().chain(home).collect()
        }
        Action::Exchange { sends, recvs, .. } => sends.iter_mut().chain(recvs).map(|m| &mut m.region).collect(),
        Action::Collective(Call { region, scratch, .. }) => [region].into_iter().chain(scratch).collect(),
    }
}

/// What was changed, in which op.
struct Mutant {
    kind: &'static str,
    rank: usize,
    lane: Lane,
    /// Ops whose timing may matter: the op itself, and what it does not wait for any more.
    near: Vec<usize>,
    what: String,
}

/// A random change: what it is, in words, and where; `None` if the dice chose something that cannot be done.
fn mutate(plans: &mut [RankPlan], dice: &mut Dice) -> Option<Mutant> {
    let ranks = plans.len();
    let rank = dice.below(ranks);
    let RankPlan { slots, prepare, train, evaluate, .. } = &mut plans[rank];
    let (phase, list) = match dice.below(10) {
        0 => ("prepare", prepare),
        1 | 2 => ("evaluate", evaluate),
        _ => ("train", train),
    };
    if list.is_empty() {
        return None;
    }
    let id = dice.below(list.len());
    let lane = list[id].lane;
    let what = format!("rank {rank}, {phase} op {id} ({})", list[id].action);
    let mut near = vec![id];
    let (kind, detail) = match dice.below(8) {
        0 => {
            drop_op(list, id);
            ("drop op", String::new())
        }
        1 | 2 => {
            let n = list[id].waits.len();
            let wait = list[id].waits.remove(if n == 0 { return None } else { dice.below(n) });
            near.push(wait);
            ("drop wait", format!("on {wait}"))
        }
        3 => {
            let next = (id + 1..list.len()).find(|&other| list[other].lane == lane)?;
            swap_ops(list, id, next);
            ("swap", format!("with {next}"))
        }
        4 => {
            let mut all = regions(&mut list[id].action);
            let n = all.len();
            let region = &mut all[dice.below(n)];
            let dtype = slots[region.slot].dtype;
            let fits = |slot: &usize| slots[*slot].dtype == dtype && slots[*slot].elems >= region.range().end;
            let others: Vec<usize> = (0..slots.len()).filter(|s| *s != region.slot).filter(fits).collect();
            if others.is_empty() {
                return None;
            }
            let old = std::mem::replace(&mut region.slot, others[dice.below(others.len())]);
            ("retarget slot", format!("from {} to {}", slots[old].name, slots[region.slot].name))
        }
        5 => {
            let other = dice.below(ranks);
            let peer = match &mut list[id].action {
                Action::Exchange { sends, recvs, .. } => {
                    let n = sends.len() + recvs.len();
                    &mut sends.iter_mut().chain(recvs).nth(dice.below(n)).expect("counted").peer
                }
                Action::Collective(Call { what: Collective::Broadcast(root) | Collective::Reduce(root), .. }) => root,
                _ => return None,
            };
            if *peer == other {
                return None;
            }
            *peer = other;
            ("retarget peer", format!("to {other}"))
        }
        6 => {
            let mut all = regions(&mut list[id].action);
            let n = all.len();
            let region = &mut all[dice.below(n)];
            let space = slots[region.slot].elems - region.range().end;
            let step = match slots[region.slot].elems {
                0..GRID => 1,
                GRID..128 => GRID,
                _ => 2 * GRID,
            };
            match dice.below(3) {
                0 if region.start >= step => region.start -= step,
                1 if space >= step => region.start += step,
                2 if region.len > step => region.len -= step,
                _ => return None,
            }
            ("range", format!("{region:?}"))
        }
        _ => {
            match &mut list[id].action {
                Action::Backward { accumulate, .. } => *accumulate = !*accumulate,
                Action::HeadLoss { gradient: Some(gradient), .. } => gradient.accumulate = !gradient.accumulate,
                action => match *action {
                    Action::Accumulate { src, dst } => *action = Action::Cast { src, dst },
                    Action::Cast { src, dst } => *action = Action::Accumulate { src, dst },
                    Action::Load { ref mut work, .. } => work.micro += 1,
                    _ => return None,
                },
            }
            ("flip", String::new())
        }
    };
    Some(Mutant { kind, rank, lane, near, what: format!("{kind} {detail}: {what}") })
}

/// Ways to run that bring out what is wrong near some ops on a lane of a rank: hold each lane of the rank back, at its
/// start or in flight, hold the ops themselves, and hold some lanes at random.
fn manners(plans: &[RankPlan], rank: usize, lane: Lane, near: &[usize], seed: u64) -> Vec<Manner> {
    let plain = Manner { seed, ..Manner::default() };
    let mut all = vec![plain.clone(), Manner { serial: true, ..plain.clone() }];
    let lanes: Vec<Lane> = (0..plans[rank].comm_lanes).map(Lane::Comm).chain([Lane::Compute]).collect();
    for eager in [false, true] {
        all.extend(near.iter().map(|&op| Manner { hold: vec![(rank, op)], eager, ..plain.clone() }));
        all.extend(lanes.iter().map(|&slow| Manner { slow: vec![(rank, slow)], eager, ..plain.clone() }));
        let others = lanes.iter().filter(|&&other| other != lane).map(|&other| (rank, other)).collect();
        all.push(Manner { slow: others, eager, ..plain.clone() });
    }
    for more in 0..4 {
        let mut dice = Dice(seed * 31 + more);
        let slow = (0..plans.len()).flat_map(|r| lanes.iter().map(move |&l| (r, l)));
        let slow = slow.filter(|_| dice.below(3) == 0).collect();
        all.push(Manner { seed: seed + 1 + more, slow, eager: more % 2 == 0, serial: more == 3, ..plain.clone() });
    }
    all
}

/// A system as a deck describes it.
fn system(text: &str) -> SystemOptions {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn truth(schedule: &Schedule) -> Truth {
    Truth::new(&schedule.job, &schedule.shards)
}

/// Small jobs of every kind.
fn jobs() -> Vec<Job> {
    let small = |layers, groups: &[usize], micros| {
        let mut job = tawpipe(layers, groups, micros);
        (job.batch.seq, job.batch.micro) = (2, 1);
        job
    };
    let mut jobs = vec![
        small(3, &[2, 2], 8),
        with(small(3, &[2, 2], 4), Embed::Sharded, Stagger::Slots, 1),
        with(small(2, &[1, 2], 5), Embed::Replicated, Stagger::Slots, 1),
        with(small(4, &[1, 1, 1], 6), Embed::Sharded, Stagger::None, 1),
        with(small(5, &[2, 1, 2], 7), Embed::Sharded, Stagger::Slots, 2),
        with(small(2, &[3], 6), Embed::Replicated, Stagger::None, 1),
        Job { system: SystemOptions::Single, ..small(2, &[1], 2) },
    ];
    // Every other system with its default options, and some with others, on ranks of which some have less to do.
    for entry in SYSTEMS.iter().filter(|entry| !["single", "tawpipe"].contains(&entry.name)) {
        jobs.push(Job { system: system(&format!("name = '{}'", entry.name)), ..small(6, &[2, 2], 4) });
    }
    let more = [
        ("name = 'ddp'\nzero1 = true", small(2, &[2, 1], 5)),
        ("name = 'fsdp'\nsync = 'iteration'\nprefetch = 2", small(3, &[1, 2], 5)),
        ("name = 'fsdp'\nreshard_after_forward = false", small(2, &[3], 2)),
        ("name = 'hsdp'\nsync = 'round'", small(2, &[2, 2], 5)),
        ("name = 'tawpipe'\nhop = 'collective'", small(3, &[1, 1, 1], 4)),
        ("name = 'tawpipe'\nhop = 'collective'\nweight_cache = 'group'\ngrad_sync = 'iteration'", small(2, &[2, 2], 5)),
    ];
    jobs.extend(more.map(|(text, job)| Job { system: system(text), ..job }));
    for (index, job) in jobs.iter_mut().enumerate() {
        job.shape.tied = index % 3 == 1;
        job.dtype = if index % 2 == 1 { Dtype::Bf16 } else { Dtype::F32 };
        job.grad_dtype = if index % 4 >= 2 { Dtype::Bf16 } else { Dtype::F32 };
        job.recompute = [Recompute::Block, Recompute::Selective, Recompute::None][index % 3];
    }
    jobs
}

/// Right plans compute the truth under every interleaving tried.
#[test]
fn right_plans_compute_the_truth() {
    for job in jobs() {
        let schedule = schedule(&job).unwrap();
        let plans = schedule.ranks();
        let truth = truth(&schedule);
        for rank in 0..plans.len() {
            for manner in manners(&plans, rank, Lane::Compute, &[], 7 * rank as u64) {
                run(&schedule, &plans, &truth, &manner).unwrap_or_else(|wrong| panic!("{wrong}: {job:?}"));
            }
        }
    }
}

/// On every mutant the checker and the interpreter agree. The checker may be stricter only where it sees a race: two
/// ops that are ordered through another rank alone, or by luck of the interleavings tried.
#[test]
fn checker_and_interpreter_agree_on_mutants() {
    let mutants_per_job = std::env::var("TAWPIPE_MUTANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let (mut killed, mut survivors, mut only_race) = (0, Vec::new(), Vec::new());
    let mut kinds = std::collections::BTreeMap::<&str, (usize, usize)>::new();
    for (index, job) in jobs().into_iter().enumerate() {
        let schedule = schedule(&job).unwrap();
        let right = schedule.ranks();
        let truth = truth(&schedule);
        let mut dice = Dice(1000 + index as u64);
        let mut made = 0;
        while made < mutants_per_job {
            let mut plans = right.clone();
            let Some(Mutant { kind, rank, lane, near, what }) = mutate(&mut plans, &mut dice) else { continue };
            made += 1;
            let verdict = check(&schedule, &plans);
            let ways = manners(&plans, rank, lane, &near, made as u64);
            let found = ways.iter().find_map(|manner| run(&schedule, &plans, &truth, manner).err());
            let entry = kinds.entry(kind).or_default();
            entry.1 += 1;
            match (verdict, found) {
                (Err(_), Some(_)) => {
                    killed += 1;
                    entry.0 += 1;
                }
                (Ok(_), None) => survivors.push(format!("job {index}: {what}")),
                (Err(defects), None) if defects.iter().all(|d| d.rule == Rule::Race) => {
                    killed += 1;
                    entry.0 += 1;
                    only_race.push(format!("job {index}: {what}: {}", defects[0]));
                }
                (Err(defects), None) => {
                    let all: Vec<String> = defects.iter().take(3).map(|d| d.to_string()).collect();
                    panic!("the checker alone objects to job {index}, {what}:\n{}", all.join("\n"));
                }
                (Ok(_), Some(wrong)) => panic!("the interpreter alone objects to job {index}, {what}: {wrong}"),
            }
        }
    }
    let all = killed + survivors.len();
    println!("{killed} of {all} mutants killed ({:.1} %); by kind:", 100.0 * killed as f64 / all as f64);
    for (kind, (killed, all)) in &kinds {
        println!("  {kind}: {killed} of {all}");
    }
    println!("{} by the race rule alone (ordered through another rank only, or never met):", only_race.len());
    only_race.iter().for_each(|line| println!("  {line}"));
    println!("survivors, harmless to both:");
    survivors.iter().for_each(|line| println!("  {line}"));
    assert!(killed * 20 >= all * 19, "too many mutants live to mean anything");
    assert!(only_race.len() * 20 <= all, "the interpreter misses too many races to mean anything");
}
