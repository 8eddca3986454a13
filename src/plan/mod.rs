//! A parallel system as a value: what every rank computes and sends, in which order, in which memory.
//!
//! A [`Job`] goes in, one [`RankPlan`] a rank comes out; the same plan is checked, measured in bytes, simulated, drawn
//! and run. No MPI, no device and no clock in here.

mod build;
pub mod check;
pub mod collective;
mod job;
mod op;
mod remarks;
mod slot;
pub mod systems;
pub mod tables;
mod text;
mod timeline;

pub use job::{Batch, Job, MOST_GLOBAL, MOST_SEQ, Refusal};
pub use op::{
    Access, Action, Algorithm, Call, CommId, HeadGradient, Lane, Message, Op, OpId, Payload, REDUCE_CHUNK,
    REDUCE_CHUNKS, Work, applies, stats, step,
};
pub use remarks::remarks;
pub use slot::{Holding, Region, Segment, Slot, SlotId};
pub use timeline::{Span, Timeline};

use crate::cluster::{Groups, Rank};

/// A split of the world into disjoint rank sets, each with a communicator of its own. A rank in no set takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// For messages and traces, such as `hop` or `broadcast`.
    pub name: &'static str,
    /// The rank sets; ranks ascend within a set.
    pub sets: Vec<Vec<Rank>>,
}

impl Split {
    /// The ranks of each group.
    pub fn inside(name: &'static str, groups: &Groups) -> Self {
        Split { name, sets: (0..groups.count()).map(|group| groups.members(group).collect()).collect() }
    }

    /// Ranks of equal index in their groups: set j holds the j-th rank of every group that has one.
    pub fn across(name: &'static str, groups: &Groups) -> Self {
        let width = groups.sizes().into_iter().max().unwrap_or(0);
        let set = |j| (0..groups.count()).filter_map(|group| groups.members(group).nth(j)).collect();
        Split { name, sets: (0..width).map(set).collect() }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Both splits hold every rank once, also in groups of different sizes.
    #[test]
    fn splits_of_groups() {
        let groups = Groups::new(&[1, 3, 2]);
        assert_eq!(Split::inside("", &groups).sets, [vec![0], vec![1, 2, 3], vec![4, 5]]);
        assert_eq!(Split::across("", &groups).sets, [vec![0, 1, 4], vec![2, 5], vec![3]]);
    }
}
