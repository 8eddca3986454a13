//! What a deck can choose about `tawpipe`.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::super::GradSync;

/// Options of `tawpipe`. The default leaves to the program what depends on the memory there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Given")]
pub struct TawpipeOptions {
    /// Where the other options come from that a deck does not set.
    pub preset: Preset,
    /// Blocks that are sent together. `auto`: 1; with `preset = "paper"` the number of blocks divided by the number of ranks,
    /// rounded up, so that no rank owns more than one shard.
    pub blocks_per_shard: Choice<usize>,
    /// Where embedding and head live.
    pub embed: Embed,
    /// Whether groups start at different times.
    pub stagger: Stagger,
    /// Whether communication runs beside computation. If not, each transfer starts when its result is needed, and the rank
    /// waits for it (the paper's ablation "w/o CCO"). What is sent stays the same.
    pub overlap: bool,
    /// Which ranks send weights and gradients to which.
    pub topology: Topology,
    /// How a shard is sent from its owner's group to all others, and its gradient back. `auto`: `collective` if there are more
    /// than two groups and they allow it, else `direct`.
    pub hop: Choice<Hops>,
    /// Whether a group keeps the shards of other groups for a whole iteration. `auto`: if they fit into memory.
    pub weight_cache: Choice<WeightCache>,
    /// How often gradients are sent from group to group: in every round or once an iteration. If once, the staging rank of a
    /// shard accumulates its gradient in f32 until then. `auto`: once, if the sums fit into memory.
    pub grad_sync: Choice<GradSync>,
    /// Whether all ranks of a group own equal pieces of a shard, so that it is sent over the network cards of all of them at
    /// once. Inside a group it is then all-gathered instead of broadcast, and its gradient reduce-scattered. Needs groups
    /// of one size.
    pub stripe: bool,
    /// For decks from before there were presets. `true`: `hop`, `weight_cache` and `grad_sync` are `auto`; `false`: where
    /// they are not set they are `direct`, `none` and `round`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto: Option<bool>,
}

/// What a deck gives; the rest is the preset's.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    preset: Preset,
    blocks_per_shard: Option<Choice<usize>>,
    embed: Option<Embed>,
    stagger: Option<Stagger>,
    overlap: Option<bool>,
    topology: Option<Topology>,
    hop: Option<Choice<Hops>>,
    weight_cache: Option<Choice<WeightCache>>,
    grad_sync: Option<Choice<GradSync>>,
    stripe: Option<bool>,
    auto: Option<bool>,
}

impl From<Given> for TawpipeOptions {
    fn from(given: Given) -> Self {
        let base = match (given.preset, given.auto) {
            (Preset::Paper, _) => TawpipeOptions {
                preset: Preset::Paper,
                blocks_per_shard: Choice::Auto,
                embed: Embed::Replicated,
                stagger: Stagger::Slots,
                ..TawpipeOptions::from(Settled::default())
            },
            (Preset::Auto, Some(false)) => Settled::default().into(),
            (Preset::Auto, _) => TawpipeOptions::default(),
        };
        // `auto = true` chose these also against what was set, but for `hop = "collective"`.
        let old = given.auto == Some(true);
        let hop = given.hop.filter(|hop| !old || *hop == Choice::Is(Hops::Collective));
        TawpipeOptions {
            preset: given.preset,
            blocks_per_shard: given.blocks_per_shard.unwrap_or(base.blocks_per_shard),
            embed: given.embed.unwrap_or(base.embed),
            stagger: given.stagger.unwrap_or(base.stagger),
            overlap: given.overlap.unwrap_or(base.overlap),
            topology: given.topology.unwrap_or(base.topology),
            hop: hop.unwrap_or(base.hop),
            weight_cache: given.weight_cache.filter(|_| !old).unwrap_or(base.weight_cache),
            grad_sync: given.grad_sync.filter(|_| !old).unwrap_or(base.grad_sync),
            stripe: given.stripe.unwrap_or(base.stripe),
            auto: given.auto,
        }
    }
}

impl Default for TawpipeOptions {
    fn default() -> Self {
        TawpipeOptions {
            hop: Choice::Auto,
            weight_cache: Choice::Auto,
            grad_sync: Choice::Auto,
            ..TawpipeOptions::from(Settled::default())
        }
    }
}

impl TawpipeOptions {
    /// Whether `chosen` is one of the ways in which these options can be settled.
    pub fn admits(&self, chosen: &TawpipeOptions) -> bool {
        fn admits<T: PartialEq>(asked: &Choice<T>, chosen: &Choice<T>) -> bool {
            *asked == Choice::Auto || asked == chosen
        }
        let set = |options: &TawpipeOptions| {
            (options.embed, options.stagger, options.overlap, options.topology, options.stripe)
        };
        set(self) == set(chosen)
            && admits(&self.blocks_per_shard, &chosen.blocks_per_shard)
            && admits(&self.hop, &chosen.hop)
            && admits(&self.weight_cache, &chosen.weight_cache)
            && admits(&self.grad_sync, &chosen.grad_sync)
    }

    /// The options once nothing is left open; `None` before.
    pub fn settled(&self) -> Option<Settled> {
        Some(Settled {
            blocks_per_shard: self.blocks_per_shard.is()?,
            embed: self.embed,
            stagger: self.stagger,
            overlap: self.overlap,
            topology: self.topology,
            hop: self.hop.is()?,
            weight_cache: self.weight_cache.is()?,
            grad_sync: self.grad_sync.is()?,
            stripe: self.stripe,
        })
    }
}

/// [`TawpipeOptions`] with everything chosen: what a plan is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// See [`TawpipeOptions::blocks_per_shard`].
    pub blocks_per_shard: usize,
    /// See [`TawpipeOptions::embed`].
    pub embed: Embed,
    /// See [`TawpipeOptions::stagger`].
    pub stagger: Stagger,
    /// See [`TawpipeOptions::overlap`].
    pub overlap: bool,
    /// See [`TawpipeOptions::topology`].
    pub topology: Topology,
    /// See [`TawpipeOptions::hop`].
    pub hop: Hops,
    /// See [`TawpipeOptions::weight_cache`].
    pub weight_cache: WeightCache,
    /// See [`TawpipeOptions::grad_sync`].
    pub grad_sync: GradSync,
    /// See [`TawpipeOptions::stripe`].
    pub stripe: bool,
}

/// Every weight hops whenever it is needed and every gradient whenever it is there; nothing is kept. The published
/// schedule, with embedding and head as shards like any other, one block a shard, and no stagger.
impl Default for Settled {
    fn default() -> Self {
        Settled {
            blocks_per_shard: 1,
            embed: Embed::Sharded,
            stagger: Stagger::None,
            overlap: true,
            topology: Topology::Groups,
            hop: Hops::Direct,
            weight_cache: WeightCache::None,
            grad_sync: GradSync::Round,
            stripe: false,
        }
    }
}

impl From<Settled> for TawpipeOptions {
    fn from(settled: Settled) -> Self {
        TawpipeOptions {
            preset: Preset::Auto,
            blocks_per_shard: Choice::Is(settled.blocks_per_shard),
            embed: settled.embed,
            stagger: settled.stagger,
            overlap: settled.overlap,
            topology: settled.topology,
            hop: Choice::Is(settled.hop),
            weight_cache: Choice::Is(settled.weight_cache),
            grad_sync: Choice::Is(settled.grad_sync),
            stripe: settled.stripe,
            auto: None,
        }
    }
}

/// A value, or `auto`: the program chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// Left to the program.
    #[default]
    Auto,
    /// Given, or chosen.
    Is(T),
}

impl<T> Choice<T> {
    /// The value, if there is one.
    pub fn is(self) -> Option<T> {
        match self {
            Choice::Auto => None,
            Choice::Is(value) => Some(value),
        }
    }
}

impl<T> From<T> for Choice<T> {
    fn from(value: T) -> Self {
        Choice::Is(value)
    }
}

/// `auto`, or as the value itself is written.
impl<T: Serialize> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Choice::Auto => serializer.serialize_str(AUTO),
            Choice::Is(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if value == AUTO {
            return Ok(Choice::Auto);
        }
        let read = serde_json::from_value(value).map(Choice::Is);
        read.map_err(|error| D::Error::custom(error.to_string().replace("expected ", "expected `auto`, ")))
    }
}

const AUTO: &str = "auto";

/// Where the options come from that a deck does not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Options that are `auto` are chosen by the program, for the fewest bytes between groups within the memory of a rank.
    #[default]
    Auto,
    /// The published system. A shard has the number of blocks divided by the number of ranks, rounded up; embedding and head
    /// are replicated; groups start one after the other; the owner itself sends to every group; no group keeps shards of
    /// others; gradients are sent to their owners in every round.
    Paper,
}

/// Where embedding and head live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Embed {
    /// They are shards like the blocks.
    Sharded,
    /// They are on every rank, and their gradients are all-reduced once an iteration, as in the paper.
    Replicated,
}

/// Whether groups start one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stagger {
    /// All groups need the same shard at the same time.
    None,
    /// Group number a starts a slots later (a slot is the time of one block), as in the paper: at any time two groups need
    /// different shards, so that both directions of a link are used.
    Slots,
}

/// Which ranks send weights and gradients to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// A shard is sent once to each other group, and then passed on inside it.
    Groups,
    /// All ranks are treated as one group: the owner broadcasts to all ranks, in a chain in rank order, and gradients are
    /// reduced from all ranks to the owner. `weight_cache` and `grad_sync` have no effect. This is our reading of the
    /// paper's ablation "w/o GWPS", which does not say what replaces the group-based scheduler.
    Flat,
}

/// How a shard is sent from its owner's group to all others, and its gradient back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hops {
    /// The owner sends it to each other group itself, and receives a gradient from each, as in the paper. With many groups
    /// its network card is the bottleneck while those of other nodes are idle.
    Direct,
    /// By a broadcast, and a reduction for the gradient, over the ranks with the same index in their groups. Chunks go from
    /// group to group in a chain, so that each network card receives a shard once and sends it once. Needs groups of one
    /// size that need a shard at the same time (`stagger = "none"`). A group without a micro-batch in the last round takes
    /// part with zeros.
    Collective,
}

/// Whether a group keeps the shards of other groups for a whole iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightCache {
    /// It does not: they are sent whenever they are needed, up to twice a round.
    None,
    /// The staging rank of a shard keeps it and broadcasts it in its group whenever it is needed again, so that weights are
    /// sent between groups once an iteration.
    Group,
}
