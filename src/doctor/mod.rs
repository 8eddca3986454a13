//! What this machine and this launch offer to a training, and what to do about what is missing.
//!
//! Every rank looks at its own process and machine ([`look`]); rank 0 judges what concerns several ranks, joins what all
//! have found ([`join()`]) and prints it ([`text`], [`json`]). One file a concern.

mod cores;
mod folders;
mod gpus;
mod join;
mod launch;
mod libraries;
mod memory;
mod mpi;
mod show;
mod slurm;

pub use join::join;
pub use launch::{alone, inside, probe, refused};
pub use show::{json, text};

use serde::{Deserialize, Serialize};

use cores::Cores;
use gpus::Gpu;

/// How well something serves a training; ordered, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Not there; training goes on without it.
    Missing,
    /// Training works, but worse than it could.
    Attention,
    /// Training cannot work.
    Broken,
}

impl Verdict {
    /// As printed.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Fine => "fine",
            Verdict::Missing => "missing",
            Verdict::Attention => "attention",
            Verdict::Broken => "broken",
        }
    }
}

/// One line of the examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about, in one or two words.
    pub topic: String,
    /// The judgement.
    pub verdict: Verdict,
    /// What was found. Ranks that say different things are named.
    pub says: String,
    /// What was found as well, but changes from moment to moment: it makes no difference between ranks.
    pub now: String,
    /// What to do; empty if nothing.
    pub advice: String,
}

impl Finding {
    /// A finding with nothing to do about it.
    pub fn new(topic: &str, verdict: Verdict, says: impl Into<String>) -> Self {
        Finding { topic: topic.into(), verdict, says: says.into(), now: String::new(), advice: String::new() }
    }

    /// The same with advice.
    pub fn advice(self, advice: impl Into<String>) -> Self {
        Finding { advice: advice.into(), ..self }
    }

    /// The same with what changes from moment to moment.
    pub fn now(self, now: impl Into<String>) -> Self {
        Finding { now: now.into(), ..self }
    }
}

/// What one rank has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    host: String,
    cores: Cores,
    /// The GPUs that it sees.
    gpus: Vec<Gpu>,
    /// What needs no look at other ranks.
    findings: Vec<Finding>,
}

/// Looks at this process and its machine. `local` is its number among the ranks of this machine, `first` whether it is
/// rank 0, which also looks at what is the same for all.
pub fn look(local: usize, first: bool) -> Found {
    let (gpus, mut findings) = gpus::look(local);
    findings.insert(0, memory::look());
    findings.splice(1..1, libraries::look());
    if first {
        findings.extend(slurm::look());
    }
    findings.extend(folders::look());
    Found { host: crate::fabric::host_name(), cores: Cores::look(), gpus, findings }
}

/// Bytes in words.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}
