//! Options of pipelines.

use serde::{Deserialize, Serialize};

/// Options of `gpipe` and `1f1b`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineOptions {
    /// Whether a rank waits until its messages have been sent and received, as in Megatron's default, instead of computing
    /// meanwhile.
    pub blocking: bool,
}

/// Options of `1f1b-interleaved`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterleavedOptions {
    /// Chunks of the model on each rank.
    pub chunks: usize,
    /// Whether a rank waits until its messages have been sent and received, instead of computing meanwhile.
    pub blocking: bool,
}

impl Default for InterleavedOptions {
    fn default() -> Self {
        InterleavedOptions { chunks: 2, blocking: false }
    }
}
