//! A parallel system as a value: what every rank computes and sends, in which order, in which memory.
//!
//! A [`Job`] goes in, one [`RankPlan`] a rank comes out; the same plan is checked, measured in bytes, simulated, drawn
//! and run. No MPI, no device and no clock in here.

mod build;
pub mod check;
pub mod collective;
mod job;
mod op;
mod slot;
pub mod systems;
pub mod tables;
mod text;
mod timeline;

pub use job::{Batch, Job, Refusal};
pub use op::{
    Access, Action, Algorithm, CommId, HeadGradient, Lane, Message, Op, OpId, Payload, REDUCE_CHUNK, REDUCE_CHUNKS,
    Work, stats, step,
};
pub use slot::{Region, Segment, Slot, SlotId};
pub use timeline::{Span, Timeline};

use crate::cluster::Rank;

/// A split of the world into disjoint rank sets, each with a communicator of its own. A rank in no set takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// For messages and traces, such as `hop` or `broadcast`.
    pub name: &'static str,
    /// The rank sets; ranks ascend within a set.
    pub sets: Vec<Vec<Rank>>,
}

impl Split {
    /// The set a rank belongs to.
    pub fn set_of(&self, rank: Rank) -> Option<&[Rank]> {
        self.sets.iter().find(|set| set.contains(&rank)).map(Vec::as_slice)
    }
}

/// What one rank does: its memory and its lists of operations in issue order.
#[derive(Clone, Debug, PartialEq)]
pub struct RankPlan {
    /// Whose plan.
    pub rank: Rank,
    /// All memory the rank uses.
    pub slots: Vec<Slot>,
    /// Number of communication lanes.
    pub comm_lanes: usize,
    /// Run once after the masters are loaded: fills what is derived from them.
    pub prepare: Vec<Op>,
    /// One training iteration. Waits count from the list's start; nothing is in flight when it begins or ends.
    pub train: Vec<Op>,
    /// One pass over [`Batch::micros`] micro-batches, forward only; adds to the loss statistic.
    pub evaluate: Vec<Op>,
}
