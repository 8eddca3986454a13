//! What a deck can choose about `tawpipe`.

use serde::{Deserialize, Serialize};

use super::super::GradSync;

/// Options of `tawpipe`. The default is the paper's schedule, but for embedding and head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TawpipeOptions {
    /// Blocks that travel together.
    pub blocks_per_shard: usize,
    /// Where embedding and head live.
    pub embed: Embed,
    /// Whether group a starts a slots later.
    pub stagger: Stagger,
    /// Whether transfers run beside computation. If not, nothing is done before it is needed, and everything is waited
    /// for at once (the paper's ablation "w/o CCO"); what is sent stays the same.
    pub overlap: bool,
    /// Along which ways weights and gradients travel.
    pub topology: Topology,
    /// How a shard comes from one group to all others, and its gradient home.
    pub hop: Hops,
    /// Whether a group keeps other groups' shards through an iteration.
    pub weight_cache: WeightCache,
    /// When gradients cross between groups. If once an iteration, the rank through which a gradient goes out sums it up in
    /// f32 until then.
    pub grad_sync: GradSync,
    /// Whether a shard is owned in equal pieces by all ranks of a group, so that it hops over all their links at once:
    /// all-gathered inside a group instead of broadcast, its gradient reduce-scattered. Needs groups of one size.
    pub stripe: bool,
    /// Chooses `weight_cache` and `grad_sync` itself: what moves the fewest bytes between groups within
    /// `cluster.memory`. Between more than two groups it also takes `hop = "collective"` where that can be.
    pub auto: bool,
}

impl Default for TawpipeOptions {
    fn default() -> Self {
        TawpipeOptions {
            blocks_per_shard: 1,
            embed: Embed::Sharded,
            stagger: Stagger::None,
            overlap: true,
            topology: Topology::Groups,
            hop: Hops::Direct,
            weight_cache: WeightCache::None,
            grad_sync: GradSync::Round,
            stripe: false,
            auto: false,
        }
    }
}

/// Where embedding and head live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embed {
    /// Shards like any other.
    Sharded,
    /// On every rank, gradients all-reduced once an iteration: the paper's way.
    Replicated,
}

/// Whether groups start one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stagger {
    /// All groups want the same shard at the same time.
    None,
    /// Group a is a slots late, so that two groups want different shards and hops pair up (the paper's way).
    Slots,
}

/// Along which ways weights and gradients travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// One hop to each other group, then inside it.
    Groups,
    /// As if all ranks were one group: the owner broadcasts to the whole world, in a chain in rank order, and gradients
    /// are reduced onto it over the whole world. The paper names its ablation "w/o GWPS" without saying what takes the
    /// place of the group-wise scheduler; this is what we take it to mean. Owners stay as they are, and so there is
    /// nothing for `weight_cache` and `grad_sync` to save.
    Flat,
}

/// How a shard comes from one group to all others, and its gradient home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hops {
    /// The owner sends it to each other group, and receives a gradient from each (the paper's way): with many groups its
    /// network card serves all of them while the others rest.
    Direct,
    /// By a broadcast, and a reduction, over the ranks of equal index in their groups: chunk by chunk from group to group,
    /// so that each network card carries a shard once in and once out. Needs groups of one size that want a shard at the
    /// same time (`stagger = "none"`); a group without a micro-batch in the last round takes part with zeros.
    Collective,
}

/// Whether a group keeps other groups' shards through an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightCache {
    /// They hop whenever they are needed, up to twice a round.
    None,
    /// The rank through which a shard comes in keeps it, and gives it to its group whenever it is needed again: weights
    /// cross between groups once an iteration.
    Group,
}
