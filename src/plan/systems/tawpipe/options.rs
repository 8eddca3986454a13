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
    /// Blocks that travel together. `auto`: 1, and with `preset = "paper"` the number of blocks over that of ranks, rounded
    /// up, so that every rank owns one shard.
    pub blocks_per_shard: Choice<usize>,
    /// Where embedding and head live.
    pub embed: Embed,
    /// Whether group a starts a slots later.
    pub stagger: Stagger,
    /// Whether transfers run beside computation. If not, nothing is done before it is needed, and everything is waited
    /// for at once (the paper's ablation "w/o CCO"); what is sent stays the same.
    pub overlap: bool,
    /// Along which ways weights and gradients travel.
    pub topology: Topology,
    /// How a shard comes from one group to all others, and its gradient home. `auto`: `collective` between more than two
    /// groups, where that can be.
    pub hop: Choice<Hops>,
    /// Whether a group keeps other groups' shards through an iteration. `auto`: if that fits into memory.
    pub weight_cache: Choice<WeightCache>,
    /// When gradients cross between groups. If once an iteration, the rank through which a gradient goes out sums it up in
    /// f32 until then. `auto`: once, if that fits into memory.
    pub grad_sync: Choice<GradSync>,
    /// Whether a shard is owned in equal pieces by all ranks of a group, so that it hops over all their links at once:
    /// all-gathered inside a group instead of broadcast, its gradient reduce-scattered. Needs groups of one size.
    pub stripe: bool,
    /// Of decks written before there were presets. `true`: `hop`, `weight_cache` and `grad_sync` are `auto`; `false`: where
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
    /// What moves the fewest bytes between groups within the memory that a rank has.
    #[default]
    Auto,
    /// The published system: as many blocks a shard as every rank owns one shard, embedding and head replicated, groups
    /// that start one after the other, direct hops, nothing kept, gradients sent home every round.
    Paper,
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
