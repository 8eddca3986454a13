//! The host's eye on a pass: what is complete, whether anything moves, and what does not.

use std::time::{Duration, Instant};

use crate::cluster::Rank;
use crate::fabric::nccl::{Calls, Nccl, words};
use crate::fabric::{FabricError, NAP};
use crate::plan::{Lane, OpId};

use super::{EngineError, Lanes, Options, Phase, Queues, Script};
use crate::engine::Poll;

/// How often NCCL is asked whether something went wrong.
const ASK: Duration = Duration::from_millis(5);

/// A lane's part of a pass.
struct Progress<'a> {
    list: &'a [OpId],
    /// Ops of the list that have been enqueued.
    put: usize,
    /// Ops of the list that are complete.
    complete: usize,
}

/// Follows one pass.
pub(super) struct Watch<'a> {
    rank: Rank,
    phase: Phase,
    script: &'a Script<Calls>,
    queues: &'a Queues,
    options: &'a Options,
    lanes: Vec<Progress<'a>>,
    /// For each op, whether it is complete.
    complete: Vec<bool>,
    /// When something was last seen to move.
    alive: Instant,
    /// When NCCL was last asked.
    asked: Instant,
}

impl<'a> Watch<'a> {
    pub fn new(rank: Rank, phase: Phase, script: &'a Script<Calls>, queues: &'a Queues, options: &'a Options) -> Self {
        let lanes = std::iter::once(&script.compute).chain(&script.comm);
        let lanes = lanes.map(|list| Progress { list, put: 0, complete: 0 }).collect();
        let (alive, asked) = (Instant::now(), Instant::now());
        Watch { rank, phase, script, queues, options, lanes, complete: vec![false; script.ops.len()], alive, asked }
    }

    /// Says that an op has been enqueued.
    pub fn put(&mut self, op: OpId) {
        self.lanes[self.script.ops[op].lane.index()].put += 1;
        self.alive = Instant::now();
    }

    /// Ops of a lane that are enqueued and, when last looked at, not complete.
    pub fn open(&self, lane: Lane) -> usize {
        let lane = &self.lanes[lane.index()];
        lane.put - lane.complete
    }

    /// Whether everything is complete.
    pub fn is_over(&self) -> bool {
        self.lanes.iter().all(|lane| lane.complete == lane.list.len())
    }

    /// Looks until `done`; fails if the GPU or NCCL does, or nothing moves for too long.
    pub fn until(&mut self, nccl: Option<&Nccl>, done: impl Fn(&Self) -> bool) -> Result<(), EngineError> {
        while !done(self) {
            let moved = self.look()?;
            if self.asked.elapsed() > ASK {
                nccl.map_or(Ok(()), Nccl::check).map_err(|source| self.failed(self.stuck(), source))?;
                self.asked = Instant::now();
            }
            if moved || self.computes() {
                self.alive = Instant::now();
            } else if self.alive.elapsed() > self.options.timeout {
                return Err(self.stalled());
            }
            match self.options.poll {
                _ if moved => {}
                Poll::Spin => std::thread::yield_now(),
                Poll::Nap => std::thread::sleep(NAP),
            }
        }
        Ok(())
    }

    /// Notes what has been completed since the last look.
    fn look(&mut self) -> Result<bool, EngineError> {
        let mut moved = false;
        for lane in &mut self.lanes {
            while lane.complete < lane.put {
                let op = lane.list[lane.complete];
                let complete = self.queues.is_complete(op);
                if !complete.map_err(|source| EngineError::Device { rank: self.rank, source })? {
                    break;
                }
                self.complete[op] = true;
                lane.complete += 1;
                moved = true;
            }
        }
        Ok(moved)
    }

    /// The op that a lane is at, if it is enqueued.
    fn current(&self, lane: &Progress) -> Option<OpId> {
        (lane.complete < lane.put).then(|| lane.list[lane.complete])
    }

    /// What an op waits for on other lanes.
    fn awaited(&self, op: OpId) -> Option<OpId> {
        self.script.foreign[op].iter().copied().find(|&wait| !self.complete[wait])
    }

    /// Whether the compute lane is at work, which may take as long as it likes.
    fn computes(&self) -> bool {
        self.current(&self.lanes[0]).is_some_and(|op| self.awaited(op).is_none())
    }

    /// The op that keeps the others waiting: the first in issue order that could end.
    fn stuck(&self) -> OpId {
        let current = || self.lanes.iter().filter_map(|lane| self.current(lane));
        let free = current().filter(|&op| self.awaited(op).is_none()).min();
        free.or_else(|| current().min()).unwrap_or(self.script.ops.len() - 1)
    }

    fn what(&self, op: OpId) -> String {
        self.script.ops[op].action.to_string()
    }

    /// A failure of NCCL, at an op.
    pub fn failed(&self, op: OpId, source: FabricError) -> EngineError {
        EngineError::Fabric { rank: self.rank, phase: self.phase.name(), op, what: self.what(op), source }
    }

    /// Names what does not end.
    fn stalled(&self) -> EngineError {
        let op = self.stuck();
        let cause = match self.awaited(op) {
            Some(wait) => format!("op {wait} ({})", self.what(wait)),
            None => {
                let peers = self.script.transfers[op].as_ref().map_or(&[][..], |calls| &calls.peers);
                if peers.is_empty() { "the GPU".into() } else { format!("{} to take part", words(peers)) }
            }
        };
        EngineError::Stalled {
            rank: self.rank,
            seconds: self.options.timeout.as_secs(),
            phase: self.phase.name(),
            op,
            what: self.what(op),
            cause,
        }
    }
}
