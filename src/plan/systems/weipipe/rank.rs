//! One rank's lists of ops: its own end of the [`Ring`].

use crate::cluster::Rank;
use crate::model::{Dtype, ShardId, Shards, Unit};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::{Action, Job, Message, Payload, RankPlan, Region, Segment, Work};

use super::super::Schedule;
use super::super::local::{Flights, Local, Owned, list};
use super::super::replicated::Replicated;
use super::super::steps::{Pass, Step};
use super::Flow;
use super::ring::{Order, Ring, Run, Way, blocks, owner, runs};

/// A rank's plan.
pub fn plan(schedule: &Schedule, order: Order, rank: Rank) -> RankPlan {
    let Schedule { job, shards, .. } = schedule;
    let mut slots = Slots::default();
    let owned = schedule.owners().iter().enumerate().filter_map(|(shard, owner)| {
        // What is replicated counts on rank 0.
        let primary = owner.map_or(rank == 0, |owner| owner == rank);
        (primary || owner.is_none()).then(|| Owned::new(&mut slots, job, shard, 0..shards.elems(shard), primary))
    });
    let owned = owned.collect();
    let ring = Ring::new(job, order);
    // Interleaved, a round begins while the one before is on its way back.
    let flights = if order == Order::Interleave && ring.rounds(0) > 1 { opposite(job) } else { Flights::One };
    let local = Local::with(&mut slots, job, shards, owned, flights);
    let everywhere = (0..shards.shards.len()).filter(|&shard| schedule.owners()[shard].is_none()).collect();
    let two = |name: &str, dtype, segment| [0, 1].map(|i| Elastic::new(format!("{name} {i}"), dtype, segment));
    let mut writer = Writer {
        job,
        shards,
        runs: runs(job),
        rank,
        local: &local,
        replicated: Replicated::new(job, everywhere, Flow::AllReduce.lane(), Flow::AllReduce.comm()),
        weights: ["forward ring", "backward ring"].map(|name| two(name, job.dtype, Segment::Ring)),
        gradient: two("gradient", Dtype::F32, Segment::Gradient),
        wire: two("wire", job.grad_dtype, Segment::Gradient),
        arrival: Elastic::new("arrival".into(), job.grad_dtype, Segment::Gradient),
        complete: Elastic::new("complete".into(), job.grad_dtype, Segment::Gradient),
        slots: &mut slots,
        begun: vec![false; shards.shards.len()],
    };
    let train = list(rank, |list| writer.train(list, &ring));
    let evaluate = list(rank, |list| writer.evaluate(list, &Ring::new(job, Order::Evaluate)));
    let prepare = list(rank, |list| local.prepare(list));
    RankPlan { rank, slots: slots.finish(), comm_lanes: schedule.splits.len(), prepare, train, evaluate }
}

/// Memory of two rounds that pass each other: in a turn one computes run i, and then the other computes run N - 1 - i
/// backwards.
fn opposite(job: &Job) -> Flights {
    let ranks = job.groups.ranks();
    // Blocks up to and with a run: the climbing round has as many behind it, the descending one before it.
    let up_to: Vec<usize> = (0..ranks)
        .scan(0, |sum, run| {
            *sum += blocks(job, run).len();
            Some(*sum)
        })
        .collect();
    let both = (0..ranks).map(|run| up_to[run] + up_to[ranks - 1 - run]).max().unwrap_or(0);
    // The climbing round has one input more than blocks: that of the unit it comes to next.
    Flights::Opposite { inputs: both + 1, saved: both }
}

struct Writer<'a> {
    job: &'a Job,
    shards: &'a Shards,
    /// The shard of each run.
    runs: Vec<Option<ShardId>>,
    rank: Rank,
    local: &'a Local,
    replicated: Replicated,
    slots: &'a mut Slots,
    /// Of the forward and the backward flow: what is here in even and in odd turns.
    weights: [[Elastic; 2]; 2],
    /// This rank's part of the sum in work, in even and in odd turns: one is filled while the other is sent.
    gradient: [Elastic; 2],
    /// The same in the type it travels in, if that is not f32.
    wire: [Elastic; 2],
    /// The sum so far, from the rank before.
    arrival: Elastic,
    /// The complete sum for the owner, if it does not travel in f32.
    complete: Elastic,
    /// Shards on every rank whose accumulator has been written in this iteration.
    begun: Vec<bool>,
}

impl Writer<'_> {
    fn train(&mut self, list: &mut List, ring: &Ring) {
        if ring.rounds(self.rank) == 0 {
            self.replicated.clear(list, self.local);
        }
        let [embed, head] = [Unit::Embed, Unit::Head].map(|unit| self.shards.place(unit).shard);
        for turn in 0..ring.turns() {
            self.pass_on(list, ring, Way::Forward, turn);
            self.pass_on(list, ring, Way::Backward, turn);
            self.forward(list, ring, turn, true);
            self.backward(list, ring, turn);
            self.head(list, ring, turn, true);
            self.collect(list, ring, turn);
            if turn == ring.last_head() && head != embed {
                self.replicated.sum(list, self.slots, self.local, head);
            }
        }
        self.replicated.sum(list, self.slots, self.local, embed);
        self.local.finish(list, true, Flow::AllReduce.lane(), Flow::AllReduce.comm());
    }

    fn evaluate(&mut self, list: &mut List, ring: &Ring) {
        for turn in 0..ring.turns() {
            self.pass_on(list, ring, Way::Forward, turn);
            self.forward(list, ring, turn, false);
            self.head(list, ring, turn, false);
        }
        self.local.finish(list, false, Flow::AllReduce.lane(), Flow::AllReduce.comm());
    }

    /// Moves a flow's weights on to where they belong in the next turn, while this one computes.
    fn pass_on(&mut self, list: &mut List, ring: &Ring, way: Way, turn: usize) {
        let (n, next) = (ring.ranks, turn + 1);
        if way == Way::Backward && next < n {
            return;
        }
        // The backward flow begins at turn N with weights from their owners, which pairs of ranks swap.
        let begins = way == Way::Backward && next == n;
        let source = |rank: Rank| if begins { owner(n, ring.run(way, rank, next)) } else { (rank + n - 1) % n };
        let target = if begins { (n + 1 - self.rank) % n } else { (self.rank + 1) % n };
        let shard = |rank| self.runs[ring.run(way, rank, next)].filter(|_| ring.needs(way, rank, next));
        let (outgoing, incoming) = (shard(target), shard(self.rank));
        let flow = if way == Way::Forward { Flow::Forward } else { Flow::Backward };
        let mut exchange = Exchange::default();
        if target != self.rank
            && let Some(shard) = outgoing
        {
            let region = if begins { self.home(shard) } else { self.weights(ring, way, turn, shard) };
            exchange.send(target, region, Payload::Weights(shard, 0..region.len));
        }
        if source(self.rank) != self.rank
            && let Some(shard) = incoming
        {
            let region = self.weights(ring, way, next, shard);
            exchange.receive(source(self.rank), region, Payload::Weights(shard, 0..region.len));
        }
        exchange.push(list, flow);
    }

    /// Where a flow's weights are on this rank in a turn: at home when the flow begins at their owner.
    fn weights(&mut self, ring: &Ring, way: Way, turn: usize, shard: ShardId) -> Region {
        let begins = turn == if way == Way::Forward { 0 } else { ring.ranks };
        if ring.ranks == 1 || (begins && self.local.own(shard).is_some()) {
            return self.home(shard);
        }
        self.weights[way as usize][turn % 2].take(self.slots, self.shards.elems(shard))
    }

    fn home(&self, shard: ShardId) -> Region {
        self.local.own(shard).expect("a shard's weights begin at its owner").weights()
    }

    fn forward(&mut self, list: &mut List, ring: &Ring, turn: usize, training: bool) {
        let Some(round) = ring.work(Way::Forward, self.rank, turn) else { return };
        let run = ring.run(Way::Forward, self.rank, turn);
        if run == 0 {
            self.end(list, Pass::Embed, round, training);
        }
        if let Some(shard) = self.runs[run] {
            let weights = self.weights(ring, Way::Forward, turn, shard);
            let blocks: Vec<Unit> = self.shards.blocks(shard).collect();
            for unit in blocks {
                let weights = weights.sub(self.shards.place(unit).range.clone());
                self.local.forward(list, unit, self.micro(round), weights, training);
            }
        }
    }

    fn backward(&mut self, list: &mut List, ring: &Ring, turn: usize) {
        let Some(round) = ring.work(Way::Backward, self.rank, turn) else { return };
        let run = ring.run(Way::Backward, self.rank, turn);
        if let Some(shard) = self.runs[run] {
            let weights = self.weights(ring, Way::Backward, turn, shard);
            // Alone, a rank adds up in place.
            let alone = ring.ranks == 1;
            let accumulator = self.local.own(shard).filter(|_| alone).map(|owned| owned.accumulator);
            let gradient = accumulator.unwrap_or_else(|| self.part(turn, shard));
            let blocks: Vec<Unit> = self.shards.blocks(shard).collect();
            for unit in blocks.into_iter().rev() {
                let range = self.shards.place(unit).range.clone();
                let (weights, gradient) = (weights.sub(range.clone()), gradient.sub(range));
                let work = self.micro(round);
                self.local.backward(list, unit, work, Some(weights), gradient, alone && round > 0);
            }
        }
        if run == 0 {
            self.end(list, Pass::EmbedBackward, round, true);
        }
    }

    /// The head follows its turn's backward, which belongs to the round before and still needs `dx`.
    fn head(&mut self, list: &mut List, ring: &Ring, turn: usize, training: bool) {
        if let Some(round) = ring.work(Way::Forward, self.rank, turn)
            && ring.run(Way::Forward, self.rank, turn) + 1 == ring.ranks
        {
            self.end(list, Pass::Head, round, training);
        }
    }

    /// A computation of the embedding or the head.
    fn end(&mut self, list: &mut List, pass: Pass, round: usize, training: bool) {
        let unit = if pass == Pass::Head { Unit::Head } else { Unit::Embed };
        let shards = self.shards;
        let place = shards.place(unit);
        let owned = self.local.own(place.shard).expect("embedding and head live everywhere");
        let weights = |_| owned.weights().sub(place.range.clone());
        let begun = self.begun[place.shard];
        let gradient = |_| (owned.accumulator.sub(place.range.clone()), begun);
        let step = Step { pass, shard: place.shard };
        self.local.step(list, shards, step, self.micro(round), weights, training.then_some(gradient));
        self.begun[place.shard] |= training && pass != Pass::Embed;
    }

    fn micro(&self, round: usize) -> Work {
        Work { micro: round * self.job.groups.ranks() + self.rank, chunk: 0 }
    }

    /// Where this rank's part of a turn's sum is.
    fn part(&mut self, turn: usize, shard: ShardId) -> Region {
        self.gradient[turn % 2].take(self.slots, self.shards.elems(shard))
    }

    /// Adds this rank's part to the sum that has come with the backward weights, and sends it on: to the next rank, or to
    /// the owner if it is complete.
    fn collect(&mut self, list: &mut List, ring: &Ring, turn: usize) {
        let (n, rank, lane) = (ring.ranks, self.rank, Flow::Gradient.lane());
        if n == 1 {
            return;
        }
        let mut exchange = Exchange::default();
        if let Some((run, shard)) = self.travels(ring, rank, turn) {
            let part = self.part(turn, shard);
            if ring.earlier(Way::Backward, rank, turn) {
                let src = self.arrival.take(self.slots, part.len);
                list.push(
                    lane,
                    match ring.work(Way::Backward, rank, turn) {
                        Some(_) => Action::Accumulate { src, dst: part },
                        None => Action::Cast { src, dst: part },
                    },
                );
            }
            let complete = ring.last(run) == (rank, turn);
            if complete && owner(n, run) == rank {
                list.push(lane, Action::Cast { src: part, dst: self.accumulator(shard) });
            } else {
                let mut region = part;
                if self.job.grad_dtype != Dtype::F32 {
                    region = self.wire[turn % 2].take(self.slots, part.len);
                    list.push(lane, Action::Cast { src: part, dst: region });
                }
                let target = if complete { owner(n, run) } else { (rank + 1) % n };
                exchange.send(target, region, Payload::Gradient(shard, 0..part.len));
            }
        }
        if let Some((_, shard)) = self.travels(ring, rank, turn + 1)
            && ring.earlier(Way::Backward, rank, turn + 1)
        {
            let region = self.arrival.take(self.slots, self.shards.elems(shard));
            exchange.receive((rank + n - 1) % n, region, Payload::Gradient(shard, 0..region.len));
        }
        // The run that this rank owns.
        let own = (n - rank) % n;
        let mut arrived = None;
        if let (Some(shard), (from, last)) = (self.runs[own], ring.last(own))
            && (last == turn && from != rank)
        {
            let dst = self.accumulator(shard);
            let region = if self.job.grad_dtype == Dtype::F32 { dst } else { self.complete.take(self.slots, dst.len) };
            exchange.receive(from, region, Payload::Gradient(shard, 0..dst.len));
            arrived = (region != dst).then_some(Action::Cast { src: region, dst });
        }
        exchange.push(list, Flow::Gradient);
        if let Some(cast) = arrived {
            list.push(lane, cast);
        }
    }

    /// The run whose gradient is at a rank in a turn, and its shard.
    fn travels(&self, ring: &Ring, rank: Rank, turn: usize) -> Option<(Run, ShardId)> {
        let way = Way::Backward;
        let run = ring.run(way, rank, turn);
        let here =
            ring.work(way, rank, turn).is_some() || (ring.earlier(way, rank, turn) && ring.needs(way, rank, turn));
        self.runs[run].filter(|_| here).map(|shard| (run, shard))
    }

    fn accumulator(&self, shard: ShardId) -> Region {
        self.local.own(shard).expect("a complete sum goes to its owner").accumulator
    }
}

/// Messages that start and complete together.
#[derive(Default)]
struct Exchange {
    sends: Vec<Message>,
    recvs: Vec<Message>,
}

impl Exchange {
    fn send(&mut self, peer: Rank, region: Region, payload: Payload) {
        self.sends.push(Message { peer, region, payload });
    }

    fn receive(&mut self, peer: Rank, region: Region, payload: Payload) {
        self.recvs.push(Message { peer, region, payload });
    }

    /// Becomes an op, if there is anything to do.
    fn push(self, list: &mut List, flow: Flow) {
        let Exchange { sends, recvs } = self;
        if !(sends.is_empty() && recvs.is_empty()) {
            list.push(flow.lane(), Action::Exchange { comm: flow.comm(), sends, recvs });
        }
    }
}
