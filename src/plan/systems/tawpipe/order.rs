//! The order in which a group uses the shards, and which of its two weight buffers each of them comes into.

use std::ops::Range;

use crate::model::{ShardId, Shards, Unit};

use super::super::steps::{Pass, Step, steps};
use super::options::Settled;

/// A step that all ranks of a group make together, each with its own micro-batch.
#[derive(Clone, Debug)]
pub struct GroupStep {
    /// Round of one micro-batch a rank.
    pub round: usize,
    /// What is computed, with whose parameters.
    pub step: Step,
    /// The buffer that holds the weights, on ranks where they do not stay.
    pub buffer: Option<usize>,
    /// What comes in while this step computes.
    pub prefetch: Option<Prefetch>,
    /// The part of the shard whose gradient leaves for the owner afterwards.
    pub gradient: Option<Range<usize>>,
    /// No later step of the round gives a gradient of the shard: always so but for a tied head.
    pub completes: bool,
}

/// The weights of a shard that come in for a later step.
#[derive(Clone, Copy, Debug)]
pub struct Prefetch {
    /// Whose weights.
    pub shard: ShardId,
    /// Where they come to, unless they stay: buffer 0 or 1.
    pub buffer: usize,
    /// Round of the step that needs them.
    pub round: usize,
    /// The group has not had this shard in the iteration before.
    pub first: bool,
}

/// All steps of an iteration or an evaluation.
pub struct Order {
    /// What comes in before the first step.
    pub before: Option<Prefetch>,
    /// In the order in which every group makes them.
    pub steps: Vec<GroupStep>,
}

impl Order {
    /// The steps of `rounds` rounds: up through the model and, in training, down again. Shards that are not `sent` take
    /// part in no transfer.
    ///
    /// The two buffers are a cache. Weights for the next step come in while the present one computes, so they go into
    /// the other buffer, unless they are still in one of the two. That saves the transfers at the turning points: last
    /// block, head, last block; and first block, embedding, first block of the next round. Without overlap they come in
    /// after the step before, not during it.
    pub fn new(
        shards: &Shards,
        rounds: usize,
        training: bool,
        options: &Settled,
        sent: impl Fn(ShardId) -> bool,
    ) -> Self {
        let embed = shards.place(Unit::Embed);
        let head = shards.place(Unit::Head);
        let micro_batch = steps(shards, training);
        let mut held: [Option<ShardId>; 2] = [None; 2];
        let mut buffer = 1;
        let mut met = vec![false; shards.shards.len()];
        let mut order = Order { before: None, steps: Vec::new() };
        // The last step that needs weights. If the embedding is not sent, the first weights come in while it computes, and
        // not before, so that the first hops between groups pair up as all later ones do.
        let mut last = (!sent(embed.shard)).then_some(0);
        for round in 0..rounds {
            for &step in &micro_batch {
                let Step { pass, shard } = step;
                let at = order.steps.len();
                let all = 0..shards.elems(shard);
                let gradient = match pass {
                    Pass::Head if training => Some(head.range.clone()),
                    Pass::Backward => Some(all),
                    // The pieces that ranks own are pieces of the whole.
                    Pass::EmbedBackward if options.stripe => Some(all),
                    Pass::EmbedBackward => Some(embed.range.clone()),
                    _ => None,
                };
                order.steps.push(GroupStep {
                    round,
                    step,
                    buffer: None,
                    prefetch: None,
                    gradient: gradient.filter(|_| sent(shard)),
                    completes: pass != Pass::Head || shard != embed.shard,
                });
                if !(pass.needs_weights() && sent(shard)) {
                    continue;
                }
                match held.iter().position(|&other| other == Some(shard)) {
                    Some(same) => buffer = same,
                    None => {
                        buffer = 1 - buffer;
                        held[buffer] = Some(shard);
                        let prefetch = Some(Prefetch { shard, buffer, round, first: !met[shard] });
                        match if options.overlap { last } else { at.checked_sub(1) } {
                            None => order.before = prefetch,
                            Some(step) => order.steps[step].prefetch = prefetch,
                        }
                    }
                }
                met[shard] = true;
                order.steps[at].buffer = Some(buffer);
                last = Some(at);
            }
        }
        order
    }
}
