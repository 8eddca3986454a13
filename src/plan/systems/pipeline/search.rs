//! The automatic scheduler of zero-bubble pipelines: a greedy rule with a few switches, all settings of which are tried
//! (Qi et al., ICLR 2024; papers.md §6.2).

use std::collections::HashSet;

use rayon::prelude::*;

use super::clock::{Item, Order, Pass, run};
use super::{Task, handmade};

/// Orders that are run on the clock, the most promising ones.
const CLOCKED: usize = 16;

/// How the greedy rule decides where it has a choice.
#[derive(Clone, Copy, Debug)]
struct Switches {
    /// Which forwards a stage runs before its first backward.
    start: Start,
    /// A gradient of parameters is computed as soon as the stage would wait, even if it makes others wait; else only in
    /// gaps that can hold it.
    fill_all: bool,
    /// Of a forward and a backward that could both start, take the forward.
    forward_first: bool,
    /// A stage that has no memory for its next forward frees some at once.
    free_memory: bool,
    /// A gradient of parameters also fills a gap that would make its stage the one that has waited longest.
    spare_worst: bool,
}

/// Which forwards a stage runs before its first backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// As many as fit.
    Full,
    /// No more than the schedule made by hand.
    Short,
    /// As many as fit and end before the first gradient can arrive, which is never kept waiting.
    OnTime,
}

impl Switches {
    fn all() -> impl Iterator<Item = Switches> {
        [Start::Full, Start::Short, Start::OnTime].into_iter().flat_map(|start| {
            (0..16).map(move |bits: u32| {
                let bit = |i: u32| bits >> i & 1 == 1;
                let (fill_all, forward_first, free_memory, spare_worst) = (bit(0), bit(1), bit(2), bit(3));
                Switches { start, fill_all, forward_first, free_memory, spare_worst }
            })
        })
    }
}

/// The order that ends first, among equals with the shortest bubble, in which no stage has more than `limit` micro-batches
/// between their forwards and the gradients of their parameters. The schedules made by hand that keep the limit take
/// part, so that the result is never worse. (The schedules' authors look at the bubble alone: they let a stage update
/// its weights without waiting for the norm of all gradients. Here all ranks wait for it, so the end is what counts.)
pub fn order(task: &Task, limit: usize) -> Order {
    let ahead = if limit >= 2 * task.stages.ranks - 1 { 2 } else { 1 };
    let made = (1..=ahead).map(|ahead| handmade::order(task, ahead));
    let all: Vec<Switches> = Switches::all().collect();
    let mut found: Vec<Found> = all.into_par_iter().map(|switches| greedy(task, limit, ahead, switches)).collect();
    // Many settings come to the same, and the clock costs more than a greedy run.
    found.sort_by(|a, b| a.end.total_cmp(&b.end).then(a.waited.total_cmp(&b.waited)));
    let mut known = HashSet::new();
    found.retain(|found| known.insert(found.order.clone()));
    let found = found.into_iter().take(CLOCKED).map(|found| found.order);
    let price = |order: &Order| {
        let clock = run(task.stages, task.durations, order, false);
        (clock.end(), clock.bubble())
    };
    let priced = made.chain(found).map(|order| (price(&order), order));
    let better = |a: &(f64, f64), b: &(f64, f64)| {
        let scale = 1e-9 * a.0.max(b.0);
        if (a.0 - b.0).abs() > scale { a.0 < b.0 } else { a.1 < b.1 - scale }
    };
    let best = priced.reduce(|best, next| if better(&next.0, &best.0) { next } else { best });
    best.expect("there are schedules made by hand").1
}

/// A stage while it is scheduled.
#[derive(Clone)]
struct Stage {
    /// How many forwards, backwards and gradients of parameters have begun.
    begun: [usize; 3],
    /// When the last one ends.
    free: f64,
    /// How long it has waited since its first one began.
    waited: f64,
    /// When each micro-batch's activation is here, as far as that is known.
    inputs: Vec<f64>,
    /// When its gradient is.
    dx: Vec<f64>,
}

/// What a greedy run gives.
struct Found {
    order: Order,
    /// When the last item ends, if no message waits for its receive.
    end: f64,
    /// How long the stage that waits longest does.
    waited: f64,
}

/// Lets every stage decide by itself what to do next, in the order of time.
fn greedy(task: &Task, limit: usize, ahead: usize, switches: Switches) -> Found {
    let (stages, durations, micros) = (task.stages, task.durations, task.micros);
    let last = stages.ranks - 1;
    let new = Stage { begun: [0; 3], free: 0.0, waited: 0.0, inputs: Vec::new(), dx: Vec::new() };
    let mut state = vec![new; stages.ranks];
    state[0].inputs = vec![0.0; micros];
    let mut order: Order = vec![Vec::new(); stages.ranks];
    // When the first gradient can be at each stage, if nothing keeps it waiting.
    let mut first = vec![0.0; stages.ranks];
    first[last] = durations.forward.iter().sum::<f64>() + last as f64 * durations.hop;
    for chunk in (0..last).rev() {
        first[chunk] = first[chunk + 1] + durations.backward[chunk + 1] + durations.hop;
    }
    let decide = |chunk: usize, stage: &Stage, most: f64| -> Option<(f64, Pass)> {
        let [forwards, backwards, weights] = stage.begun;
        let wanted = forwards < micros && {
            let start = if switches.start == Start::Short { 1 + ahead * (last - chunk) } else { limit };
            let begins = stage.inputs.get(forwards).map_or(stage.free, |input| input.max(stage.free));
            let late = begins + durations.forward[chunk] > first[chunk] * (1.0 + 1e-9);
            let in_time = switches.start != Start::OnTime || forwards == 0 || !late;
            backwards > 0 || (forwards < start.min(limit) && in_time)
        };
        let fits = forwards - weights < limit;
        let forward = stage.inputs.get(forwards).copied().filter(|_| wanted);
        let backward = stage.dx.get(backwards).copied().filter(|_| backwards < forwards);
        let (f, b) = (forward.filter(|_| fits).unwrap_or(f64::INFINITY), backward.unwrap_or(f64::INFINITY));
        let now = stage.free;
        let next = if b <= now && f <= now {
            if switches.forward_first { (now, Pass::Forward) } else { (now, Pass::Backward) }
        } else if b <= f {
            (b.max(now), Pass::Backward)
        } else {
            (f.max(now), Pass::Forward)
        };
        let gap = next.0 - now;
        if weights < backwards && gap > 0.0 {
            let full = switches.free_memory && !fits && forward.is_some_and(|f| f <= now);
            let worst = switches.spare_worst && stage.waited + gap > most;
            if gap >= durations.weight[chunk] || switches.fill_all || full || worst {
                return Some((now, Pass::Weight));
            }
        }
        (next.0 < f64::INFINITY).then_some(next)
    };
    let mut decisions: Vec<_> = state.iter().enumerate().map(|(chunk, stage)| decide(chunk, stage, 0.0)).collect();
    let mut most = 0.0f64;
    // What happens at one time is decided from the last stage up, whose results others wait for longest.
    while let Some((chunk, (time, pass))) = decisions
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(chunk, decision)| Some((chunk, (*decision)?)))
        .min_by(|a, b| a.1.0.total_cmp(&b.1.0))
    {
        let micro = state[chunk].begun[pass as usize];
        let item = Item { pass, micro, chunk };
        order[chunk].push(item);
        let end = time + durations.of(item);
        if state[chunk].begun != [0; 3] {
            state[chunk].waited += time - state[chunk].free;
        }
        let more = state[chunk].waited > most;
        most = most.max(state[chunk].waited);
        state[chunk].begun[pass as usize] += 1;
        state[chunk].free = end;
        match pass {
            Pass::Forward if chunk == last => state[chunk].dx.push(end),
            Pass::Forward => state[chunk + 1].inputs.push(end + durations.hop),
            Pass::Backward if chunk > 0 => state[chunk - 1].dx.push(end + durations.hop),
            Pass::Backward | Pass::Weight => {}
        }
        // A decision depends on the stage, on what its neighbours have sent, and on who has waited longest.
        let near = chunk.saturating_sub(1)..=(chunk + 1).min(last);
        let changed = if more && switches.spare_worst { 0..=last } else { near };
        for other in changed {
            decisions[other] = decide(other, &state[other], most);
        }
    }
    Found { order, end: state.iter().map(|stage| stage.free).fold(0.0, f64::max), waited: most }
}

#[cfg(test)]
mod tests {
    use super::super::stages::{Durations, Placement, Stages};
    use super::*;

    /// Longest time that a stage takes from its first item to its last, in the zero-bubble authors' own scheduler (their
    /// `zb.py`, run by hand): stages, micro-batches, times of forward, the two halves of backward and a message, micro-batches
    /// in flight in multiples of the stages, and that time.
    const AUTHORS: [(usize, usize, [f64; 4], usize, f64); 4] = [
        (8, 8, [5.0, 6.0, 4.0, 1.0], 1, 183.0),
        (8, 16, [5.0, 6.0, 4.0, 1.0], 2, 271.0),
        (6, 12, [10.0, 14.0, 8.0, 1.0], 2, 426.0),
        (8, 24, [2.0, 3.0, 2.0, 0.2], 2, 176.2),
    ];

    /// The search finds schedules that are at least as short as those of the authors' scheduler, within the same memory.
    #[test]
    fn as_short_as_the_authors() {
        for (ranks, micros, [forward, backward, weight, hop], flights, theirs) in AUTHORS {
            let stages = Stages { ranks, placement: Placement::Round(1), units: vec![0..1; ranks] };
            let durations = Durations {
                forward: vec![forward; ranks],
                backward: vec![backward; ranks],
                weight: vec![weight; ranks],
                hop,
            };
            let limit = flights * ranks;
            let found = order(&Task { stages: &stages, durations: &durations, micros }, limit);
            for items in &found {
                assert_eq!(items.len(), 3 * micros);
                let mut flying = 0;
                for item in items {
                    match item.pass {
                        Pass::Forward => flying += 1,
                        Pass::Weight => flying -= 1,
                        Pass::Backward => {}
                    }
                    assert!(flying <= limit as i64, "{flying} micro-batches in flight, {limit} are allowed");
                }
            }
            let clock = run(&stages, &durations, &found, false);
            let work = micros as f64 * (forward + backward + weight);
            let ours = work + clock.bubble();
            assert!(ours <= theirs + 1e-9, "{ranks} stages, {micros} micro-batches: {ours}, theirs {theirs}");
        }
    }
}
