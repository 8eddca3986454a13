//! Rule 2: nothing waits in a circle, even if every send lasts until it is received; with all lanes at once, and with
//! the communication lanes of a rank serialised in issue order (what several NCCL communicators in flight need).

use std::collections::VecDeque;

use crate::plan::{Lane, OpId};

use super::matching::{Matching, Site};
use super::{Check, Phase, Rule};

/// Something happens; the next thing happens to what it left.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// An op of one rank alone.
    Local(Site),
    /// A message of [`Matching::pairs`] is delivered.
    Message(usize),
    /// A collective of [`Matching::calls`].
    Call(usize),
}

/// One rank's ops as a graph.
struct Graph {
    /// Ops that must be complete before an op starts.
    before: Vec<Vec<OpId>>,
    after: Vec<Vec<OpId>>,
    missing: Vec<usize>,
    /// Of a communication op: its messages or calls that have not happened.
    open: Vec<Vec<Event>>,
    started: Vec<bool>,
    complete: Vec<bool>,
}

impl Check<'_> {
    /// An order in which everything of a list can happen; empty with a defect if there is none.
    pub(super) fn order(&mut self, phase: Phase, matching: &Matching, serial: bool) -> Vec<Event> {
        let mut graphs: Vec<Graph> = (0..self.plans.len()).map(|rank| self.graph(phase, rank, serial)).collect();
        let mut add = |&(rank, op): &Site, event| graphs[rank].open[op].push(event);
        for (index, pair) in matching.pairs.iter().enumerate() {
            add(&pair.from.0, Event::Message(index));
            add(&pair.to.0, Event::Message(index));
        }
        for (index, call) in matching.calls.iter().enumerate() {
            call.iter().for_each(|site| add(site, Event::Call(index)));
        }
        // How many members have still to start.
        let mut pairs = vec![2; matching.pairs.len()];
        let mut calls: Vec<usize> = matching.calls.iter().map(Vec::len).collect();

        let mut order = Vec::new();
        let mut ready: VecDeque<Site> = VecDeque::new();
        for (rank, graph) in graphs.iter().enumerate() {
            ready.extend((0..graph.missing.len()).filter(|&op| graph.missing[op] == 0).map(|op| (rank, op)));
        }
        while let Some((rank, op)) = ready.pop_front() {
            graphs[rank].started[op] = true;
            let mut finished = Vec::new();
            let events = graphs[rank].open[op].clone();
            if events.is_empty() {
                // A communication op without a partner is over at once; only an op of one rank does something.
                if self.action(phase, (rank, op)).comm().is_none() {
                    order.push(Event::Local((rank, op)));
                }
                finished.push((rank, op));
            }
            for event in events {
                let (left, sites) = match event {
                    Event::Message(i) => (&mut pairs[i], vec![matching.pairs[i].from.0, matching.pairs[i].to.0]),
                    Event::Call(i) => (&mut calls[i], matching.calls[i].clone()),
                    Event::Local(_) => unreachable!("only communication is open"),
                };
                *left -= 1;
                if *left > 0 {
                    continue;
                }
                order.push(event);
                for (rank, op) in sites {
                    let open = &mut graphs[rank].open[op];
                    open.retain(|e| !same(e, &event));
                    if open.is_empty() {
                        finished.push((rank, op));
                    }
                }
            }
            for (rank, op) in finished {
                let graph = &mut graphs[rank];
                graph.complete[op] = true;
                for &next in &graph.after[op] {
                    graph.missing[next] -= 1;
                    if graph.missing[next] == 0 {
                        ready.push_back((rank, next));
                    }
                }
            }
        }
        let stuck = |graph: &Graph| graph.complete.iter().position(|&done| !done);
        if let Some(site) = graphs.iter().enumerate().find_map(|(rank, graph)| stuck(graph).map(|op| (rank, op))) {
            self.explain(phase, matching, &graphs, site, serial);
            return Vec::new();
        }
        order
    }

    fn action(&self, phase: Phase, (rank, op): Site) -> &crate::plan::Action {
        &phase.ops(&self.plans[rank])[op].action
    }

    fn graph(&self, phase: Phase, rank: usize, serial: bool) -> Graph {
        let ops = phase.ops(&self.plans[rank]);
        let mut last = std::collections::HashMap::new();
        let mut before: Vec<Vec<OpId>> = Vec::with_capacity(ops.len());
        for (id, op) in ops.iter().enumerate() {
            let key = match op.lane {
                Lane::Comm(_) if serial => Lane::Comm(0),
                lane => lane,
            };
            let mut list = op.waits.clone();
            list.extend(last.insert(key, id));
            list.sort_unstable();
            list.dedup();
            before.push(list);
        }
        let mut after = vec![Vec::new(); ops.len()];
        for (id, list) in before.iter().enumerate() {
            list.iter().for_each(|&op| after[op].push(id));
        }
        let missing = before.iter().map(Vec::len).collect();
        let n = ops.len();
        Graph { before, after, missing, open: vec![Vec::new(); n], started: vec![false; n], complete: vec![false; n] }
    }

    /// Follows what an op waits for until it comes round.
    fn explain(&mut self, phase: Phase, matching: &Matching, graphs: &[Graph], from: Site, serial: bool) {
        let next = |(rank, op): Site| -> Site {
            let graph = &graphs[rank];
            if !graph.started[op] {
                let open = graph.before[op].iter().find(|&&b| !graph.complete[b]);
                return (rank, *open.expect("an op starts when all before it are complete"));
            }
            let members = |event: &Event| match *event {
                Event::Message(i) => vec![matching.pairs[i].from.0, matching.pairs[i].to.0],
                Event::Call(i) => matching.calls[i].clone(),
                Event::Local(_) => Vec::new(),
            };
            let partner = graph.open[op].iter().flat_map(members).find(|&(r, o)| !graphs[r].started[o]);
            partner.expect("communication is over when all members have started")
        };
        let mut path = vec![from];
        let circle = loop {
            let site = next(path[path.len() - 1]);
            if let Some(start) = path.iter().position(|&s| s == site) {
                break path.split_off(start);
            }
            path.push(site);
        };
        let shown = circle.iter().take(8).map(|&(rank, op)| self.at(phase, rank, op)).collect::<Vec<_>>();
        let how = if serial { "with one communication at a time" } else { "with all lanes at once" };
        let more = if circle.len() > 8 { ", …" } else { "" };
        let text = format!(
            "deadlock {how}: {}{more} wait for each other in a circle of {} ops",
            shown.join(", which waits for "),
            circle.len()
        );
        self.report(Rule::Deadlock, text);
    }
}

fn same(a: &Event, b: &Event) -> bool {
    match (a, b) {
        (Event::Message(a), Event::Message(b)) | (Event::Call(a), Event::Call(b)) => a == b,
        _ => false,
    }
}
