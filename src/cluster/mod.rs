//! The machine a job runs on: which ranks share a fast link.

mod costs;
mod description;

use std::ops::Range;

pub use costs::{Costs, UnitCost};
pub use description::{
    Description, DescriptionError, DeviceRates, Duplex, InterLink, IntraLink, Links, Node, Overhead, Rates,
};
use serde::{Deserialize, Serialize};

/// Most ranks that are accepted.
pub const MOST_RANKS: usize = 1 << 16;

/// Number of a rank, counted group by group.
pub type Rank = usize;

/// Groups of ranks that share a fast link, normally one a node. Ranks are numbered group by group, so a group is a
/// range of ranks. Groups may differ in size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// First rank of every group, and one past the last rank.
    starts: Vec<Rank>,
}

impl Groups {
    /// Groups of these sizes.
    ///
    /// # Panics
    /// If there is no group or an empty one.
    pub fn new(sizes: &[usize]) -> Self {
        assert!(!sizes.is_empty() && sizes.iter().all(|&s| s > 0), "groups must not be empty: {sizes:?}");
        let mut starts = vec![0];
        for size in sizes {
            starts.push(starts[starts.len() - 1] + size);
        }
        Groups { starts }
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.starts[self.count()]
    }

    /// Ranks of a group.
    pub fn members(&self, group: usize) -> Range<Rank> {
        self.starts[group]..self.starts[group + 1]
    }

    /// Number of ranks in a group.
    pub fn size(&self, group: usize) -> usize {
        self.members(group).len()
    }

    /// Group and index inside it.
    pub fn locate(&self, rank: Rank) -> (usize, usize) {
        let group = self.starts.partition_point(|&start| start <= rank) - 1;
        (group, rank - self.starts[group])
    }

    /// Group of a rank.
    pub fn group_of(&self, rank: Rank) -> usize {
        self.locate(rank).0
    }

    /// Sizes of all groups.
    pub fn sizes(&self) -> Vec<usize> {
        (0..self.count()).map(|g| self.size(g)).collect()
    }
}
