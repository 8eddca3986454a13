//! What a rank holds of a model: runs of elements of logical tensors.

use std::ops::Range;

use crate::model::{ModelShape, Param, Shard, Shards};

/// A run of a tensor's elements and its optimizer state, as their owner holds them. All three have the same length.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The tensor's Hugging Face name.
    pub name: &'a str,
    /// First element, counted row by row in the whole tensor.
    pub start: usize,
    /// Weights.
    pub weights: &'a [f32],
    /// AdamW's first moment.
    pub moment1: &'a [f32],
    /// AdamW's second moment.
    pub moment2: &'a [f32],
}

/// Where a run of a tensor's elements is to be read to.
#[derive(Debug)]
pub struct PieceMut<'a> {
    /// The tensor's Hugging Face name.
    pub name: &'a str,
    /// First element, counted row by row in the whole tensor.
    pub start: usize,
    /// Weights.
    pub weights: &'a mut [f32],
    /// First and second moment, of the same length; `None` where training does not continue.
    pub moments: Option<[&'a mut [f32]; 2]>,
}

/// Every tensor of a model once, in model order (a tied head is the embedding).
pub fn tensors(shape: &ModelShape) -> Vec<Param> {
    Shards::new(shape, 1).shards.into_iter().flat_map(|shard| shard.params).collect()
}

/// The parameters of `shard` that lie in `range` of it, as (parameter, elements of the tensor, elements of the range).
/// Padding between tensors is in none.
fn cut<'s>(
    shard: &'s Shard,
    range: &Range<usize>,
) -> impl Iterator<Item = (&'s Param, Range<usize>, Range<usize>)> + use<'s> {
    let range = range.clone();
    shard.params.iter().filter_map(move |param| {
        let start = param.offset.max(range.start);
        let end = (param.offset + param.len()).min(range.end);
        (start < end).then(|| (param, start - param.offset..end - param.offset, start - range.start..end - range.start))
    })
}

/// Pieces of elements `range` of a shard, of which the three buffers hold exactly those elements.
pub fn pieces<'a>(
    shard: &'a Shard,
    range: Range<usize>,
    weights: &'a [f32],
    moment1: &'a [f32],
    moment2: &'a [f32],
) -> Vec<Piece<'a>> {
    cut(shard, &range)
        .map(|(param, tensor, here)| Piece {
            name: &param.name,
            start: tensor.start,
            weights: &weights[here.clone()],
            moment1: &moment1[here.clone()],
            moment2: &moment2[here],
        })
        .collect()
}

/// As [`pieces`], to be read into; without moments where training does not continue.
pub fn pieces_mut<'a>(
    shard: &'a Shard,
    range: Range<usize>,
    weights: &'a mut [f32],
    moments: Option<[&'a mut [f32]; 2]>,
) -> Vec<PieceMut<'a>> {
    let mut weights = Cutter::new(weights);
    let mut moments = moments.map(|m| m.map(Cutter::new));
    cut(shard, &range)
        .map(|(param, tensor, here)| PieceMut {
            name: &param.name,
            start: tensor.start,
            weights: weights.take(here.clone()),
            moments: moments.as_mut().map(|m| m.each_mut().map(|cutter| cutter.take(here.clone()))),
        })
        .collect()
}

/// Hands out ascending, disjoint parts of a buffer.
struct Cutter<'a> {
    rest: &'a mut [f32],
    /// Elements already gone.
    gone: usize,
}

impl<'a> Cutter<'a> {
    fn new(rest: &'a mut [f32]) -> Self {
        Cutter { rest, gone: 0 }
    }

    fn take(&mut self, range: Range<usize>) -> &'a mut [f32] {
        let rest = std::mem::take(&mut self.rest);
        let (_, from) = rest.split_at_mut(range.start - self.gone);
        let (part, rest) = from.split_at_mut(range.len());
        (self.rest, self.gone) = (rest, range.end);
        part
    }
}
