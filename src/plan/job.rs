//! What a system is asked to plan.

use crate::cluster::{Costs, Groups, MOST_RANKS};
use crate::model::{Dtype, ModelShape, Recompute};

use super::systems::SystemOptions;

/// Longest sequence that is accepted, in tokens.
pub const MOST_SEQ: usize = 1 << 24;
/// Most sequences of an iteration.
pub const MOST_GLOBAL: usize = 1 << 20;
/// Most tokens of an iteration, some 10^15.
const MOST_TOKENS: u128 = 1 << 50;
/// Largest amount of bytes, or of floating point numbers, that anything of a plan may come to.
const MOST_BYTES: u128 = 1 << 62;
/// Most blocks times micro-batches or ranks, which is what the length of plans grows with: minutes of planning, and tens of
/// GB of plans.
const MOST_WORK: u128 = 1 << 21;

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

impl Job {
    /// Checks that every size of the job, alone and multiplied with those that it is multiplied with anywhere, is in range.
    /// What follows computes with them without looking.
    ///
    /// # Errors
    /// A sentence that names the keys and their range.
    pub fn check(&self) -> Result<(), Refusal> {
        self.shape.validate().map_err(|error| Refusal(error.to_string()))?;
        let Batch { seq, micro, micros } = self.batch;
        let ranks = self.groups.ranks();
        if seq == 0 || micro == 0 || micros == 0 {
            return Err(Refusal(format!(
                "an empty batch: {micros} micro-batches of {micro} sequences of {seq} tokens"
            )));
        }
        for (name, value, most) in [
            ("data.seq", seq, MOST_SEQ),
            ("batch.micro", micro, MOST_GLOBAL),
            ("the number of micro-batches, batch.global / batch.micro", micros, MOST_GLOBAL),
            ("the number of ranks", ranks, MOST_RANKS),
        ] {
            if value > most {
                return Err(Refusal(format!("{name} = {value} is too large; it must be at most {most}")));
            }
        }
        let wide = |value: usize| value as u128;
        let shape = &self.shape;
        let tokens = wide(seq) * wide(micro) * wide(micros);
        // More than any unit keeps of a token, in any type, and more than any rank sends of a parameter.
        let widths = [shape.dim, shape.q_dim(), shape.kv_dim(), shape.ffn, shape.heads, shape.vocab];
        let activations = tokens * 32 * widths.map(wide).iter().sum::<u128>() * (wide(shape.layers) + 2);
        let weights = wide(shape.params()) * 16 * (wide(micros) + wide(ranks));
        let work = (wide(shape.layers) + 2) * wide(micros).max(wide(ranks));
        for (what, value, most) in [
            ("batch.global x data.seq tokens of a step", tokens, MOST_TOKENS),
            ("bytes of the activations of a step (batch.global, data.seq, model)", activations, MOST_BYTES),
            ("bytes of the messages of a step (batch.global / batch.micro, ranks, model)", weights, MOST_BYTES),
            ("model.layers x the larger of micro-batches and ranks", work, MOST_WORK),
        ] {
            if value > most {
                return Err(Refusal(format!("{what}: {value} are too many; at most {most} are possible")));
            }
        }
        Ok(())
    }
}

/// Why a system cannot run a job; a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);
