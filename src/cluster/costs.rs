//! What the parts of a model cost in time, as far as a plan depends on it.

use serde::{Deserialize, Serialize};

use crate::model::ModelShape;

/// Time of a unit on one micro-batch; seconds, or any unit that is the same throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitCost {
    /// Forward; for the head its loss.
    pub forward: f64,
    /// The part of backward that others wait for: the gradient with respect to the input.
    pub backward_input: f64,
    /// The rest: the gradient of the parameters.
    pub backward_weight: f64,
}

impl UnitCost {
    /// Forward and backward.
    pub fn total(&self) -> f64 {
        self.forward + self.backward_input + self.backward_weight
    }
}

/// Costs that pipeline systems spread blocks by and order their work by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Token embedding.
    pub embed: UnitCost,
    /// A block.
    pub block: UnitCost,
    /// Final norm, output projection and loss.
    pub head: UnitCost,
    /// One activation from a rank to the next.
    pub hop: f64,
}

impl Costs {
    /// Floating point operations of a micro-batch of `micro` sequences of `seq` tokens, attention counted causal, and
    /// transfers for nothing. Norms, rotary embedding and the token embedding count as nothing.
    pub fn flops(shape: &ModelShape, micro: usize, seq: usize) -> Costs {
        let tokens = (micro * seq) as f64;
        let head = 2.0 * (shape.vocab * shape.dim) as f64 * tokens;
        let products = 2.0 * ((shape.matmul_params() - shape.vocab * shape.dim) / shape.layers) as f64 * tokens;
        // Queries by keys and weights by values, half of each; backward has five products in the place of two.
        let attention = 2.0 * (shape.q_dim() * seq) as f64 * tokens;
        Costs {
            embed: UnitCost::default(),
            block: UnitCost {
                forward: products + attention,
                backward_input: products + 2.5 * attention,
                backward_weight: products,
            },
            head: UnitCost { forward: head, backward_input: head, backward_weight: head },
            hop: 0.0,
        }
    }

    /// Whether every time is one: finite, not negative, and a block's not zero.
    pub fn valid(&self) -> bool {
        let times = |c: &UnitCost| [c.forward, c.backward_input, c.backward_weight];
        let all = [&self.embed, &self.block, &self.head].into_iter().flat_map(times).chain([self.hop]);
        all.into_iter().all(|t| t.is_finite() && t >= 0.0) && times(&self.block).iter().all(|&t| t > 0.0)
    }

    /// The textbook pipeline: forward 1, either half of backward 1, everything else 0.
    pub fn unit() -> Costs {
        let block = UnitCost { forward: 1.0, backward_input: 1.0, backward_weight: 1.0 };
        Costs { block, ..Costs::default() }
    }
}
