//! An interpreter that knows nothing of the checker: it runs all ranks' plans on integers, in some order that lanes and
//! waits allow, with poison in every buffer that holds nothing. It shares only the types of a plan with the rest.
//!
//! An op owns its regions from start to completion: what it writes is poison meanwhile, and what it reads must not
//! change. So two ops that can be in flight together and touch the same memory are found as soon as they are.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use tawpipe::model::Dtype;
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::Schedule;
use tawpipe::plan::{
    Action, Algorithm, Call, Holding, Lane, Message, Op, Payload, REDUCE_CHUNK, REDUCE_CHUNKS, RankPlan, Region,
    Segment, Work,
};

use super::arithmetic::{compute, touches};
use super::truth::{GRID, Truth, is_sum_of, mix, points, step_scalars};

const POISON: u64 = 0xdead_dead_dead_dead;

/// A source of choices.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0, 5) % n as u64) as usize
    }
}

/// How one run chooses among what is possible.
#[derive(Clone, Default)]
pub struct Manner {
    pub seed: u64,
    /// Lanes that move only when nothing else can.
    pub slow: Vec<(usize, Lane)>,
    /// Single ops (rank, number in its list) that do likewise.
    pub hold: Vec<(usize, usize)>,
    /// Ops in flight on slow lanes start as soon as possible, and only end late.
    pub eager: bool,
    /// One communication of a rank at a time, in issue order.
    pub serial: bool,
}

/// Why a plan is wrong.
pub type Wrong = String;

struct Flight {
    /// What was there at the start: everything read, in order.
    read: Vec<Vec<u64>>,
    reads: Vec<Region>,
    writes: Vec<Region>,
    /// Communication: parts not yet done, and what has come in (for each write).
    open: usize,
    came: Vec<Option<Vec<u64>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Waiting,
    Flying,
    Done,
}

/// Runs plans.
pub struct Machine<'a> {
    pub schedule: &'a Schedule,
    pub plans: &'a [RankPlan],
    pub truth: &'a Truth,
    memory: Vec<Vec<Vec<u64>>>,
    pub iteration: u64,
}

type Lists<'a> = Vec<&'a [Op]>;
type Site = (usize, usize);

/// One list of all ranks on its way.
struct Pass<'m, 'a> {
    machine: &'m mut Machine<'a>,
    lists: Lists<'a>,
    status: Vec<Vec<Status>>,
    flights: BTreeMap<Site, Flight>,
    /// Posted messages: (communicator, from, to) -> op and number in its list.
    sends: BTreeMap<(usize, usize, usize), VecDeque<(Site, usize)>>,
    recvs: BTreeMap<(usize, usize, usize), VecDeque<(Site, usize)>>,
    /// Posted collectives: (communicator, rank) -> ops.
    calls: BTreeMap<(usize, usize), VecDeque<Site>>,
}

#[derive(Clone, Copy)]
enum Event {
    Start(Site),
    End(Site),
    Message((usize, usize, usize)),
    Call(usize, usize),
}

/// Runs two iterations and an evaluation, and compares with the truth.
pub fn run(schedule: &Schedule, plans: &[RankPlan], truth: &Truth, manner: &Manner) -> Result<(), Wrong> {
    let memory = plans.iter().map(|plan| {
        let slots = plan.slots.iter().map(|slot| {
            let all = points(slot.elems, 0..slot.elems).len();
            match (state_of(slot.segment), &slot.holds) {
                (Some(kind), Some(holds)) => truth.held(0, holds, kind).expect("the beginning").to_vec(),
                _ => vec![POISON; all],
            }
        });
        slots.collect()
    });
    let mut machine = Machine { schedule, plans, truth, memory: memory.collect(), iteration: 0 };
    let mut dice = Dice(manner.seed);
    machine.pass(plans.iter().map(|p| &p.prepare[..]).collect(), manner, &mut dice)?;
    for iteration in 0..2 {
        machine.iteration = iteration;
        machine.begin();
        machine.pass(plans.iter().map(|p| &p.train[..]).collect(), manner, &mut dice)?;
        machine.compare(iteration as usize + 1, truth.stats[iteration as usize])?;
    }
    machine.iteration = 2;
    machine.begin();
    machine.pass(plans.iter().map(|p| &p.evaluate[..]).collect(), manner, &mut dice)?;
    machine.compare(2, truth.stats[2])
}

fn state_of(segment: Segment) -> Option<usize> {
    [Segment::Master, Segment::Moment1, Segment::Moment2].iter().position(|&s| s == segment)
}

impl<'a> Machine<'a> {
    /// Only masters, moments and homes survive from list to list.
    fn begin(&mut self) {
        for (plan, memory) in self.plans.iter().zip(&mut self.memory) {
            for (slot, words) in plan.slots.iter().zip(memory) {
                match slot.segment {
                    Segment::Master | Segment::Moment1 | Segment::Moment2 | Segment::Home => {}
                    Segment::Scalars if slot.name == "step" => *words = step_scalars(self.iteration, words.len()),
                    Segment::Scalars => words.fill(0),
                    _ => words.fill(POISON),
                }
            }
        }
    }

    fn compare(&self, version: usize, stats: (u64, u64)) -> Result<(), Wrong> {
        for (plan, memory) in self.plans.iter().zip(&self.memory) {
            for (slot, words) in plan.slots.iter().zip(memory) {
                let kind = if slot.segment == Segment::Home { Some(0) } else { state_of(slot.segment) };
                if let (Some(kind), Some(holds)) = (kind, &slot.holds)
                    && Some(&words[..]) != self.truth.held(version, holds, kind)
                {
                    return Err(format!("rank {}: {} is wrong after {version} updates", plan.rank, slot.name));
                }
                if slot.name == "stats" && (words[0], words[1]) != stats {
                    return Err(format!("rank {}: statistics are wrong after {version} updates", plan.rank));
                }
            }
        }
        Ok(())
    }

    fn pass(&mut self, lists: Lists<'a>, manner: &Manner, dice: &mut Dice) -> Result<(), Wrong> {
        let status = lists.iter().map(|list| vec![Status::Waiting; list.len()]).collect();
        let mut pass = Pass {
            machine: self,
            lists,
            status,
            flights: BTreeMap::new(),
            sends: BTreeMap::new(),
            recvs: BTreeMap::new(),
            calls: BTreeMap::new(),
        };
        pass.run(manner, dice)
    }

    pub fn dtype(&self, rank: usize, region: Region) -> Dtype {
        self.plans[rank].slots[region.slot].dtype
    }

    pub fn range(&self, rank: usize, region: Region) -> Result<Range<usize>, Wrong> {
        let slot = self.plans[rank].slots.get(region.slot).ok_or("no such slot")?;
        if region.start + region.len > slot.elems {
            return Err(format!("outside of {}", slot.name));
        }
        Ok(points(slot.elems, region.range()))
    }

    fn look(&self, rank: usize, region: Region) -> Result<Vec<u64>, Wrong> {
        Ok(self.memory[rank][region.slot][self.range(rank, region)?].to_vec())
    }

    fn put(&mut self, rank: usize, region: Region, words: &[u64]) -> Result<(), Wrong> {
        let range = self.range(rank, region)?;
        if range.len() != words.len() {
            return Err(format!("{} words where {} belong", words.len(), range.len()));
        }
        self.memory[rank][region.slot][range].copy_from_slice(words);
        Ok(())
    }

    /// The words of a part of a region, among those of all of it.
    fn within(&self, rank: usize, region: Region, part: Range<usize>) -> Result<Range<usize>, Wrong> {
        let (all, part) = (self.range(rank, region)?, self.range(rank, region.sub(part))?);
        Ok(part.start - all.start..part.end - all.start)
    }

    /// Whether each word is of a shard's present weights, or of those that this iteration's update makes of them.
    fn are_weights(&self, shard: usize, range: &Range<usize>, words: &[u64]) -> bool {
        let holds = Holding { shard, range: range.clone(), primary: false };
        let now = self.truth.held(self.iteration as usize, &holds, 0).expect("a version");
        let then = self.truth.held(self.iteration as usize + 1, &holds, 0).unwrap_or(now);
        words.len() == now.len() && words.iter().zip(now.iter().zip(then)).all(|(w, (a, b))| w == a || w == b)
    }
}

impl Pass<'_, '_> {
    fn run(&mut self, manner: &Manner, dice: &mut Dice) -> Result<(), Wrong> {
        // Of each lane: its ops in order and the first that is not done.
        let mut lanes: BTreeMap<(usize, Lane), (Vec<usize>, usize)> = BTreeMap::new();
        for (rank, list) in self.lists.iter().enumerate() {
            for (id, op) in list.iter().enumerate() {
                if op.waits.iter().any(|&wait| wait >= id) {
                    return Err("waits for what comes later".into());
                }
                lanes.entry((rank, op.lane)).or_default().0.push(id);
            }
        }
        let total: usize = self.lists.iter().map(|list| list.len()).sum();
        let mut done = 0;
        while done < total {
            let mut events: Vec<(Event, bool)> = Vec::new();
            for (&(rank, lane), (ops, at)) in &lanes {
                let Some(&id) = ops.get(*at) else { continue };
                let slow = manner.slow.contains(&(rank, lane)) || manner.hold.contains(&(rank, id));
                match self.status[rank][id] {
                    Status::Waiting if self.may_start(rank, id, manner.serial) => {
                        events.push((Event::Start((rank, id)), slow && !manner.eager));
                    }
                    Status::Flying if self.flights[&(rank, id)].open == 0 => {
                        events.push((Event::End((rank, id)), slow));
                    }
                    _ => {}
                }
            }
            for (&key, posted) in &self.sends {
                if !posted.is_empty() && self.recvs.get(&key).is_some_and(|r| !r.is_empty()) {
                    events.push((Event::Message(key), false));
                }
            }
            for (comm, split) in self.machine.schedule.splits.iter().enumerate() {
                for (index, set) in split.sets.iter().enumerate() {
                    if set.iter().all(|&rank| self.calls.get(&(comm, rank)).is_some_and(|c| !c.is_empty())) {
                        events.push((Event::Call(comm, index), false));
                    }
                }
            }
            if events.is_empty() {
                return Err(format!("deadlock: {done} of {total} ops done"));
            }
            let quick: Vec<usize> = (0..events.len()).filter(|&i| !events[i].1).collect();
            let pick = if quick.is_empty() { dice.below(events.len()) } else { quick[dice.below(quick.len())] };
            match events[pick].0 {
                Event::Start(site) => self.start(site)?,
                Event::End(site) => {
                    self.end(site)?;
                    done += 1;
                    let lane = self.lists[site.0][site.1].lane;
                    lanes.get_mut(&(site.0, lane)).expect("its lane").1 += 1;
                }
                Event::Message(key) => self.message(key)?,
                Event::Call(comm, set) => self.call(comm, set)?,
            }
        }
        Ok(())
    }

    fn may_start(&self, rank: usize, id: usize, serial: bool) -> bool {
        let (list, status) = (self.lists[rank], &self.status[rank]);
        let comm = |op: &Op| matches!(op.lane, Lane::Comm(_));
        list[id].waits.iter().all(|&wait| status[wait] == Status::Done)
            && !(serial && comm(&list[id]) && (0..id).any(|other| comm(&list[other]) && status[other] != Status::Done))
    }

    fn start(&mut self, site: Site) -> Result<(), Wrong> {
        let (rank, id) = site;
        let action = &self.lists[rank][id].action;
        let (reads, changes, fresh) = touches(action, rank);
        let mut flight = Flight { read: Vec::new(), reads, writes: changes.clone(), open: 0, came: Vec::new() };
        flight.writes.extend(&fresh);
        for (index, write) in flight.writes.iter().enumerate() {
            let others = flight.reads.iter().chain(&flight.writes[..index]);
            let clash = |other: &&Region| {
                let (a, b) = (write.range(), other.range());
                other.slot == write.slot && a.start < b.end && b.start < a.end
            };
            if others.into_iter().any(|other| clash(&other)) {
                return Err(format!("rank {rank} op {id}: writes into another region of its own"));
            }
        }
        for &region in flight.reads.iter().chain(&changes) {
            flight.read.push(self.machine.look(rank, region)?);
        }
        for &region in &flight.writes {
            let blank = vec![POISON; self.machine.range(rank, region)?.len()];
            self.machine.put(rank, region, &blank)?;
        }
        flight.came = vec![None; flight.writes.len()];
        match action {
            Action::Exchange { comm, sends, recvs } => {
                flight.open = sends.len() + recvs.len();
                for (index, message) in sends.iter().enumerate() {
                    self.sends.entry((*comm, rank, message.peer)).or_default().push_back((site, index));
                }
                for (index, message) in recvs.iter().enumerate() {
                    self.recvs.entry((*comm, message.peer, rank)).or_default().push_back((site, index));
                }
            }
            _ => {
                if let Some(comm) = action.comm() {
                    flight.open = 1;
                    self.calls.entry((comm, rank)).or_default().push_back(site);
                }
            }
        }
        self.flights.insert(site, flight);
        self.status[rank][id] = Status::Flying;
        Ok(())
    }

    fn end(&mut self, site: Site) -> Result<(), Wrong> {
        let (rank, id) = site;
        let flight = self.flights.remove(&site).expect("in flight");
        for (&region, then) in flight.reads.iter().zip(&flight.read) {
            if self.machine.look(rank, region)? != *then {
                return Err(format!("rank {rank} op {id}: what it reads changed under it"));
            }
        }
        for &region in &flight.writes {
            if self.machine.look(rank, region)?.iter().any(|&w| w != POISON) {
                return Err(format!("rank {rank} op {id}: what it writes was written under it"));
            }
        }
        let action = &self.lists[rank][id].action;
        let results = if action.comm().is_some() {
            flight.came.clone()
        } else {
            if flight.read.iter().flatten().any(|&w| w == POISON) {
                return Err(format!("rank {rank} op {id}: reads poison"));
            }
            compute(self.machine, rank, action, &flight.read)?
        };
        for (&region, words) in flight.writes.iter().zip(&results) {
            if let Some(words) = words {
                self.machine.put(rank, region, words)?;
            }
        }
        // Scratch last: it spoils results that it overlaps.
        for (&region, _) in flight.writes.iter().zip(&results).filter(|(_, words)| words.is_none()) {
            let blank = vec![POISON; self.machine.range(rank, region)?.len()];
            self.machine.put(rank, region, &blank)?;
        }
        self.status[rank][id] = Status::Done;
        Ok(())
    }

    /// What a message or a collective may carry.
    fn carries(&self, rank: usize, payload: &Payload, words: &[u64]) -> Result<(), Wrong> {
        if words.contains(&POISON) {
            return Err(format!("rank {rank} sends poison as {payload}"));
        }
        let (machine, truth) = (&self.machine, self.machine.truth);
        let iteration = machine.iteration as usize;
        let begins = |all: &[Vec<Vec<Vec<u64>>>], work: &Work, layer: usize| {
            let whole = all[iteration].get(work.micro).and_then(|micro| micro.get(layer));
            whole.is_some_and(|whole| whole.starts_with(words))
        };
        let right = match payload {
            Payload::Weights(shard, range) => machine.are_weights(*shard, range, words),
            Payload::Gradient(shard, range) => {
                let points = points(truth.shards.shards[*shard].len, range.clone());
                points.len() == words.len() && points.zip(words).all(|(p, &w)| is_sum_of(w, *shard, p))
            }
            Payload::Activation(work, layer) => begins(&truth.activations, work, *layer),
            Payload::Dx(work, layer) => begins(&truth.dx, work, *layer),
            Payload::Scalars => true,
        };
        if right { Ok(()) } else { Err(format!("rank {rank} sends something else as {payload}")) }
    }

    fn message(&mut self, key: (usize, usize, usize)) -> Result<(), Wrong> {
        let (_, from, to) = key;
        let (sender, s) = self.sends.get_mut(&key).and_then(VecDeque::pop_front).expect("posted");
        let (receiver, r) = self.recvs.get_mut(&key).and_then(VecDeque::pop_front).expect("posted");
        let ends = |(rank, id): Site| match &self.lists[rank][id].action {
            Action::Exchange { sends, recvs, .. } => (sends, recvs),
            _ => unreachable!(),
        };
        let (out, into): (&Message, &Message) = (&ends(sender).0[s], &ends(receiver).1[r]);
        let types = (self.machine.dtype(from, out.region), self.machine.dtype(to, into.region));
        if (&out.payload, out.region.len, types.0) != (&into.payload, into.region.len, types.1) {
            return Err(format!("rank {from} sends {} to rank {to}, which receives {}", out.payload, into.payload));
        }
        let words = self.flights[&sender].read[s].clone();
        self.carries(from, &out.payload, &words)?;
        let flight = self.flights.get_mut(&receiver).expect("in flight");
        flight.came[r] = Some(words);
        flight.open -= 1;
        self.flights.get_mut(&sender).expect("in flight").open -= 1;
        Ok(())
    }

    fn call(&mut self, comm: usize, set: usize) -> Result<(), Wrong> {
        let members = self.machine.schedule.splits[comm].sets[set].clone();
        let sites: Vec<Site> = members
            .iter()
            .map(|&r| self.calls.get_mut(&(comm, r)).and_then(VecDeque::pop_front).expect("posted"))
            .collect();
        let mut same = None;
        let mut result: Option<Vec<u64>> = None;
        for (index, &(rank, id)) in sites.iter().enumerate() {
            let read = &self.flights[&(rank, id)].read;
            let call = self.collective((rank, id));
            let Call { what: kind, region, payload, algorithm, scratch, .. } = call;
            let (len, dtype) = (region.len, self.machine.dtype(rank, *region));
            let needed = need(call, members.len());
            if let Some(scratch) = scratch
                && (scratch.len < needed || self.machine.dtype(rank, *scratch) != dtype)
            {
                return Err(format!("rank {rank} op {id}: the scratch is too small for partial sums"));
            }
            if let Collective::Broadcast(root) | Collective::Reduce(root) = kind
                && !members.contains(root)
            {
                return Err("a root outside".into());
            }
            let what = (*kind, len, dtype, payload, *algorithm);
            if *same.get_or_insert(what) != what {
                return Err(format!("rank {rank} op {id}: not what the others call"));
            }
            match kind {
                Collective::Broadcast(root) if *root != rank => {}
                Collective::AllGather => {
                    let own = cut(len, members.len(), index);
                    let words = &read[0][self.machine.within(rank, *region, own.clone())?];
                    self.carries(rank, &part(payload, own), words)?;
                    result.get_or_insert_default().extend(words);
                }
                _ => {
                    self.carries(rank, payload, &read[0])?;
                    result = Some(match result {
                        None => read[0].clone(),
                        Some(so_far) => so_far.iter().zip(&read[0]).map(|(a, b)| a.wrapping_add(*b)).collect(),
                    });
                }
            }
        }
        let result = result.expect("a root, a sum or pieces");
        for (index, &(rank, id)) in sites.iter().enumerate() {
            let call = self.collective((rank, id));
            let came = match call.what {
                Collective::Broadcast(root) => (rank != root).then(|| result.clone()),
                Collective::Reduce(root) => (rank == root).then(|| result.clone()),
                Collective::AllReduce | Collective::AllGather => Some(result.clone()),
                Collective::ReduceScatter => {
                    let own = self.machine.within(rank, call.region, cut(call.region.len, members.len(), index))?;
                    let mut words = vec![POISON; result.len()];
                    words[own.clone()].copy_from_slice(&result[own]);
                    Some(words)
                }
            };
            let flight = self.flights.get_mut(&(rank, id)).expect("in flight");
            flight.open = 0;
            if came.is_some() {
                flight.came[0] = came;
            }
        }
        Ok(())
    }

    fn collective(&self, (rank, id): Site) -> &Call {
        match &self.lists[rank][id].action {
            Action::Collective(call) => call,
            _ => unreachable!("only collectives are posted"),
        }
    }
}

/// The part of a region that is a member's own: as equal as multiples of [`GRID`] (if it is one) allow, in order.
fn cut(len: usize, members: usize, index: usize) -> Range<usize> {
    let grain = if len.is_multiple_of(GRID) { GRID } else { 1 };
    let at = |index: usize| (len / grain) * index / members * grain;
    at(index)..at(index + 1)
}

/// Elements of scratch that a collective needs.
fn need(call: &Call, members: usize) -> usize {
    match (call.what, call.algorithm) {
        (Collective::Reduce(_), _) => call.region.len.min(REDUCE_CHUNKS * REDUCE_CHUNK),
        (Collective::AllReduce | Collective::ReduceScatter, Algorithm::Ring) => {
            (0..members).map(|index| cut(call.region.len, members, index).len()).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// What a part of a payload's elements is.
fn part(payload: &Payload, part: Range<usize>) -> Payload {
    let shift = |range: &Range<usize>| range.start + part.start..range.start + part.end;
    match payload {
        Payload::Weights(shard, range) => Payload::Weights(*shard, shift(range)),
        Payload::Gradient(shard, range) => Payload::Gradient(*shard, shift(range)),
        other => other.clone(),
    }
}
