//! Which links and cores a message or a collective uses, how much of them, and what it waits for beforehand.

use std::collections::HashMap;
use std::rc::Rc;

use crate::cluster::{Duplex, Overhead, Rank};
use crate::plan::collective::{Collective, steps};
use crate::plan::{Algorithm, CommId, REDUCE_CHUNK, Split};

use super::Prices;
use super::flows::{Flows, Resource, Use};
use super::prices::Network;

/// Chunks up to which a chain is played message by message; a longer one moves as one flow.
const FEW_CHUNKS: usize = 8;

/// Something that moves: first it waits, then it flows.
#[derive(Clone, Debug)]
pub struct Move {
    /// Seconds of latency and software.
    pub wait: f64,
    pub uses: Rc<[Use]>,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub peer: Rank,
    pub bytes: f64,
    pub weights: bool,
}

/// Messages that start together; the next ones start when these are over.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    pub sends: Vec<Part>,
    pub recvs: Vec<Part>,
}

/// Of every member of a set, in its order: the messages of a collective.
pub type Stages = Rc<[Vec<Stage>]>;

/// How a collective is played.
#[derive(Clone, Debug)]
pub enum Play {
    /// One flow that starts when all members are there and over which all of them end.
    Whole(Move),
    /// Message by message.
    Stages(Stages),
}

/// A collective, as far as its price depends on it.
pub type Key = (CommId, usize, Collective, Algorithm, usize, usize);

/// The machine's shared things.
pub struct Routes<'a> {
    network: Option<&'a Network>,
    overhead: Overhead,
    memory_rate: f64,
    weight_hop: f64,
    /// Of every node that has them.
    cores: Vec<Option<Resource>>,
    /// Sending and receiving end of every rank's link inside its node.
    intra: Vec<(Resource, Resource)>,
    /// The same of every network card: node by node.
    inter: Vec<Vec<(Resource, Resource)>>,
    messages: HashMap<(Rank, Rank, u64), Move>,
    plays: HashMap<Key, Play>,
}

impl<'a> Routes<'a> {
    /// Adds the machine's links and cores to `flows`.
    pub fn new(prices: &'a Prices, flows: &mut Flows) -> Self {
        let mut routes = Routes {
            network: prices.network.as_ref(),
            overhead: prices.overhead,
            memory_rate: prices.memory_rate,
            weight_hop: prices.weight_hop,
            cores: prices.cores.iter().map(|cores| cores.map(|cores| flows.share(cores))).collect(),
            intra: Vec::new(),
            inter: Vec::new(),
            messages: HashMap::new(),
            plays: HashMap::new(),
        };
        if let Some(network) = &prices.network {
            let mut link = |rate: f64, duplex: Duplex| {
                let out = flows.share(rate);
                (out, if duplex == Duplex::Full { flows.share(rate) } else { out })
            };
            let (intra, inter) = (network.links.intra, network.links.inter);
            let nodes = network.places.iter().map(|&(node, _)| node + 1).max().unwrap_or(0);
            let buses: Vec<_> = (0..nodes).map(|_| link(intra.rate, Duplex::Half)).collect();
            let own = |&(node, _): &(usize, usize)| {
                if intra.shared { buses[node] } else { link(intra.rate, intra.duplex) }
            };
            routes.intra = network.places.iter().map(own).collect();
            let mut cards = || (0..inter.nics).map(|_| link(inter.rate, inter.duplex)).collect();
            routes.inter = (0..nodes).map(|_| cards()).collect();
        }
        routes
    }

    /// The cores that a rank shares with others.
    pub fn cores(&self, rank: Rank) -> Option<Resource> {
        let (node, _) = self.network?.places[rank];
        self.cores[node]
    }

    /// What bytes from one rank to another pass through, with the latency.
    fn way(&self, network: &Network, from: Rank, to: Rank) -> (f64, impl Iterator<Item = Resource>) {
        let ((a, i), (b, j)) = (network.places[from], network.places[to]);
        let (latency, out, into) = if a == b {
            (network.links.intra.latency, self.intra[from].0, self.intra[to].1)
        } else {
            let inter = &network.links.inter;
            (inter.latency, self.inter[a][i % inter.nics].0, self.inter[b][j % inter.nics].1)
        };
        // Over a bus the bytes go once.
        (latency, std::iter::once(out).chain((into != out).then_some(into)))
    }

    /// A message between two ranks.
    pub fn message(&mut self, from: Rank, to: Rank, part: &Part) -> Move {
        let Some(network) = self.network else {
            return Move { wait: if part.weights { self.weight_hop } else { 0.0 }, uses: Rc::new([]) };
        };
        let bytes = part.bytes;
        let known = (from, to, bytes.to_bits());
        if let Some(found) = self.messages.get(&known) {
            return found.clone();
        }
        let (latency, ends) = self.way(network, from, to);
        let mut uses = Uses::default();
        ends.for_each(|end| uses.add(end, 1.0, bytes));
        for rank in [from, to] {
            if let Some(cores) = self.cores(rank) {
                uses.add(cores, 1.0, bytes * self.overhead.copy);
            }
        }
        let found = Move { wait: latency + self.overhead.message, uses: uses.finish() };
        self.messages.insert(known, found.clone());
        found
    }

    /// How a collective of a set over so many elements of so many bytes each is played; `None`: it is over when all
    /// members are there.
    pub fn collective(&mut self, splits: &[Split], key: Key) -> Option<Play> {
        if let Some(play) = self.plays.get(&key) {
            return Some(play.clone());
        }
        let (comm, set, what, algorithm, len, width) = key;
        let set = &splits[comm].sets[set];
        let chunks = len.div_ceil(REDUCE_CHUNK);
        let whole = match algorithm {
            Algorithm::Ring => true,
            Algorithm::Chain => chunks > FEW_CHUNKS,
            Algorithm::Tree | Algorithm::Flat => false,
        };
        let play = if whole {
            let network = self.network?;
            Play::Whole(self.whole(network, set, what, algorithm, len, width))
        } else {
            let member = |&me: &Rank| {
                let steps = steps(what, algorithm, set, me, len).expect("the checker knows the algorithms");
                let mut stages: Vec<Stage> = Vec::new();
                for step in steps {
                    let part = |part: crate::plan::collective::Part| Part {
                        peer: part.peer,
                        bytes: (part.range.len() * width) as f64,
                        weights: false,
                    };
                    // Sends of the same elements do not wait for each other.
                    let together = step.recv.is_none() && stages.last().is_some_and(|stage| stage.recvs.is_empty());
                    if !together {
                        stages.push(Stage::default());
                    }
                    let stage = stages.last_mut().expect("there is one now");
                    stage.sends.extend(step.send.map(part));
                    stage.recvs.extend(step.recv.map(part));
                }
                stages
            };
            Play::Stages(set.iter().map(member).collect())
        };
        self.plays.insert(key, play.clone());
        Some(play)
    }

    /// A pipelined collective as one flow through all its links: every neighbour pair of the ring or chain moves the
    /// same bytes at the same pace.
    fn whole(
        &self,
        network: &Network,
        set: &[Rank],
        what: Collective,
        algorithm: Algorithm,
        len: usize,
        width: usize,
    ) -> Move {
        let n = set.len();
        let at = |rank: Rank| set.iter().position(|&member| member == rank).expect("the root is a member");
        let bytes = (len * width) as f64;
        let chain = algorithm == Algorithm::Chain;
        // First member, number of neighbour pairs, bytes over each, messages one after the other.
        let (first, pairs, each, messages) = match what {
            Collective::Broadcast(root) | Collective::Reduce(root) => {
                let first = if matches!(what, Collective::Broadcast(_)) { at(root) } else { at(root) + 1 };
                // The last member's first chunk comes when n - 2 others have passed it on.
                let fill = (n.saturating_sub(2) * REDUCE_CHUNK * width) as f64;
                (first, n - 1, bytes + fill, len.div_ceil(REDUCE_CHUNK) + n.saturating_sub(2))
            }
            Collective::AllReduce => (0, n, 2.0 * bytes * (n - 1) as f64 / n as f64, 2 * (n - 1)),
            Collective::AllGather | Collective::ReduceScatter => (0, n, bytes * (n - 1) as f64 / n as f64, n - 1),
        };
        let mut uses = Uses::default();
        let mut latency: f64 = 0.0;
        let mut all: f64 = 0.0;
        let sums = !matches!(what, Collective::Broadcast(_) | Collective::AllGather);
        let mut shares_cores = false;
        for pair in 0..if n > 1 { pairs } else { 0 } {
            let (from, to) = (set[(first + pair) % n], set[(first + pair + 1) % n]);
            let (wait, ends) = self.way(network, from, to);
            (latency, all) = (latency.max(wait), all + wait);
            ends.for_each(|end| uses.add(end, 1.0, each));
            for rank in [from, to] {
                if let Some(cores) = self.cores(rank) {
                    shares_cores = true;
                    // The receiver of a sum reads two operands and writes one.
                    let sum = if sums && rank == to { 3.0 * each / self.memory_rate } else { 0.0 };
                    uses.add(cores, 1.0, each * self.overhead.copy + sum);
                }
            }
        }
        // In a chain of chunks latency is paid once a link; a ring cannot go on before a piece has arrived. Processors
        // that move messages themselves start every one of them by hand.
        let wait = if chain {
            all + self.overhead.message * if shares_cores { messages as f64 } else { 1.0 }
        } else {
            messages as f64 * (latency + if shares_cores { self.overhead.message } else { 0.0 }) + self.overhead.message
        };
        Move { wait, uses: uses.finish() }
    }
}

/// Uses of one flow, several of one resource in one.
#[derive(Default)]
struct Uses {
    list: Vec<Use>,
    known: HashMap<Resource, usize>,
}

impl Uses {
    fn add(&mut self, resource: Resource, weight: f64, amount: f64) {
        if amount <= 0.0 {
            return;
        }
        let at = *self.known.entry(resource).or_insert_with(|| {
            self.list.push(Use { resource, weight: 0.0, amount: 0.0 });
            self.list.len() - 1
        });
        self.list[at].weight += weight;
        self.list[at].amount += amount;
    }

    fn finish(self) -> Rc<[Use]> {
        self.list.into()
    }
}
