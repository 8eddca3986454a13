//! The event loop: which op can start, what moves, what is over.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;

use crate::cluster::Rank;
use crate::plan::systems::Schedule;
use crate::plan::{Action, CommId, Lane, OpId, Payload, RankPlan, Span, Timeline};

use super::flows::{End, FlowId, Flows, Use};
use super::route::{Part, Play, Routes, Stages};
use super::usage::Meter;
use super::{Prices, Stuck};

/// A lane of a rank.
type Site = (Rank, usize);

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A lane's op is over that shares nothing.
    Over(Site),
    /// The latency of something that moves is over.
    Flow(MoveId),
    /// A flow ends, unless its rate has changed since this was foreseen.
    End(End),
}

/// An event in time; of two at the same time, the one that was foreseen first happens first.
#[derive(Clone, Copy, Debug)]
struct Due(f64, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

type MoveId = usize;

/// Something under way: who is concerned, and what it uses once its latency is over.
#[derive(Debug)]
struct Moving {
    sites: Rc<[Site]>,
    uses: Rc<[Use]>,
}

/// A lane of a rank: its ops in order, and how far it is.
#[derive(Debug, Default)]
struct LaneState {
    ops: Vec<OpId>,
    at: usize,
    running: bool,
    start: f64,
    /// Messages of the running op that have not arrived.
    open: usize,
    /// The running collective, if it is played message by message: all members' messages, which member this is, and the
    /// next stage.
    stages: Option<(Stages, usize, usize)>,
}

struct RankState<'a> {
    plan: &'a RankPlan,
    lanes: Vec<LaneState>,
    done: Vec<bool>,
    spans: Vec<Span>,
    meter: Meter,
}

/// Ends of messages that wait for the other end, and members of collectives that wait for the others.
#[derive(Default)]
struct Meeting {
    sends: HashMap<(CommId, Rank, Rank), VecDeque<Site>>,
    recvs: HashMap<(CommId, Rank, Rank), VecDeque<Site>>,
    calls: HashMap<(CommId, usize), Vec<Site>>,
}

struct Engine<'a> {
    schedule: &'a Schedule,
    prices: &'a Prices,
    routes: Routes<'a>,
    flows: Flows,
    /// What each flow belongs to.
    of_flow: Vec<MoveId>,
    moving: Vec<Option<Moving>>,
    free: Vec<MoveId>,
    ranks: Vec<RankState<'a>>,
    /// Of every communicator: the set of every rank.
    sets: Vec<Vec<usize>>,
    meeting: Meeting,
    due: BinaryHeap<Reverse<Due>>,
    foreseen: u64,
    now: f64,
    /// Ranks that may be able to start something.
    awake: Vec<Rank>,
}

/// Runs the training lists, and returns what ran when, with what each rank did with its time.
pub fn run(schedule: &Schedule, plans: &[RankPlan], prices: &Prices) -> Result<(Timeline, Vec<Meter>), Stuck> {
    let mut flows = Flows::default();
    let routes = Routes::new(prices, &mut flows);
    let rank = |plan| {
        let plan: &RankPlan = plan;
        let mut lanes: Vec<LaneState> = (0..=plan.comm_lanes).map(|_| LaneState::default()).collect();
        for (id, op) in plan.train.iter().enumerate() {
            lanes[op.lane.index()].ops.push(id);
        }
        let (done, spans) = (vec![false; plan.train.len()], Vec::with_capacity(plan.train.len()));
        RankState { plan, lanes, done, spans, meter: Meter::default() }
    };
    let sets = schedule.splits.iter().map(|split| {
        let mut of = vec![usize::MAX; plans.len()];
        for (index, set) in split.sets.iter().enumerate() {
            set.iter().for_each(|&rank| of[rank] = index);
        }
        of
    });
    let mut engine = Engine {
        schedule,
        prices,
        routes,
        flows,
        of_flow: Vec::new(),
        moving: Vec::new(),
        free: Vec::new(),
        ranks: plans.iter().map(rank).collect(),
        sets: sets.collect(),
        meeting: Meeting::default(),
        due: BinaryHeap::new(),
        foreseen: 0,
        now: 0.0,
        awake: (0..plans.len()).rev().collect(),
    };
    engine.play();
    let stuck = |(rank, state): (Rank, &RankState)| {
        let op = state.done.iter().position(|&done| !done)?;
        Some(Stuck { rank, op })
    };
    if let Some(stuck) = engine.ranks.iter().enumerate().find_map(stuck) {
        return Err(stuck);
    }
    let (ranks, meters) = engine.ranks.into_iter().map(|state| (state.spans, state.meter)).unzip();
    Ok((Timeline { ranks }, meters))
}

impl Engine<'_> {
    fn play(&mut self) {
        loop {
            while let Some(rank) = self.awake.pop() {
                (0..self.ranks[rank].lanes.len()).for_each(|lane| self.look((rank, lane)));
            }
            // Everything that happens now changes the shares only once.
            if self.due.peek().is_none_or(|Reverse(due)| due.0 > self.now) {
                let (due, foreseen, of_flow, moving) = (&mut self.due, &mut self.foreseen, &self.of_flow, &self.moving);
                self.flows.settle(self.now, |end| {
                    debug_assert!(moving[of_flow[end.flow]].is_some());
                    *foreseen += 1;
                    due.push(Reverse(Due(end.time, *foreseen, Event::End(end))));
                });
            }
            let Some(Reverse(Due(time, _, event))) = self.due.pop() else { return };
            self.now = self.now.max(time);
            match event {
                Event::Over(site) => self.over(site),
                Event::Flow(id) => self.flow(id),
                Event::End(end) if self.flows.stands(&end) => {
                    self.flows.finish(end.flow);
                    self.arrive(self.of_flow[end.flow]);
                }
                Event::End(_) => {}
            }
        }
    }

    fn foresee(&mut self, time: f64, event: Event) {
        self.foreseen += 1;
        self.due.push(Reverse(Due(time, self.foreseen, event)));
    }

    /// Starts a lane's next op if it can start.
    fn look(&mut self, (rank, lane): Site) {
        let state = &mut self.ranks[rank];
        let this = &mut state.lanes[lane];
        let Some(&id) = this.ops.get(this.at).filter(|_| !this.running) else { return };
        let op = &state.plan.train[id];
        if !op.waits.iter().all(|&wait| state.done[wait]) {
            return;
        }
        (this.running, this.start) = (true, self.now);
        match &op.action {
            Action::Exchange { comm, sends, recvs } => {
                let plan = state.plan;
                let part = |message: &crate::plan::Message| {
                    let width = plan.slots[message.region.slot].dtype.bytes();
                    let weights = matches!(message.payload, Payload::Weights(..));
                    Part { peer: message.peer, bytes: (message.region.len * width) as f64, weights }
                };
                let sends: Vec<Part> = sends.iter().map(part).collect();
                let recvs: Vec<Part> = recvs.iter().map(part).collect();
                self.post((rank, lane), *comm, &sends, &recvs);
            }
            Action::Collective(call) => {
                let width = state.plan.slots[call.region.slot].dtype.bytes();
                let set = self.sets[call.comm][rank];
                let key = (call.comm, set, call.what, call.algorithm, call.region.len, width);
                let (splits, comm) = (&self.schedule.splits, call.comm);
                match self.routes.collective(splits, key) {
                    Some(Play::Stages(stages)) => {
                        let me = splits[comm].sets[set].binary_search(&rank).expect("ranks ascend in a set");
                        self.ranks[rank].lanes[lane].stages = Some((stages, me, 0));
                        self.stage((rank, lane));
                    }
                    play => {
                        let waiting = self.meeting.calls.entry((comm, set)).or_default();
                        waiting.push((rank, lane));
                        self.ranks[rank].lanes[lane].open = 1;
                        if waiting.len() == splits[comm].sets[set].len() {
                            let sites: Rc<[Site]> = std::mem::take(waiting).into();
                            match play {
                                Some(Play::Whole(how)) => self.depart(sites, how.wait, how.uses),
                                _ => self.depart(sites, 0.0, Rc::new([])),
                            }
                        }
                    }
                }
            }
            action => {
                let seconds = self.prices.seconds(state.plan, action);
                if lane == Lane::Compute.index() {
                    state.meter.compute(self.now, true);
                }
                match self.routes.cores(rank).filter(|_| seconds > 0.0) {
                    Some(resource) => {
                        let uses = Rc::new([Use { resource, weight: 1.0, amount: seconds }]);
                        let id = self.keep(Rc::new([(rank, lane)]), uses.clone());
                        self.ranks[rank].lanes[lane].open = 1;
                        self.start(id, uses, 1.0 / seconds);
                    }
                    None => self.foresee(self.now + seconds, Event::Over((rank, lane))),
                }
            }
        }
    }

    /// Posts a lane's messages; those whose other end is there depart.
    fn post(&mut self, site: Site, comm: CommId, sends: &[Part], recvs: &[Part]) {
        let (rank, lane) = site;
        self.ranks[rank].lanes[lane].open = sends.len() + recvs.len();
        if sends.len() + recvs.len() == 0 {
            self.foresee(self.now, Event::Over(site));
        }
        for part in sends {
            let way = (comm, rank, part.peer);
            match self.meeting.recvs.get_mut(&way).and_then(VecDeque::pop_front) {
                Some(other) => self.message(site, other, part),
                None => self.meeting.sends.entry(way).or_default().push_back(site),
            }
        }
        for part in recvs {
            let way = (comm, part.peer, rank);
            match self.meeting.sends.get_mut(&way).and_then(VecDeque::pop_front) {
                Some(other) => self.message(other, site, part),
                None => self.meeting.recvs.entry(way).or_default().push_back(site),
            }
        }
    }

    fn message(&mut self, from: Site, to: Site, part: &Part) {
        let how = self.routes.message(from.0, to.0, part);
        self.depart(Rc::new([from, to]), how.wait, how.uses);
    }

    /// The next messages of a lane's collective; after the last, the collective is over.
    fn stage(&mut self, site: Site) {
        let (rank, lane) = site;
        let this = &mut self.ranks[rank].lanes[lane];
        let Some((all, me, at)) = &mut this.stages else { unreachable!("only called while there are stages") };
        let (all, me, stage) = (all.clone(), *me, *at);
        *at += 1;
        match all[me].get(stage) {
            Some(messages) => {
                let Action::Collective(call) = &self.ranks[rank].plan.train[self.running(site)].action else {
                    unreachable!("only collectives have stages")
                };
                let comm = call.comm;
                self.post(site, comm, &messages.sends, &messages.recvs);
            }
            None => {
                this.stages = None;
                self.foresee(self.now, Event::Over(site));
            }
        }
    }

    fn running(&self, (rank, lane): Site) -> OpId {
        let lane = &self.ranks[rank].lanes[lane];
        lane.ops[lane.at]
    }

    fn keep(&mut self, sites: Rc<[Site]>, uses: Rc<[Use]>) -> MoveId {
        let moving = Some(Moving { sites, uses });
        match self.free.pop() {
            Some(id) => {
                self.moving[id] = moving;
                id
            }
            None => {
                self.moving.push(moving);
                self.moving.len() - 1
            }
        }
    }

    /// Something starts to move between lanes.
    fn depart(&mut self, sites: Rc<[Site]>, wait: f64, uses: Rc<[Use]>) {
        for &(rank, _) in sites.iter() {
            self.ranks[rank].meter.moves(self.now, true);
        }
        let id = self.keep(sites, uses);
        self.foresee(self.now + wait, Event::Flow(id));
    }

    /// Its latency is over.
    fn flow(&mut self, id: MoveId) {
        let uses = self.moving[id].as_ref().expect("it is under way").uses.clone();
        if uses.is_empty() {
            self.arrive(id);
        } else {
            self.start(id, uses, f64::MAX);
        }
    }

    fn start(&mut self, id: MoveId, uses: Rc<[Use]>, limit: f64) {
        let flow: FlowId = self.flows.start(self.now, uses, limit);
        self.of_flow.resize(self.of_flow.len().max(flow + 1), MoveId::MAX);
        self.of_flow[flow] = id;
    }

    /// It is over: for the lanes concerned, one thing less is open.
    fn arrive(&mut self, id: MoveId) {
        let Moving { sites, .. } = self.moving[id].take().expect("it is under way");
        self.free.push(id);
        for &(rank, lane) in sites.iter() {
            if self.ranks[rank].plan.train[self.running((rank, lane))].action.comm().is_some() {
                self.ranks[rank].meter.moves(self.now, false);
            }
            let this = &mut self.ranks[rank].lanes[lane];
            this.open -= 1;
            if this.open == 0 {
                if this.stages.is_some() {
                    self.stage((rank, lane));
                } else {
                    self.over((rank, lane));
                }
            }
        }
    }

    /// A lane's op is over.
    fn over(&mut self, (rank, lane): Site) {
        let op = self.running((rank, lane));
        let state = &mut self.ranks[rank];
        let this = &mut state.lanes[lane];
        let which = if lane == 0 { Lane::Compute } else { Lane::Comm(lane - 1) };
        state.spans.push(Span { lane: which, op, start: this.start, end: self.now });
        if which == Lane::Compute {
            state.meter.compute(self.now, false);
        }
        (this.running, this.at) = (false, this.at + 1);
        state.meter.end = self.now;
        state.done[op] = true;
        if self.awake.last() != Some(&rank) {
            self.awake.push(rank);
        }
    }
}
