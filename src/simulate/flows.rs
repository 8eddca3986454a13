//! Work in progress that shares what it needs: links, network cards, cores.
//!
//! Whatever several flows use is divided between them in proportion to their weights; a flow runs at the pace of the
//! thing that gives it least. Nothing is handed on that a flow cannot use: cheaper than max-min fairness, and equal to
//! it where flows that meet are alike.

use std::rc::Rc;

/// Index of a shared thing.
pub type Resource = usize;

/// Index of a flow that runs; reused afterwards.
pub type FlowId = usize;

/// What a flow needs of a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    pub resource: Resource,
    /// Its share against others'.
    pub weight: f64,
    /// Units (bytes, core seconds) that the whole flow takes.
    pub amount: f64,
}

#[derive(Debug)]
struct Shared {
    /// Units a second.
    capacity: f64,
    /// Sum of the weights of the flows on it.
    weight: f64,
    flows: Vec<FlowId>,
    dirty: bool,
}

#[derive(Debug)]
struct Flow {
    uses: Rc<[Use]>,
    /// Parts of the flow a second at most.
    limit: f64,
    /// The part that is left, at `since`.
    left: f64,
    rate: f64,
    since: f64,
    /// Changes with the rate: an end foreseen at another rate does not count.
    stamp: u64,
    alive: bool,
    dirty: bool,
}

/// When a flow will end unless its rate changes before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    pub flow: FlowId,
    pub time: f64,
    pub stamp: u64,
}

/// All flows and what they share.
#[derive(Debug, Default)]
pub struct Flows {
    shared: Vec<Shared>,
    flows: Vec<Flow>,
    free: Vec<FlowId>,
    dirty: Vec<Resource>,
    changed: Vec<FlowId>,
    stamp: u64,
}

impl Flows {
    /// Adds something to share, of this many units a second.
    pub fn share(&mut self, capacity: f64) -> Resource {
        self.shared.push(Shared { capacity, weight: 0.0, flows: Vec::new(), dirty: false });
        self.shared.len() - 1
    }

    /// Starts a flow that lasts 1 / `limit` seconds or longer; its end is foreseen by the next [`Flows::settle`].
    pub fn start(&mut self, now: f64, uses: Rc<[Use]>, limit: f64) -> FlowId {
        let flow = Flow { uses, limit, left: 1.0, rate: 0.0, since: now, stamp: 0, alive: true, dirty: false };
        let id = match self.free.pop() {
            Some(id) => {
                self.flows[id] = flow;
                id
            }
            None => {
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        for used in self.flows[id].uses.clone().iter() {
            let shared = &mut self.shared[used.resource];
            shared.weight += used.weight;
            shared.flows.push(id);
            self.touch(used.resource);
        }
        self.change(id);
        id
    }

    /// Whether this end still stands.
    pub fn stands(&self, end: &End) -> bool {
        self.flows[end.flow].alive && self.flows[end.flow].stamp == end.stamp
    }

    /// Removes a flow.
    pub fn finish(&mut self, id: FlowId) {
        for used in self.flows[id].uses.clone().iter() {
            let shared = &mut self.shared[used.resource];
            let at = shared.flows.iter().position(|&flow| flow == id).expect("a flow is on what it uses");
            shared.flows.swap_remove(at);
            // Sums of many small weights must come back to nothing.
            shared.weight = if shared.flows.is_empty() { 0.0 } else { shared.weight - used.weight };
            self.touch(used.resource);
        }
        self.flows[id].alive = false;
        self.free.push(id);
    }

    fn touch(&mut self, resource: Resource) {
        if !std::mem::replace(&mut self.shared[resource].dirty, true) {
            self.dirty.push(resource);
        }
    }

    fn change(&mut self, id: FlowId) {
        if !std::mem::replace(&mut self.flows[id].dirty, true) {
            self.changed.push(id);
        }
    }

    /// Divides anew what has gained or lost flows since the last call, and says when the flows concerned will end.
    pub fn settle(&mut self, now: f64, mut ends: impl FnMut(End)) {
        for resource in std::mem::take(&mut self.dirty) {
            self.shared[resource].dirty = false;
            for at in 0..self.shared[resource].flows.len() {
                let id = self.shared[resource].flows[at];
                self.change(id);
            }
        }
        for id in std::mem::take(&mut self.changed) {
            let flow = &mut self.flows[id];
            flow.dirty = false;
            let share = |used: &Use| {
                let shared = &self.shared[used.resource];
                shared.capacity * used.weight / shared.weight / used.amount
            };
            let rate = flow.uses.iter().map(share).fold(flow.limit, f64::min);
            if !flow.alive || rate == flow.rate {
                continue;
            }
            flow.left = (flow.left - flow.rate * (now - flow.since)).max(0.0);
            (flow.rate, flow.since) = (rate, now);
            self.stamp += 1;
            flow.stamp = self.stamp;
            ends(End { flow: id, time: now + flow.left / rate, stamp: self.stamp });
        }
    }
}
