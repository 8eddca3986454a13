//! Units (what is computed) and shards (what travels together).

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{ModelShape, Param, unit_params};

/// A step of the model's computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unit {
    /// Token embedding.
    Embed,
    /// Decoder block number i.
    Block(usize),
    /// Final norm, output projection and loss, one fused op.
    Head,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Embed => write!(f, "embedding"),
            Unit::Block(i) => write!(f, "block {i}"),
            Unit::Head => write!(f, "head"),
        }
    }
}

/// Number of a shard, in model order.
pub type ShardId = usize;

/// Parameters that travel together: one flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Every tensor of the shard; offsets count from the shard's start.
    pub params: Vec<Param>,
    /// Elements of the buffer, padded.
    pub len: usize,
}

/// Where a unit's parameters lie: one region of one shard, laid out as [`unit_params`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which shard.
    pub shard: ShardId,
    /// Elements within the shard.
    pub range: Range<usize>,
}

/// The cut of a model into shards: the embedding, runs of blocks, the head. A tied head has no
/// shard of its own: its region is the embedding's shard, which then also holds the final norm.
#[derive(Clone, Debug, PartialEq)]
pub struct Shards {
    /// All shards, in model order.
    pub shards: Vec<Shard>,
    /// Units in model order with their places; both a tied head and the embedding name shard 0.
    pub units: Vec<(Unit, Placement)>,
}

impl Shards {
    /// Cuts a model. `blocks_per_shard` is at least 1; the last run of blocks may be shorter.
    pub fn new(shape: &ModelShape, blocks_per_shard: usize) -> Self {
        let runs = (0..shape.layers).step_by(blocks_per_shard).map(|first| blocks_per_shard.min(shape.layers - first));
        Shards::cut(shape, runs)
    }

    /// Cuts a model into runs of blocks of these lengths, which add up to all blocks. An empty run gives no shard.
    pub fn cut(shape: &ModelShape, runs: impl Iterator<Item = usize>) -> Self {
        let mut shards: Vec<Shard> = Vec::new();
        let mut units = Vec::new();
        let (embed, embed_len) = unit_params(shape, Unit::Embed);
        let (head, head_len) = unit_params(shape, Unit::Head);
        let first = if shape.tied {
            Shard { params: head.clone(), len: head_len }
        } else {
            Shard { params: embed, len: embed_len }
        };
        shards.push(first);
        units.push((Unit::Embed, Placement { shard: 0, range: 0..embed_len }));
        let mut first = 0;
        for run in runs.filter(|&run| run > 0) {
            let mut shard = Shard { params: Vec::new(), len: 0 };
            for block in first..first + run {
                let (params, len) = unit_params(shape, Unit::Block(block));
                let base = shard.len;
                shard.params.extend(params.into_iter().map(|p| Param { offset: p.offset + base, ..p }));
                shard.len += len;
                units.push((Unit::Block(block), Placement { shard: shards.len(), range: base..shard.len }));
            }
            shards.push(shard);
            first += run;
        }
        let place = if shape.tied { 0 } else { shards.len() };
        if !shape.tied {
            shards.push(Shard { params: head, len: head_len });
        }
        units.push((Unit::Head, Placement { shard: place, range: 0..head_len }));
        Shards { shards, units }
    }

    /// Elements of a shard.
    pub fn elems(&self, shard: ShardId) -> usize {
        self.shards[shard].len
    }

    /// Where a unit's parameters lie.
    ///
    /// # Panics
    /// If the unit is no unit of this model.
    pub fn place(&self, unit: Unit) -> &Placement {
        let index = match unit {
            Unit::Embed => 0,
            Unit::Block(i) => i + 1,
            Unit::Head => self.units.len() - 1,
        };
        assert_eq!(self.units[index].0, unit, "{unit} is no unit of this model");
        &self.units[index].1
    }

    /// Blocks whose parameters a shard holds, in model order.
    pub fn blocks(&self, shard: ShardId) -> impl Iterator<Item = Unit> + '_ {
        let blocks =
            self.units.iter().filter(move |(unit, place)| matches!(unit, Unit::Block(_)) && place.shard == shard);
        blocks.map(|(unit, _)| *unit)
    }

    /// Units whose parameters include some of `range` of `shard`: those that contribute to its gradient.
    pub fn units_of(&self, shard: ShardId, range: &Range<usize>) -> impl Iterator<Item = Unit> + '_ {
        let range = range.clone();
        self.units
            .iter()
            .filter(move |(_, p)| p.shard == shard && p.range.start < range.end && range.start < p.range.end)
            .map(|(unit, _)| *unit)
    }
}
