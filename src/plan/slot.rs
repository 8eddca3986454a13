//! Statically allocated memory and the regions of it that operations name.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::model::{Dtype, ShardId};

/// Index of a slot in its rank's plan.
pub type SlotId = usize;

/// What a slot is for: the rows of the memory table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// f32 master weights.
    Master,
    /// AdamW's first moment.
    Moment1,
    /// AdamW's second moment.
    Moment2,
    /// The owner's copy in the compute dtype (none if that is f32: the master serves).
    Home,
    /// Weights of other ranks' shards, passing through.
    Ring,
    /// Weights of other ranks' shards, kept through an iteration.
    Cache,
    /// Gradients of the shard in work or on their way.
    Gradient,
    /// f32 sums over the iteration of gradients of other ranks' shards.
    GradientSum,
    /// f32 sums of gradients over the iteration.
    Accumulator,
    /// Inputs and outputs of units, and gradients with respect to them.
    Activation,
    /// What forward keeps for backward inside a unit.
    Saved,
    /// What a split backward keeps until the gradient of the parameters is computed.
    Pending,
    /// Scratch of one operation.
    Workspace,
    /// Token ids of a micro-batch: inputs, then targets.
    Tokens,
    /// Numbers that differ from step to step, see [`super::step`] and [`super::stats`].
    Scalars,
}

/// A statically allocated buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// For defects and traces, unique on its rank.
    pub name: String,
    /// Number of elements.
    pub elems: usize,
    /// Their type.
    pub dtype: Dtype,
    /// What it is for.
    pub segment: Segment,
    /// For slots that live through the run (master, moments, home, accumulator): the parameters they hold.
    pub holds: Option<Holding>,
}

/// The parameters that a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which shard.
    pub shard: ShardId,
    /// Elements of it.
    pub range: Range<usize>,
    /// Of several copies exactly one is the one that is written to checkpoints and counted in norms.
    pub primary: bool,
}

impl Slot {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elems * self.dtype.bytes()
    }
}

/// A run of elements of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// Which slot.
    pub slot: SlotId,
    /// First element.
    pub start: usize,
    /// Number of elements.
    pub len: usize,
}

impl Region {
    /// Elements `range` of a slot.
    pub fn new(slot: SlotId, range: Range<usize>) -> Self {
        Region { slot, start: range.start, len: range.len() }
    }

    /// The elements within the slot.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Whether two regions share an element.
    pub fn overlaps(&self, other: &Region) -> bool {
        self.slot == other.slot && self.start < other.start + other.len && other.start < self.start + self.len
    }

    /// Elements `range` of this region.
    pub fn sub(&self, range: Range<usize>) -> Self {
        debug_assert!(range.end <= self.len);
        Region { slot: self.slot, start: self.start + range.start, len: range.len() }
    }
}
