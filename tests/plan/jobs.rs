//! Small jobs to plan.

use tawpipe::cluster::{Costs, Groups};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::systems::{Embed, Settled, Stagger, SystemOptions};
use tawpipe::plan::{Batch, Job};

/// A tiny model; all that matters for a plan is how many blocks it has and whether the head is tied.
pub fn shape(layers: usize, tied: bool) -> ModelShape {
    ModelShape {
        dim: 8,
        layers,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 12,
        vocab: 40,
        tied,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        extra: Default::default(),
    }
}

/// A job of system `tawpipe` with `micros` micro-batches and weights that hop as they are needed.
pub fn tawpipe(layers: usize, groups: &[usize], micros: usize) -> Job {
    job(layers, groups, micros, SystemOptions::Tawpipe(Settled::default().into()))
}

/// A job of a system with `micros` micro-batches.
pub fn job(layers: usize, groups: &[usize], micros: usize, system: SystemOptions) -> Job {
    Job {
        shape: shape(layers, false),
        groups: Groups::new(groups),
        batch: Batch { seq: 4, micro: 2, micros },
        dtype: Dtype::F32,
        grad_dtype: Dtype::F32,
        recompute: Recompute::Block,
        costs: Costs::unit(),
        memory: None,
        system,
    }
}

/// The same job with other options.
pub fn with(job: Job, embed: Embed, stagger: Stagger, blocks_per_shard: usize) -> Job {
    Job {
        system: SystemOptions::Tawpipe(Settled { blocks_per_shard, embed, stagger, ..Settled::default() }.into()),
        ..job
    }
}
