//! Runs a communication op as a list of moves.
//!
//! A collective is an ordered list of sends, receives and sums on one member (see [`crate::plan::collective`]). Moves
//! overlap in time wherever they touch different elements: a move starts when no earlier unfinished move touches the
//! same elements with one of the two writing, and when earlier messages of its direction to the same peer have
//! started. That is a plan's own rule for ops, one level down, and gives pipelines without a special case.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::cluster::Rank;
use crate::device::{Memory, View};
use crate::plan::collective::{Collective, Step, steps};
use crate::plan::{Action, Algorithm, Call, CommId, Payload, Region, Segment, Slot, Split};

use super::{FabricError, Request, Sent, Wire};

/// Moves looked at together; bounds the messages in flight of one op.
const WINDOW: usize = 16;

/// Elements of one of an op's views.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    view: usize,
    range: Range<usize>,
}

impl Part {
    fn overlaps(&self, other: &Part) -> bool {
        self.view == other.view && self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    Send { to: Rank, from: Part, control: bool },
    Receive { from: Rank, into: Part },
    Add { from: Part, into: Part },
}

impl Move {
    /// What it reads, and what it writes.
    fn access(&self) -> (Option<&Part>, Option<&Part>) {
        match self {
            Move::Send { from, .. } => (Some(from), None),
            Move::Receive { into, .. } => (None, Some(into)),
            Move::Add { from, into } => (Some(from), Some(into)),
        }
    }

    /// Whether it must be complete before `later` starts.
    fn blocks(&self, later: &Move) -> bool {
        let ((read, write), (later_read, later_write)) = (self.access(), later.access());
        let touch = |a: Option<&Part>, b: Option<&Part>| matches!((a, b), (Some(a), Some(b)) if a.overlaps(b));
        touch(write, later_write) || touch(write, later_read) || touch(read, later_write)
    }

    /// Whether the two travel the same way between the same ranks, and so must start in order.
    fn same_way(&self, other: &Move) -> bool {
        match (self, other) {
            (Move::Send { to: a, .. }, Move::Send { to: b, .. }) => a == b,
            (Move::Receive { from: a, .. }, Move::Receive { from: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// A communication op made ready to run: where its bytes lie and what is done with them.
#[derive(Clone, Debug)]
pub struct Transfer {
    comm: CommId,
    views: Vec<View>,
    moves: Arc<[Move]>,
    /// What a collective without scratch of its own in the plan receives into; `views` points here.
    _scratch: Option<Arc<Memory>>,
}

/// What makes two collectives of a rank use the same list of moves.
type Key = (Collective, Algorithm, CommId, usize, Option<usize>, bool);

/// Makes transfers, sharing lists of moves between like collectives: a plan repeats few of them many times.
#[derive(Debug)]
pub struct Transfers<'a> {
    rank: Rank,
    splits: &'a [Split],
    known: HashMap<Key, Arc<[Move]>>,
}

impl<'a> Transfers<'a> {
    /// For a rank's ops over these splits of the world.
    pub fn new(rank: Rank, splits: &'a [Split]) -> Self {
        Transfers { rank, splits, known: HashMap::new() }
    }

    /// The transfer of a communication op on the rank's memory; `None` if the action is none.
    ///
    /// # Panics
    /// If the action does not fit the splits, or asks for an algorithm that does not exist: the checker finds such
    /// plans.
    pub fn make(&mut self, action: &Action, memory: &Memory) -> Option<Transfer> {
        Some(match action {
            Action::Exchange { comm, sends, recvs } => {
                let regions = sends.iter().chain(recvs).map(|message| memory.view(message.region));
                let part = |view: usize, region: &Region| Part { view, range: 0..region.len };
                let moves = sends.iter().enumerate().map(|(i, message)| Move::Send {
                    to: message.peer,
                    from: part(i, &message.region),
                    control: message.payload == Payload::Scalars,
                });
                let moves = moves.chain(recvs.iter().enumerate().map(|(i, message)| Move::Receive {
                    from: message.peer,
                    into: part(sends.len() + i, &message.region),
                }));
                Transfer { comm: *comm, views: regions.collect(), moves: moves.collect(), _scratch: None }
            }
            Action::Collective(call) => self.collective(memory, call),
            _ => return None,
        })
    }

    fn collective(&mut self, memory: &Memory, call: &Call) -> Transfer {
        let Call { comm, what, algorithm, region, scratch, .. } = *call;
        let control = call.payload == Payload::Scalars;
        let capacity = scratch.map(|scratch| scratch.len);
        let key = (what, algorithm, comm, region.len, capacity, control);
        let (rank, splits) = (self.rank, self.splits);
        let moves = self.known.entry(key).or_insert_with(|| {
            let members = splits[comm].set_of(rank).expect("a member of the communicator");
            let steps = steps(what, algorithm, members, rank, region.len)
                .unwrap_or_else(|| panic!("{what:?} has no algorithm {algorithm:?}"));
            // Without scratch in the plan (the flat all-reduce of a few scalars) the buffer holds one message.
            flatten(&steps, capacity.unwrap_or(region.len), control)
        });
        let mut views = vec![memory.view(region)];
        let mut own = None;
        if let Some(scratch) = scratch {
            views.push(memory.view(scratch));
        } else if moves.iter().any(|one| matches!(one, Move::Add { .. })) {
            let (name, elems, dtype) = ("partial sums".into(), region.len, views[0].dtype());
            let slot = Slot { name, elems, dtype, segment: Segment::Workspace, holds: None };
            let buffer = own.insert(Arc::new(Memory::new(&[slot])));
            views.push(buffer.slot(0));
        }
        Transfer { comm, views, moves: moves.clone(), _scratch: own }
    }
}

/// A member's steps as moves: what is summed comes into the scratch first, whose pieces are used in turn.
fn flatten(steps: &[Step], capacity: usize, control: bool) -> Arc<[Move]> {
    let summed = steps.iter().filter(|step| step.sum).filter_map(|step| step.recv.as_ref());
    let piece = summed.map(|part| part.range.len()).max().unwrap_or(0);
    assert!(piece <= capacity, "a reduction needs {piece} elements of scratch and has {capacity}");
    let pieces = capacity.checked_div(piece).unwrap_or(0);
    let mut moves = Vec::new();
    let mut received = 0;
    for step in steps {
        if let Some(part) = &step.send {
            moves.push(Move::Send { to: part.peer, from: Part { view: 0, range: part.range.clone() }, control });
        }
        let Some(part) = &step.recv else { continue };
        let into = Part { view: 0, range: part.range.clone() };
        if step.sum {
            let start = received % pieces * piece;
            received += 1;
            let scratch = Part { view: 1, range: start..start + part.range.len() };
            moves.push(Move::Receive { from: part.peer, into: scratch.clone() });
            moves.push(Move::Add { from: scratch, into });
        } else {
            moves.push(Move::Receive { from: part.peer, into });
        }
    }
    moves.into()
}

impl Transfer {
    fn view(&self, part: &Part) -> View {
        self.views[part.view].sub(part.range.clone())
    }
}

/// How far a move has come.
#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Flying(Request),
    Done,
}

/// How far a transfer has come. Reused from op to op.
#[derive(Debug, Default)]
pub struct Progress {
    /// First move that is not done.
    first: usize,
    /// States of the moves from `first` on; move i is at i mod [`WINDOW`].
    states: [State; WINDOW],
}

/// What [`Progress::advance`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All moves are done.
    Complete,
    /// Something started or ended.
    Moved,
    /// Nothing changed.
    Still,
}

/// The message that a transfer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A rank that should take a message.
    Send(Rank),
    /// A rank that should send a message.
    Receive(Rank),
}

impl Progress {
    /// Starts what can start and completes what is complete; never waits. After [`Advance::Complete`] it is ready for
    /// the next transfer.
    pub fn advance(
        &mut self,
        transfer: &Transfer,
        wire: &mut dyn Wire,
        sent: &mut Sent,
    ) -> Result<Advance, FabricError> {
        let moves = &transfer.moves;
        let mut moved = false;
        let window = self.first..moves.len().min(self.first + WINDOW);
        for i in window.clone() {
            let state = match std::mem::take(&mut self.states[i % WINDOW]) {
                State::Waiting if self.ready(moves, window.start, i) => {
                    moved = true;
                    start(transfer, &moves[i], wire, sent)?
                }
                State::Flying(request) => match wire.test(request)? {
                    Some(request) => State::Flying(request),
                    None => {
                        moved = true;
                        State::Done
                    }
                },
                state => state,
            };
            self.states[i % WINDOW] = state;
        }
        while self.first < window.end && matches!(self.states[self.first % WINDOW], State::Done) {
            self.states[self.first % WINDOW] = State::Waiting;
            self.first += 1;
        }
        if self.first == moves.len() {
            self.first = 0;
            return Ok(Advance::Complete);
        }
        Ok(if moved { Advance::Moved } else { Advance::Still })
    }

    fn ready(&self, moves: &[Move], first: usize, i: usize) -> bool {
        (first..i).all(|j| match self.states[j % WINDOW] {
            State::Done => true,
            State::Flying(_) => !moves[j].blocks(&moves[i]),
            State::Waiting => !moves[j].blocks(&moves[i]) && !moves[j].same_way(&moves[i]),
        })
    }

    /// What is in the way of the first unfinished move.
    pub fn pending(&self, transfer: &Transfer) -> Option<Pending> {
        transfer.moves[self.first..].iter().find_map(|one| match one {
            Move::Send { to, .. } => Some(Pending::Send(*to)),
            Move::Receive { from, .. } => Some(Pending::Receive(*from)),
            Move::Add { .. } => None,
        })
    }
}

fn start(transfer: &Transfer, one: &Move, wire: &mut dyn Wire, sent: &mut Sent) -> Result<State, FabricError> {
    Ok(match one {
        Move::Send { to, from, control } => {
            let data = transfer.view(from);
            sent.count(*to, data.bytes(), *control);
            State::Flying(wire.send(transfer.comm, *to, data)?)
        }
        Move::Receive { from, into } => State::Flying(wire.receive(transfer.comm, *from, transfer.view(into))?),
        Move::Add { from, into } => {
            wire.add(transfer.view(from), transfer.view(into))?.map_or(State::Done, State::Flying)
        }
    })
}
