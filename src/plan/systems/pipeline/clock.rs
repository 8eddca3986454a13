//! All ranks on one clock: when each item of a stage's work runs, and when each message goes.
//!
//! Ranks write their lists down in the order of this one clock. A message has the same place in both its ranks' lists,
//! and an op waits only for what comes earlier, so nothing can wait in a circle: neither with all lanes at once nor with
//! one operation at a time.

use crate::cluster::Rank;

use super::stages::{Durations, Stages};

/// What is done with a micro-batch in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// Forward; in training without the head.
    Forward,
    /// Backward, of the last chunk beginning with head and loss; with a split backward only the gradient of the input.
    Backward,
    /// The gradient of the parameters, if the backward is split.
    Weight,
}

/// A step of a rank's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// What is done.
    pub pass: Pass,
    /// With which micro-batch.
    pub micro: usize,
    /// In which chunk.
    pub chunk: usize,
}

/// Every rank's items, in its order.
pub type Order = Vec<Vec<Item>>;

/// A message between neighbouring chunks: an activation forward, or its gradient backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The item whose result it is.
    pub item: Item,
    /// Its sender.
    pub from: Rank,
    /// Its receiver.
    pub to: Rank,
}

/// Something on one rank's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Computation.
    Compute(Item),
    /// A message leaves or arrives.
    Message(Hop),
}

/// What the clock shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Clock {
    /// Of each rank: what happens, in the order of the clock.
    pub events: Vec<Vec<Event>>,
    /// Of each rank: its items with their starts and ends.
    pub spans: Vec<Vec<(Item, f64, f64)>>,
}

impl Clock {
    /// The longest time that a rank spends between its first item and its last without work: what the authors of
    /// zero-bubble schedules call the bubble.
    pub fn bubble(&self) -> f64 {
        let idle = |spans: &Vec<(Item, f64, f64)>| {
            let (first, last) = (spans.first()?, spans.last()?);
            Some(last.2 - first.1 - spans.iter().map(|(_, start, end)| end - start).sum::<f64>())
        };
        self.spans.iter().filter_map(idle).fold(0.0, f64::max)
    }

    /// When the last item ends.
    pub fn end(&self) -> f64 {
        self.spans.iter().filter_map(|spans| spans.last()).map(|span| span.2).fold(0.0, f64::max)
    }
}

impl Durations {
    /// Of an item.
    pub fn of(&self, item: Item) -> f64 {
        match item.pass {
            Pass::Forward => self.forward[item.chunk],
            Pass::Backward => self.backward[item.chunk],
            Pass::Weight => self.weight[item.chunk],
        }
    }
}

impl Stages {
    /// The item that needs an item's result, on this rank or another.
    pub fn next(&self, item: Item) -> Option<Item> {
        let chunk = match item.pass {
            Pass::Forward => Some(item.chunk + 1).filter(|&chunk| chunk < self.chunks()),
            Pass::Backward => item.chunk.checked_sub(1),
            Pass::Weight => None,
        };
        chunk.map(|chunk| Item { chunk, ..item })
    }

    /// The message that an item's result travels in, if it travels.
    pub fn hop(&self, item: Item) -> Option<Hop> {
        let (from, to) = (self.rank(item.chunk), self.rank(self.next(item)?.chunk));
        (from != to).then_some(Hop { item, from, to })
    }
}

/// A message that has not gone yet.
struct Waiting {
    hop: Hop,
    /// When its content is there.
    since: f64,
    /// Place of the item that needs it in the receiver's order.
    needed: usize,
}

/// A rank at work.
#[derive(Clone, Default)]
struct Worker {
    /// Items begun.
    begun: usize,
    /// Start of the last one.
    start: f64,
    /// When it ends.
    free: f64,
    /// Until when messages keep the rank from computing, where they do.
    held: f64,
    /// Messages of the last item that have not gone.
    unsent: usize,
}

/// Runs an order of items.
///
/// A message goes while both its ranks compute: its receive is issued with the item before the one that needs it, so
/// that it has that item's time to arrive, and no memory is taken earlier. If messages are `blocking`, they go between
/// items instead: a rank computes on when all it has sent is received, and receives only while it does not compute.
///
/// # Panics
/// If the items wait for each other in a circle: the order's mistake.
pub fn run(stages: &Stages, durations: &Durations, order: &Order, blocking: bool) -> Clock {
    let ranks = stages.ranks;
    let micros = order.iter().flatten().map(|item| item.micro + 1).max().unwrap_or(0);
    let index = |item: &Item| (item.pass as usize * stages.chunks() + item.chunk) * micros + item.micro;
    let mut place = vec![0; 3 * stages.chunks() * micros];
    for (place_in_order, item) in order.iter().flat_map(|items| items.iter().enumerate()) {
        place[index(item)] = place_in_order;
    }
    // When what an item needs from another chunk is there; a first forward needs nothing.
    let mut there = vec![f64::INFINITY; place.len()];
    for item in order.iter().flatten() {
        let last = item.chunk + 1 == stages.chunks();
        let needs_nothing = match item.pass {
            Pass::Forward => item.chunk == 0,
            Pass::Backward => last,
            Pass::Weight => true,
        };
        if needs_nothing {
            there[index(item)] = 0.0;
        }
    }

    let mut workers = vec![Worker::default(); ranks];
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut clock = Clock { events: vec![Vec::new(); ranks], spans: vec![Vec::new(); ranks] };
    let mut left: usize = order.iter().map(Vec::len).sum();
    while left > 0 || !waiting.is_empty() {
        // The earliest thing that can happen next; of equals a message, and then the lowest rank's item.
        let goes = |message: &Waiting| {
            let receiver = &workers[message.hop.to];
            if blocking {
                Some(message.since.max(receiver.free))
            } else {
                (receiver.begun >= message.needed).then(|| message.since.max(receiver.start))
            }
        };
        let message = waiting.iter().enumerate().filter_map(|(i, message)| Some((goes(message)?, i)));
        let message = message.min_by(|a, b| a.0.total_cmp(&b.0));
        let starts = |rank: Rank| {
            let (worker, item) = (&workers[rank], order[rank].get(workers[rank].begun)?);
            let start = worker.free.max(worker.held).max(there[index(item)]);
            (start < f64::INFINITY && worker.unsent == 0).then_some((start, rank))
        };
        let item = (0..ranks).filter_map(starts).min_by(|a, b| a.0.total_cmp(&b.0));

        if let Some((time, i)) = message
            && item.is_none_or(|(start, _)| time <= start)
        {
            let Waiting { hop, .. } = waiting.remove(i);
            let next = stages.next(hop.item).expect("a message has a receiver");
            let end = time + durations.hop;
            there[index(&next)] = end;
            if blocking {
                workers[hop.from].unsent -= 1;
                for rank in [hop.from, hop.to] {
                    workers[rank].held = workers[rank].held.max(end);
                }
            }
            clock.events[hop.from].push(Event::Message(hop));
            clock.events[hop.to].push(Event::Message(hop));
            continue;
        }
        let (start, rank) = item.expect("an order in which nothing waits in a circle");
        let item = order[rank][workers[rank].begun];
        let end = start + durations.of(item);
        let worker = &mut workers[rank];
        (worker.begun, worker.start, worker.free) = (worker.begun + 1, start, end);
        if let Some(hop) = stages.hop(item) {
            let needed = place[index(&stages.next(item).expect("a message has a receiver"))];
            waiting.push(Waiting { hop, since: end, needed });
            worker.unsent += usize::from(blocking);
        } else if let Some(next) = stages.next(item) {
            there[index(&next)] = end;
        }
        clock.events[rank].push(Event::Compute(item));
        clock.spans[rank].push((item, start, end));
        left -= 1;
    }
    clock
}
