//! What a deck chooses for these systems.

use serde::{Deserialize, Serialize};

use crate::plan::Refusal;

/// How often gradients are summed over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradSync {
    /// In every round, in which each rank computes one micro-batch.
    Round,
    /// In the last round of an iteration only.
    Iteration,
}

/// Options of `ddp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DdpOptions {
    /// Blocks whose gradients are summed together.
    pub blocks_per_shard: usize,
    /// Whether a rank keeps master weights and optimizer state only for its own piece of every shard (ZeRO stage 1).
    pub zero1: bool,
}

impl Default for DdpOptions {
    fn default() -> Self {
        DdpOptions { blocks_per_shard: 1, zero1: false }
    }
}

/// Options of `fsdp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsdpOptions {
    /// Blocks that are gathered together.
    pub blocks_per_shard: usize,
    /// How many shards are gathered before they are needed. With 0 a rank waits for every all-gather, which is what the
    /// TawPipe paper's figures for FSDP suggest.
    pub prefetch: usize,
    /// When gradients are summed over all ranks; `iteration` keeps whole gradients on every rank.
    pub sync: GradSync,
    /// Whether gathered weights are freed after their forward and gathered again for the backward; else they are kept until
    /// the update.
    pub reshard_after_forward: bool,
}

impl Default for FsdpOptions {
    fn default() -> Self {
        FsdpOptions { blocks_per_shard: 1, prefetch: 1, sync: GradSync::Round, reshard_after_forward: true }
    }
}

/// Options of `hsdp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HsdpOptions {
    /// Blocks that are gathered together.
    pub blocks_per_shard: usize,
    /// How many shards are gathered before they are needed. With 0 a rank waits for every all-gather, which is what the
    /// TawPipe paper's figures for FSDP suggest.
    pub prefetch: usize,
    /// When gradients are summed across groups; inside a group they are summed in every round.
    pub sync: GradSync,
    /// Whether gathered weights are freed after their forward and gathered again for the backward; else they are kept until
    /// the update.
    pub reshard_after_forward: bool,
}

impl Default for HsdpOptions {
    fn default() -> Self {
        HsdpOptions { blocks_per_shard: 1, prefetch: 1, sync: GradSync::Iteration, reshard_after_forward: true }
    }
}

/// Refuses an option that must not be 0.
pub fn positive(key: &str, value: usize) -> Result<(), Refusal> {
    if value > 0 { Ok(()) } else { Err(Refusal(format!("system.{key} = 0; it must be at least 1"))) }
}
