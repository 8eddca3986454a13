//! Every parallel system: one file each, one table.

use serde::{Deserialize, Serialize};

use crate::cluster::Rank;
use crate::model::Shards;

use super::{Job, RankPlan, Refusal, Split};

/// What the deck's `[system]` section chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum SystemOptions {
    /// One rank does everything.
    Single,
    /// Weights travel: hop between groups, broadcast inside.
    Tawpipe(TawpipeOptions),
}

/// Options of `tawpipe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TawpipeOptions {
    /// Blocks that travel together.
    pub blocks_per_shard: usize,
    /// Where embedding and head live.
    pub embed: Embed,
    /// Whether group a starts a slots later.
    pub stagger: Stagger,
}

impl Default for TawpipeOptions {
    fn default() -> Self {
        TawpipeOptions { blocks_per_shard: 1, embed: Embed::Sharded, stagger: Stagger::None }
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

/// Decisions that concern all ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// What was asked.
    pub job: Job,
    /// The cut of the model.
    pub shards: Shards,
    /// Owner of every shard (`None`: replicated on all ranks).
    pub owners: Vec<Option<Rank>>,
    /// Communicators, in the order in which they are created.
    pub splits: Vec<Split>,
}

/// Decides what concerns all ranks.
pub fn schedule(job: &Job) -> Result<Schedule, Refusal> {
    let _ = job;
    Err(Refusal("no system yet".into()))
}

impl Schedule {
    /// One rank's plan; ranks are generated one by one.
    pub fn rank(&self, rank: Rank) -> RankPlan {
        let _ = rank;
        unimplemented!()
    }
}
