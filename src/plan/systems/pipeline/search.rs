//! The automatic scheduler of zero-bubble pipelines: a greedy rule with a few switches, all settings of which are tried
//! (Qi et al., ICLR 2024; papers.md §6.2).

use super::clock::{Item, Order, Pass, run};
use super::{Task, handmade};

/// How the greedy rule decides where it has a choice.
#[derive(Clone, Copy, Debug)]
struct Switches {
    /// Before its first backward a stage runs no more forwards than the schedule made by hand; else as many as fit.
    short_start: bool,
    /// A gradient of parameters is computed as soon as the stage would wait, even if it makes others wait; else only in
    /// gaps that can hold it.
    fill_all: bool,
    /// Of a forward and a backward that could both start, take the forward.
    forward_first: bool,
    /// A stage whose forward finds no room frees some at once.
    make_room: bool,
}

impl Switches {
    fn all() -> impl Iterator<Item = Switches> {
        (0..16).map(|bits: u32| {
            let bit = |i: u32| bits >> i & 1 == 1;
            Switches { short_start: bit(0), fill_all: bit(1), forward_first: bit(2), make_room: bit(3) }
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
    let found = Switches::all().map(|switches| greedy(task, limit, ahead, switches));
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
    /// When each micro-batch's activation is here, as far as that is known.
    inputs: Vec<f64>,
    /// When its gradient is.
    dx: Vec<f64>,
}

/// Lets every stage decide by itself what to do next, in the order of time.
fn greedy(task: &Task, limit: usize, ahead: usize, switches: Switches) -> Order {
    let (stages, durations, micros) = (task.stages, task.durations, task.micros);
    let last = stages.ranks - 1;
    let new = Stage { begun: [0; 3], free: 0.0, inputs: Vec::new(), dx: Vec::new() };
    let mut state = vec![new; stages.ranks];
    state[0].inputs = vec![0.0; micros];
    let mut order: Order = vec![Vec::new(); stages.ranks];
    let decide = |chunk: usize, stage: &Stage| -> Option<(f64, Pass)> {
        let [forwards, backwards, weights] = stage.begun;
        let wanted = forwards < micros && {
            let start = if switches.short_start { 1 + ahead * (last - chunk) } else { limit };
            backwards > 0 || forwards < start.min(limit)
        };
        let room = forwards - weights < limit;
        let forward = stage.inputs.get(forwards).copied().filter(|_| wanted);
        let backward = stage.dx.get(backwards).copied().filter(|_| backwards < forwards);
        let (f, b) = (forward.filter(|_| room).unwrap_or(f64::INFINITY), backward.unwrap_or(f64::INFINITY));
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
            let crowded = switches.make_room && !room && forward.is_some_and(|f| f <= now);
            if gap >= durations.weight[chunk] || switches.fill_all || crowded {
                return Some((now, Pass::Weight));
            }
        }
        (next.0 < f64::INFINITY).then_some(next)
    };
    let mut decisions: Vec<_> = state.iter().enumerate().map(|(chunk, stage)| decide(chunk, stage)).collect();
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
        state[chunk].begun[pass as usize] += 1;
        state[chunk].free = end;
        match pass {
            Pass::Forward if chunk == last => state[chunk].dx.push(end),
            Pass::Forward => state[chunk + 1].inputs.push(end + durations.hop),
            Pass::Backward if chunk > 0 => state[chunk - 1].dx.push(end + durations.hop),
            Pass::Backward | Pass::Weight => {}
        }
        for near in chunk.saturating_sub(1)..=(chunk + 1).min(last) {
            decisions[near] = decide(near, &state[near]);
        }
    }
    order
}
