//! The order in which a group goes through the model, and which shards that brings into its two ring slots.

use std::ops::Range;

use crate::model::{ShardId, Shards, Unit};

use super::super::walk::{Pass, Stop, stops};
use super::options::Settled;

/// One stop at a shard. All ranks of a group make it together, each with its own micro-batch.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Round of one micro-batch a rank.
    pub round: usize,
    /// What is computed.
    pub pass: Pass,
    /// Whose parameters.
    pub shard: ShardId,
    /// Where the weights are, on ranks that do not own them.
    pub ring: Option<Ring>,
    /// The part of the shard whose gradient travels to the owner afterwards.
    pub gradient: Option<Range<usize>>,
    /// No later visit of the round gives a gradient of the shard: always so but for a tied head.
    pub closes: bool,
}

/// Use of a ring slot.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// 0 or 1.
    pub slot: usize,
    /// The visit (if any: none for the first) under whose computation the weights come in; `None` if they are still
    /// there from an earlier visit.
    pub fetch: Option<Option<usize>>,
    /// No earlier visit has had the shard.
    pub first: bool,
}

/// The visits of `rounds` rounds: up through the model and, in training, down again. Shards that do not `travel` take
/// part in no transfer.
///
/// The ring is a cache of two slots. Weights for the next visit come in while the present one computes, so they go into
/// the other slot, unless they are still in one of the two. That saves the transfers at the turning points: last block,
/// head, last block; and first block, embedding, first block of the next round. Without overlap they come in behind the
/// present visit, not under it.
pub fn visits(
    shards: &Shards,
    rounds: usize,
    training: bool,
    options: &Settled,
    travel: impl Fn(ShardId) -> bool,
) -> Vec<Visit> {
    let embed = shards.place(Unit::Embed);
    let head = shards.place(Unit::Head);
    let stops = stops(shards, training);
    let mut held: [Option<ShardId>; 2] = [None; 2];
    let mut current = 1;
    // An embedding that does not travel is no reason to hop a tick earlier: the first weights come in under it, so that
    // the first hops between groups pair up as all later ones do.
    let mut under = (!travel(embed.shard)).then_some(0);
    let mut met = vec![false; shards.shards.len()];
    let mut list: Vec<Visit> = Vec::new();
    for round in 0..rounds {
        for &Stop { pass, shard } in &stops {
            let ring = (pass.needs_weights() && travel(shard)).then(|| {
                let fetch = match held.iter().position(|&s| s == Some(shard)) {
                    Some(slot) => {
                        current = slot;
                        None
                    }
                    None => {
                        current = 1 - current;
                        held[current] = Some(shard);
                        Some(if options.overlap { under } else { list.len().checked_sub(1) })
                    }
                };
                under = Some(list.len());
                Ring { slot: current, fetch, first: !std::mem::replace(&mut met[shard], true) }
            });
            let all = 0..shards.shards[shard].len;
            let gradient = match pass {
                Pass::Head if training => Some(head.range.clone()),
                Pass::Backward => Some(all),
                // The pieces that ranks own are pieces of the whole.
                Pass::EmbedBackward if options.stripe => Some(all),
                Pass::EmbedBackward => Some(embed.range.clone()),
                _ => None,
            };
            let closes = pass != Pass::Head || shard != embed.shard;
            list.push(Visit { round, pass, shard, ring, gradient: gradient.filter(|_| travel(shard)), closes });
        }
    }
    list
}
