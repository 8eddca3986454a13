//! What a system is asked to plan.

use crate::cluster::{Costs, Groups};
use crate::model::{Dtype, ModelShape, Recompute};

use super::systems::SystemOptions;

/// Sequences of one iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Micro-batches of an iteration, over all ranks; micro-batch m runs on rank m mod N in weight-moving systems.
    pub micros: usize,
}

impl Batch {
    /// Tokens of one micro-batch.
    pub fn micro_tokens(&self) -> usize {
        self.seq * self.micro
    }

    /// Target tokens of an iteration.
    pub fn tokens(&self) -> usize {
        self.micro_tokens() * self.micros
    }

    /// Rounds of one micro-batch a rank that `ranks` ranks need; the last may be partly empty.
    pub fn rounds(&self, ranks: usize) -> usize {
        self.micros.div_ceil(ranks)
    }
}

/// Everything a plan depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The model.
    pub shape: ModelShape,
    /// The ranks.
    pub groups: Groups,
    /// The work of an iteration.
    pub batch: Batch,
    /// Type of weights and activations in computation and on the wire.
    pub dtype: Dtype,
    /// Type of gradients on the wire.
    pub grad_dtype: Dtype,
    /// What is kept between forward and backward.
    pub recompute: Recompute,
    /// What pipeline systems spread blocks by and order their work by.
    pub costs: Costs,
    /// Bytes a rank may use, where the user says so.
    pub memory: Option<usize>,
    /// The parallel system and its options.
    pub system: SystemOptions,
}

/// Why a system cannot run a job; a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
