//! How many bytes a unit's forward keeps for its backward, and how many it needs while it runs.

use serde::{Deserialize, Serialize};

use super::{Dtype, ModelShape, Unit};

/// What is kept between a block's forward and its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Keep everything backward reads.
    None,
    /// Keep only the block's input and run its forward again before its backward.
    Block,
}

/// Memory of one unit on one micro-batch, in bytes; every device obeys it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Kept from forward (or recomputation) until backward, beside the unit's input.
    pub saved: usize,
    /// Scratch while any op of the unit runs.
    pub workspace: usize,
}

/// Bytes a unit needs for a micro-batch of `micro` sequences of `seq` tokens.
pub fn footprint(shape: &ModelShape, unit: Unit, dtype: Dtype, micro: usize, seq: usize) -> Footprint {
    let _ = (shape, unit, dtype, micro, seq);
    Footprint { saved: 0, workspace: 0 }
}
