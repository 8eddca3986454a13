//! What all ranks know alike: which run of blocks is where in which turn, and who works with it.
//!
//! A run of blocks that moves on by a rank a turn keeps the difference between turn and rank, but for the step from the
//! last rank to the first, which adds the number of ranks to it. That difference is a rank's local turn, so "who works
//! with this run later" is a question about local turns.

use std::ops::Range;

use crate::cluster::Rank;
use crate::model::ShardId;
use crate::plan::Job;

/// What a rank does in its local turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Forward of a round and backward of the round before, in the same turn.
    Interleave,
    /// All forwards of a round, then all its backwards.
    Naive,
    /// Forward only.
    Evaluate,
}

/// Which work of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Forward,
    Backward,
}

/// Number of a run of blocks, of which there are as many as ranks.
pub type Run = usize;

/// The blocks of a run.
pub fn blocks(job: &Job, run: Run) -> Range<usize> {
    let (layers, ranks) = (job.shape.layers, job.groups.ranks());
    run * layers / ranks..(run + 1) * layers / ranks
}

/// The shard of each run, if it has any blocks. Shard 0 is the embedding.
pub fn runs(job: &Job) -> Vec<Option<ShardId>> {
    let mut next = 1;
    let shard = |run| {
        (!blocks(job, run).is_empty()).then(|| {
            next += 1;
            next - 1
        })
    };
    (0..job.groups.ranks()).map(shard).collect()
}

/// The rank that owns a run: where the forward flow must begin for rank 0 to find run t at turn t.
pub fn owner(ranks: usize, run: Run) -> Rank {
    (ranks - run) % ranks
}

/// All ranks on one clock.
pub struct Ring {
    pub ranks: usize,
    micros: usize,
    order: Order,
}

impl Ring {
    pub fn new(job: &Job, order: Order) -> Self {
        Ring { ranks: job.groups.ranks(), micros: job.batch.micros, order }
    }

    /// Rounds in which a rank has a micro-batch.
    pub fn rounds(&self, rank: Rank) -> usize {
        (self.micros + self.ranks - 1 - rank) / self.ranks
    }

    /// Turns until the last rank is done.
    pub fn turns(&self) -> usize {
        let passes = match self.order {
            Order::Interleave => self.rounds(0) + 1,
            Order::Naive => 2 * self.rounds(0),
            Order::Evaluate => self.rounds(0),
        };
        passes * self.ranks + self.ranks - 1
    }

    /// The round that a rank works on in a local turn.
    fn round(&self, way: Way, rank: Rank, local: isize) -> Option<usize> {
        let pass = usize::try_from(local).ok()? / self.ranks;
        let round = match (self.order, way) {
            (Order::Interleave | Order::Evaluate, Way::Forward) => pass,
            (Order::Interleave, Way::Backward) => pass.checked_sub(1)?,
            (Order::Naive, Way::Forward) if pass.is_multiple_of(2) => pass / 2,
            (Order::Naive, Way::Backward) if !pass.is_multiple_of(2) => pass / 2,
            _ => return None,
        };
        (round < self.rounds(rank)).then_some(round)
    }

    /// The round that a rank works on in a turn.
    pub fn work(&self, way: Way, rank: Rank, turn: usize) -> Option<usize> {
        self.round(way, rank, turn as isize - rank as isize)
    }

    /// The run that is at a rank in a turn; of the backward flow from turn N on.
    pub fn run(&self, way: Way, rank: Rank, turn: usize) -> Run {
        let (n, turn) = (self.ranks, turn % self.ranks);
        match way {
            Way::Forward => (turn + n - rank) % n,
            Way::Backward => (rank + 2 * n - turn - 1) % n,
        }
    }

    /// Whether anyone works later with what is at a rank in a turn. Lower ranks have as many rounds or more.
    pub fn later(&self, way: Way, rank: Rank, turn: usize) -> bool {
        let (n, local) = (self.ranks as isize, turn as isize - rank as isize);
        let next = rank + 1 < self.ranks && self.round(way, rank + 1, local).is_some();
        let turns = self.turns() as isize;
        let mut around = (1..).map(|times| local + times * n).take_while(|&local| local < turns);
        next || around.any(|local| self.round(way, 0, local).is_some())
    }

    /// Whether anyone has worked earlier with what is at a rank in a turn.
    pub fn earlier(&self, way: Way, rank: Rank, turn: usize) -> bool {
        let (n, local) = (self.ranks as isize, turn as isize - rank as isize);
        let before = rank > 0 && self.round(way, 0, local).is_some();
        let mut around = (1..).map(|times| local - times * n).take_while(|&local| local >= 0);
        before || around.any(|local| self.round(way, 0, local).is_some())
    }

    /// Whether what is at a rank in a turn is of use, to it or later.
    pub fn needs(&self, way: Way, rank: Rank, turn: usize) -> bool {
        turn < self.turns() && (self.work(way, rank, turn).is_some() || self.later(way, rank, turn))
    }

    /// The rank that completes a run's gradient, and the turn in which it does.
    pub fn last(&self, run: Run) -> (Rank, usize) {
        let rank = (self.micros - 1) % self.ranks;
        let passes = match self.order {
            Order::Interleave => self.rounds(0) + 1,
            _ => 2 * self.rounds(0),
        };
        (rank, rank + passes * self.ranks - 1 - run)
    }

    /// The turn in which the last rank is done with the head of its last round.
    pub fn last_head(&self) -> usize {
        let head = |rank: Rank| {
            let rounds = self.rounds(rank).checked_sub(1)?;
            let passes = if self.order == Order::Naive { 2 * rounds } else { rounds };
            Some(rank + (passes + 1) * self.ranks - 1)
        };
        (0..self.ranks).filter_map(head).max().expect("rank 0 has a micro-batch")
    }
}
