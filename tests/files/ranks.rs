//! A world of threads, and models cut over it.

use std::ops::Range;

use tawpipe::checkpoint::{Piece, PieceMut, pieces, pieces_mut};
use tawpipe::fabric::local::{self, LocalWorld};
use tawpipe::model::{ModelShape, Shards};

/// Runs `body` on every rank of a world and returns what it returns, in rank order.
pub fn world<T: Send>(size: usize, body: impl Fn(&LocalWorld) -> T + Sync) -> Vec<T> {
    local::run(size, Default::default(), |_, world| body(world))
}

/// A small model with grouped queries.
pub fn shape(tied: bool) -> ModelShape {
    ModelShape {
        dim: 24,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn: 40,
        vocab: 37,
        tied,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        extra: Default::default(),
    }
}

/// The value that element `at` of a shard starts with in array `which`; every one is different.
pub fn value(shard: usize, at: usize, which: usize) -> f32 {
    ((shard * 1_000_003 + at) as f32 * 0.37 + which as f32).sin()
}

/// One rank's part of a model: each shard is cut evenly over the ranks, so that tensors and padding are cut anywhere.
pub struct Part {
    shards: Shards,
    /// A shard: its range on this rank and its three arrays.
    held: Vec<(Range<usize>, [Vec<f32>; 3])>,
}

impl Part {
    /// Filled by `fill(shard, element, array)`.
    pub fn new(
        shape: &ModelShape,
        blocks: usize,
        rank: usize,
        size: usize,
        fill: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let shards = Shards::new(shape, blocks);
        let held = shards.shards.iter().enumerate().map(|(id, shard)| {
            let range = shard.len * rank / size..shard.len * (rank + 1) / size;
            let arrays = [0, 1, 2].map(|which| range.clone().map(|at| fill(id, at, which)).collect());
            (range, arrays)
        });
        let held = held.collect();
        Part { shards, held }
    }

    pub fn pieces(&self) -> Vec<Piece<'_>> {
        let each = self.shards.shards.iter().zip(&self.held);
        each.flat_map(|(shard, (range, [w, m, v]))| pieces(shard, range.clone(), w, m, v)).collect()
    }

    pub fn pieces_mut(&mut self) -> Vec<PieceMut<'_>> {
        let each = self.shards.shards.iter().zip(&mut self.held);
        each.flat_map(|(shard, (range, [w, m, v]))| pieces_mut(shard, range.clone(), w, Some([m, v]))).collect()
    }
}

/// Every weight and moment of a model by (name, array), from the parts of all ranks.
pub fn whole(parts: &[Part]) -> std::collections::BTreeMap<(String, usize), Vec<f32>> {
    let mut all = std::collections::BTreeMap::new();
    for piece in parts.iter().flat_map(Part::pieces) {
        for (which, values) in [piece.weights, piece.moment1, piece.moment2].into_iter().enumerate() {
            let tensor: &mut Vec<f32> = all.entry((piece.name.to_string(), which)).or_default();
            assert_eq!(tensor.len(), piece.start, "ranks hold ascending ranges of {}", piece.name);
            tensor.extend(values);
        }
    }
    all
}
