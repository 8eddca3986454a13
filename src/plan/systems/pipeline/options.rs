//! Options of pipelines.

use serde::{Deserialize, Serialize};

/// Options of `gpipe` and `1f1b`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineOptions {
    /// Ranks stand still while their messages go, as in Megatron's default, instead of computing.
    pub blocking: bool,
}

/// Options of `1f1b-interleaved`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterleavedOptions {
    /// Chunks of the model a rank.
    pub chunks: usize,
    /// Ranks stand still while their messages go, instead of computing.
    pub blocking: bool,
}

impl Default for InterleavedOptions {
    fn default() -> Self {
        InterleavedOptions { chunks: 2, blocking: false }
    }
}
