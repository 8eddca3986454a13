//! The parts of a run: from one start of the program to its end.

use serde::{Deserialize, Serialize};

/// Threads that compute on the node where they have the fewest cores each, and the cores that they may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    /// Threads of all ranks of the node.
    pub threads: usize,
    /// Cores that these ranks may use together.
    pub cores: usize,
}

/// What a part of a run says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunInfo {
    /// The resolved deck, TOML.
    pub deck: String,
    /// Name of the parallel system.
    pub system: String,
    /// Sizes of the groups of ranks.
    pub groups: Vec<usize>,
    /// The library that multiplies matrices on processors, with its version; `None` for this program's own code.
    pub library: Option<String>,
    /// The threads that compute and their cores; `None` on GPUs.
    pub cores: Option<Cores>,
}

/// A part of a run, a line of the journal: all rows of later steps belong to it, up to the next part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its number, from 1.
    pub part: u64,
    /// Steps taken before it.
    pub step: u64,
    /// When it started, UTC.
    pub started: String,
    /// Version of this program.
    pub version: String,
    /// Name of the parallel system.
    pub system: String,
    /// Number of ranks.
    pub ranks: usize,
    /// Sizes of the groups of ranks.
    pub groups: Vec<usize>,
    /// The library that multiplies matrices on processors.
    pub library: Option<String>,
    /// The threads that compute and their cores; `None` on GPUs, and in runs of versions that did not record them.
    pub cores: Option<Cores>,
    /// The resolved deck, TOML.
    pub deck: String,
}

impl Part {
    /// A part that starts now, after `step` steps.
    pub fn new(part: u64, step: u64, info: RunInfo) -> Self {
        Part {
            part,
            step,
            started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            ranks: info.groups.iter().sum(),
            system: info.system,
            groups: info.groups,
            library: info.library,
            cores: info.cores,
            deck: info.deck,
        }
    }

    /// As a JSON object on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let Part { part, step, started, version, system, groups, library, .. } = self;
        let library = library.as_ref().map_or_else(String::new, |library| format!(", {library}"));
        format!(
            "part {part}, from step {} on: {system}, groups {groups:?}, tawpipe {version}{library}, {started}",
            step + 1
        )
    }
}
