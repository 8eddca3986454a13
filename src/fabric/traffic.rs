//! How many bytes went where.

use std::collections::BTreeMap;

use crate::cluster::{Groups, Rank};
use crate::plan::tables::{self, Bytes, Traffic};
use crate::plan::{Op, RankPlan, Split};

/// Bytes a rank sent to every rank of the world, counted when a message starts. The plan predicts the same numbers:
/// [`crate::plan::tables::sent`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent(Vec<Bytes>);

impl Sent {
    /// Nothing sent yet, in a world of this size.
    pub fn new(ranks: usize) -> Self {
        Sent(vec![Bytes::default(); ranks])
    }

    /// What a rank sends in one pass over one of its lists by the algorithms that the plan names: what is reported where
    /// the messages themselves cannot be counted. NCCL may do otherwise; it does not tell.
    pub fn planned(ranks: usize, splits: &[Split], plan: &RankPlan, ops: &[Op]) -> Self {
        let mut sent = Sent::new(ranks);
        tables::sent(splits, plan, ops).into_iter().for_each(|(to, bytes)| sent.0[to] = bytes);
        sent
    }

    /// Counts a message; `control` for scalars.
    pub(super) fn count(&mut self, to: Rank, bytes: usize, control: bool) {
        *(if control { &mut self.0[to].control } else { &mut self.0[to].data }) += bytes;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.fill(Bytes::default());
    }

    /// The ranks that were sent something, and how much.
    pub fn table(&self) -> BTreeMap<Rank, Bytes> {
        self.0.iter().copied().enumerate().filter(|(_, bytes)| *bytes != Bytes::default()).collect()
    }

    /// Sums by link class, for the sender `from`.
    pub fn traffic(&self, from: Rank, groups: &Groups) -> Traffic {
        let near = groups.members(groups.group_of(from));
        let mut traffic = Traffic::default();
        for (to, bytes) in self.0.iter().enumerate() {
            traffic.control += bytes.control;
            *(if near.contains(&to) { &mut traffic.intra } else { &mut traffic.inter }) += bytes.data;
        }
        traffic
    }
}
