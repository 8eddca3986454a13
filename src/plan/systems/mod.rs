//! Every parallel system: one file each, one table.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cluster::Rank;
use crate::model::Shards;

use super::{Batch, Job, RankPlan, Refusal, Split};

mod local;
mod sharded;
mod single;
mod tawpipe;
mod walk;

pub use sharded::{DdpOptions, FsdpOptions, GradSync, HsdpOptions};

/// What the deck's `[system]` section chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum SystemOptions {
    /// One rank does everything.
    Single,
    /// Weights on every rank.
    Ddp(DdpOptions),
    /// Every shard cut over all ranks.
    Fsdp(FsdpOptions),
    /// Every shard cut over the ranks of a group.
    Hsdp(HsdpOptions),
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
    /// Whether transfers run beside computation. If not, nothing is done before it is needed, and everything is waited
    /// for at once (the paper's ablation "w/o CCO"); what is sent stays the same.
    pub overlap: bool,
}

impl Default for TawpipeOptions {
    fn default() -> Self {
        TawpipeOptions { blocks_per_shard: 1, embed: Embed::Sharded, stagger: Stagger::None, overlap: true }
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
    /// What lives where.
    pub layout: Layout,
    /// Communicators, in the order in which they are created.
    pub splits: Vec<Split>,
}

/// What lives where, as far as ranks differ in it.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// Every rank derives its own part from the job.
    Uniform,
    /// Owner of every shard (`None`: replicated on all ranks).
    Owners(Vec<Option<Rank>>),
}

/// A parallel system.
pub trait System: Sync {
    /// Decides what concerns all ranks, or says why the job cannot run this way.
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal>;

    /// One rank's plan. Ranks are planned one by one, each from the schedule alone.
    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan;
}

/// A line of the table of systems.
pub struct Entry {
    /// As in the deck: `system.name`.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Which jobs it runs.
    pub domain: &'static str,
    /// Where embedding and head live.
    pub ends: &'static str,
    /// The system itself.
    pub system: &'static dyn System,
}

/// Every system there is.
pub static SYSTEMS: &[Entry] = &[
    Entry {
        name: "single",
        summary: "one rank does everything; gradients of all micro-batches add up in place",
        domain: "one rank",
        ends: "like everything else, on the one rank",
        system: &single::Single,
    },
    sharded::DDP,
    sharded::FSDP,
    sharded::HSDP,
    Entry {
        name: "tawpipe",
        summary: "weights stay on their owner, hop once between groups and are broadcast inside; gradients go back",
        domain: "any number of ranks in any groups; any number of layers",
        ends: "shards like any other; embed = \"replicated\" puts them on every rank",
        system: &tawpipe::Tawpipe,
    },
];

impl SystemOptions {
    /// As in the deck: `system.name`.
    pub fn name(&self) -> &'static str {
        match self {
            SystemOptions::Single => "single",
            SystemOptions::Ddp(_) => "ddp",
            SystemOptions::Fsdp(_) => "fsdp",
            SystemOptions::Hsdp(_) => "hsdp",
            SystemOptions::Tawpipe(_) => "tawpipe",
        }
    }
}

/// The system of this name.
pub fn find(name: &str) -> Option<&'static Entry> {
    SYSTEMS.iter().find(|entry| entry.name == name)
}

/// Decides what concerns all ranks.
///
/// # Errors
/// A sentence that says why the system cannot run the job.
pub fn schedule(job: &Job) -> Result<Schedule, Refusal> {
    job.shape.validate().map_err(|e| Refusal(e.to_string()))?;
    let Batch { seq, micro, micros } = job.batch;
    if seq * micro * micros == 0 {
        return Err(Refusal(format!("an empty batch: {micros} micro-batches of {micro} sequences of {seq} tokens")));
    }
    let name = job.system.name();
    let entry = find(name).ok_or_else(|| Refusal(format!("there is no system \"{name}\"")))?;
    entry.system.schedule(job)
}

impl Schedule {
    /// Owner of every shard (`None`: replicated on all ranks); empty if shards do not live on one rank each.
    pub fn owners(&self) -> &[Option<Rank>] {
        match &self.layout {
            Layout::Owners(owners) => owners,
            Layout::Uniform => &[],
        }
    }

    /// One rank's plan; ranks are generated one by one.
    pub fn rank(&self, rank: Rank) -> RankPlan {
        let entry = find(self.job.system.name()).expect("scheduled by a system of the table");
        entry.system.rank(self, rank)
    }

    /// All ranks' plans.
    pub fn ranks(&self) -> Vec<RankPlan> {
        (0..self.job.groups.ranks()).into_par_iter().map(|rank| self.rank(rank)).collect()
    }
}
