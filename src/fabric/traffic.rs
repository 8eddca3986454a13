//! How many bytes went where.

use std::collections::BTreeMap;

use crate::cluster::{Groups, Rank};
use crate::plan::tables::{Bytes, Traffic};

/// Bytes a rank sent to every rank of the world, counted when a message starts. The plan predicts the same numbers:
/// [`crate::plan::tables::sent`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent(Vec<Bytes>);

impl Sent {
    /// Nothing sent yet, in a world of this size.
    pub fn new(ranks: usize) -> Self {
        Sent(vec![Bytes::default(); ranks])
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
