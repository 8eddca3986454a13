//! Every parallel system: one file each, one table.

use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Rank;
use crate::model::Shards;

use super::tables::memory;
use super::{Job, RankPlan, Refusal, Split};

mod local;
mod pipeline;
mod replicated;
mod sharded;
mod single;
mod steps;
mod tawpipe;
#[cfg(test)]
mod toy;
mod weipipe;

pub use pipeline::{InterleavedOptions, PipelineOptions, Timetable};
pub use sharded::{DdpOptions, FsdpOptions, GradSync, HsdpOptions};
pub use tawpipe::options::{Choice, Embed, Hops, Preset, Settled, Stagger, TawpipeOptions, Topology, WeightCache};

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
    /// Weights are sent to where they are needed: once to each other group, then by a broadcast inside it.
    Tawpipe(TawpipeOptions),
    /// Weights go round a ring; in each turn a rank computes a forward and a backward.
    Weipipe,
    /// [`SystemOptions::Weipipe`] with a turn for the forward and another for the backward.
    WeipipeNaive,
    /// A pipeline of stages: all forwards, then all backwards.
    Gpipe(PipelineOptions),
    /// A pipeline of stages: each backward as soon as possible.
    #[serde(rename = "1f1b")]
    OneFOneB(PipelineOptions),
    /// [`SystemOptions::OneFOneB`] with several chunks of the model on each rank.
    #[serde(rename = "1f1b-interleaved")]
    Interleaved(InterleavedOptions),
    /// Backward split in two, memory of 1F1B, made by hand.
    ZbH1,
    /// [`SystemOptions::ZbH1`] with twice the memory.
    ZbH2,
    /// Backward split in two, memory of 1F1B, found by search.
    #[serde(rename = "zb-1p")]
    Zb1p,
    /// [`SystemOptions::Zb1p`] with twice the memory.
    #[serde(rename = "zb-2p")]
    Zb2p,
    /// Backward split in two, two chunks a rank in the shape of a V.
    ZbV,
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
    /// Every rank has the shards of its stages, and its place in the timetable.
    Stages(Arc<Timetable>),
    /// The group whose ranks own equal pieces of a shard (`None`: replicated on all ranks).
    Striped(Vec<Option<usize>>),
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
        ends: "on the one rank",
        system: &single::Single,
    },
    sharded::DDP,
    sharded::FSDP,
    sharded::HSDP,
    Entry {
        name: "tawpipe",
        summary: "each shard stays on its owner, is sent once to every other group and broadcast inside; gradients are summed inside and sent back",
        domain: "any number of ranks in any groups; any number of layers",
        ends: "stored as shards like the blocks; embed = \"replicated\" stores them on every rank",
        system: &tawpipe::Tawpipe,
    },
    weipipe::WEIPIPE,
    weipipe::WEIPIPE_NAIVE,
    pipeline::gpipe::GPIPE,
    pipeline::one_f_one_b::ONE_F_ONE_B,
    pipeline::interleaved::INTERLEAVED,
    pipeline::zb_h1::ZB_H1,
    pipeline::zb_h2::ZB_H2,
    pipeline::zb_1p::ZB_1P,
    pipeline::zb_2p::ZB_2P,
    pipeline::zb_v::ZB_V,
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
            SystemOptions::Weipipe => "weipipe",
            SystemOptions::WeipipeNaive => "weipipe-naive",
            SystemOptions::Gpipe(_) => "gpipe",
            SystemOptions::OneFOneB(_) => "1f1b",
            SystemOptions::Interleaved(_) => "1f1b-interleaved",
            SystemOptions::ZbH1 => "zb-h1",
            SystemOptions::ZbH2 => "zb-h2",
            SystemOptions::Zb1p => "zb-1p",
            SystemOptions::Zb2p => "zb-2p",
            SystemOptions::ZbV => "zb-v",
        }
    }

    /// A system's options where a deck says nothing.
    ///
    /// # Panics
    /// If there is no such system.
    pub fn defaults(name: &str) -> SystemOptions {
        serde_json::from_value(json!({ "name": name })).expect("every option of a known system has a default")
    }

    /// The published system of the TawPipe paper.
    pub fn paper() -> SystemOptions {
        serde_json::from_value(json!({"name": "tawpipe", "preset": "paper"})).expect("a preset of tawpipe")
    }

    /// Options that are not the system's defaults, with their values; a preset, and what differs from it.
    pub fn changed(&self) -> Vec<(String, Value)> {
        let of = |options: &SystemOptions| match serde_json::to_value(options) {
            Ok(Value::Object(map)) => map,
            other => unreachable!("options are plain values, not {other:?}"),
        };
        let own = of(self);
        let (mut changed, mut defaults) = (Vec::new(), of(&SystemOptions::defaults(self.name())));
        if let (Some(preset), Some(default)) = (own.get("preset"), defaults.get("preset"))
            && preset != default
        {
            changed.push(("preset".to_string(), preset.clone()));
            let named = json!({"name": self.name(), "preset": preset});
            defaults = of(&serde_json::from_value(named).expect("a preset that was read"));
        }
        changed.extend(own.into_iter().filter(|(key, value)| defaults.get(key) != Some(value)));
        changed
    }

    /// The name with the options that are not defaults.
    pub fn words(&self) -> String {
        let word = |(key, value): (String, Value)| match value {
            Value::String(text) => format!(", {key} {text}"),
            value => format!(", {key} {value}"),
        };
        std::iter::once(self.name().to_string()).chain(self.changed().into_iter().map(word)).collect()
    }

    /// Whether options are left for the program to choose.
    pub fn is_open(&self) -> bool {
        matches!(self, SystemOptions::Tawpipe(options) if options.settled().is_none())
    }

    /// Whether `chosen` is one of the ways in which these options can be settled.
    pub fn admits(&self, chosen: &SystemOptions) -> bool {
        match (self, chosen) {
            (SystemOptions::Tawpipe(asked), SystemOptions::Tawpipe(chosen)) => asked.admits(chosen),
            (asked, chosen) => asked == chosen,
        }
    }

    /// What the program has chosen of what `asked` left open, in words; empty if nothing was.
    pub fn choices(&self, asked: &SystemOptions) -> String {
        let open = asked.is_open();
        let shown = |key: &str| matches!(key, "blocks_per_shard" | "hop" | "weight_cache" | "grad_sync");
        let chosen = self.changed().into_iter().filter(|(key, value)| {
            open && shown(key) && serde_json::to_value(asked).is_ok_and(|asked| asked[key.as_str()] != *value)
        });
        let words: Vec<String> = chosen.map(|(key, value)| format!("{key} = {value}")).collect();
        words.join(", ")
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
    job.check()?;
    let name = job.system.name();
    let entry = find(name).ok_or_else(|| Refusal(format!("there is no system \"{name}\"")))?;
    entry.system.schedule(job)
}

impl Schedule {
    /// Owner of every shard (`None`: replicated on all ranks); empty if shards do not live on one rank each.
    pub fn owners(&self) -> &[Option<Rank>] {
        match &self.layout {
            Layout::Owners(owners) => owners,
            Layout::Uniform | Layout::Stages(_) => &[],
            _ => &[],
        }
    }

    /// One rank's plan; ranks are generated one by one.
    pub fn rank(&self, rank: Rank) -> RankPlan {
        let entry = find(self.job.system.name()).expect("scheduled by a system of the table");
        entry.system.rank(self, rank)
    }

    /// Bytes of the rank that needs most, for its plan alone.
    pub fn peak(&self) -> usize {
        let ranks = 0..self.job.groups.ranks();
        let bytes = |rank| memory(&self.rank(rank).slots).values().sum();
        ranks.into_par_iter().map(bytes).max().unwrap_or(0)
    }

    /// All ranks' plans.
    pub fn ranks(&self) -> Vec<RankPlan> {
        (0..self.job.groups.ranks()).into_par_iter().map(|rank| self.rank(rank)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table, the options and the deck call a system by the same name.
    #[test]
    fn one_name_everywhere() {
        for entry in SYSTEMS {
            let name = serde_json::json!({ "name": entry.name });
            let options: SystemOptions = serde_json::from_value(name).unwrap();
            assert_eq!(options.name(), entry.name);
            assert_eq!(serde_json::to_value(&options).unwrap()["name"], entry.name);
        }
    }
}
