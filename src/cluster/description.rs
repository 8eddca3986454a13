//! A machine in a file: how many ranks, how fast each computes, how fast they talk.
//!
//! All quantities are in SI units: bytes, bytes a second, operations a second, seconds. `inputs/clusters/` has examples,
//! `docs/simulator.md` explains every key; `tawpipe calibrate` writes one for the machine it runs on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Groups, MOST_RANKS, Rank};
use crate::model::Dtype;
use crate::paths::expand;

/// A machine.
///
/// ```
/// use tawpipe::cluster::Description;
/// let machine = Description::read("inputs/clusters/paper-3x8-10gbe.toml".as_ref()).unwrap();
/// assert_eq!(machine.groups().sizes(), [8, 8, 8]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// For tables.
    pub name: String,
    /// Nodes, in the order of their ranks.
    pub nodes: Vec<Node>,
    /// What one rank computes with. Left out if `calibration` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<DeviceRates>,
    /// A description whose device is used, relative to this file: what `calibrate` wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<PathBuf>,
    /// How ranks talk.
    pub links: Links,
    /// What software adds.
    #[serde(default)]
    pub overhead: Overhead,
}

/// Several equal nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// How many.
    pub count: usize,
    /// Ranks on each.
    pub ranks: usize,
    /// How the ranks of one node are grouped, if not all together: one machine that plays several nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<usize>>,
    /// Processor cores that the ranks of a node share; left out, every rank has a processor of its own, on which
    /// messages cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
}

/// What one rank computes with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRates {
    /// Bytes a rank may use.
    pub memory: f64,
    /// Bytes a second of operations that only pass over memory: copies, sums, norms, the optimizer.
    pub memory_rate: f64,
    /// Operations a second that no kernel can exceed, for MFU; left out, there is no MFU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak: Option<f64>,
    /// Sustained operations a second by kernel class at one or more widths of the model; between two widths the rates
    /// are interpolated on logarithmic scales, beyond them the nearest holds.
    pub rates: Vec<Rates>,
}

/// Sustained operations a second of one rank (with cores: of one core).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Type of the operands; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Hidden size at which this was measured.
    pub dim: f64,
    /// A block's matrix products, forward.
    pub forward: f64,
    /// A block's matrix products, backward.
    pub backward: f64,
    /// Causal attention, forward; the half of the products that causality leaves is counted.
    pub attention: f64,
    /// Causal attention, backward, counted the same way (five products).
    pub attention_backward: f64,
    /// The output projection with its loss, forward and backward.
    pub head: f64,
}

/// How ranks talk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Between ranks of one node.
    pub intra: IntraLink,
    /// Between nodes.
    pub inter: InterLink,
}

/// Whether a link carries both directions at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplex {
    /// Each direction has the full rate.
    Full,
    /// Both directions share the rate.
    Half,
}

/// A link inside a node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntraLink {
    /// Seconds before the first byte of a message arrives.
    pub latency: f64,
    /// Bytes a second: of one rank's link, or of all of them together if `shared`.
    pub rate: f64,
    /// Whether both directions run at once; says nothing about a link that is `shared`.
    pub duplex: Duplex,
    /// All ranks of a node share one link (a bus, the memory), over which every byte goes once, instead of having one
    /// each into a switch.
    #[serde(default)]
    pub shared: bool,
}

/// The links between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterLink {
    /// Seconds before the first byte of a message arrives.
    pub latency: f64,
    /// Bytes a second of one network card.
    pub rate: f64,
    /// Whether both directions run at once.
    pub duplex: Duplex,
    /// Network cards a node; the rank with local index i uses card i mod `nics`.
    pub nics: usize,
}

/// What software adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overhead {
    /// Seconds that starting an operation takes.
    pub op: f64,
    /// Seconds that starting a message, or a step of a collective, takes beside its latency.
    pub message: f64,
    /// Core seconds a byte that either end of a message spends on moving it, where ranks share cores.
    pub copy: f64,
}

/// Most network cards of a node.
const MOST_NICS: usize = 1024;
/// Smallest rate or amount.
const LEAST: f64 = 1e-9;
/// Largest rate, amount or time.
const MOST: f64 = 1e24;

/// What is wrong with a description; one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The file cannot be read.
    #[error("{file}: cannot read the cluster description: {reason}")]
    Read {
        /// The description.
        file: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The file is no TOML, or no description.
    #[error("{file}: {message}")]
    Syntax {
        /// The description.
        file: PathBuf,
        /// Line, key and what is accepted.
        message: String,
    },
    /// A number out of range, or keys that do not fit together.
    #[error("{file}: {message}")]
    Invalid {
        /// The description.
        file: PathBuf,
        /// Key, value and what is accepted.
        message: String,
    },
}

impl Description {
    /// Reads a description, and the calibration it refers to.
    ///
    /// # Errors
    /// What is wrong with either file.
    pub fn read(file: &Path) -> Result<Self, DescriptionError> {
        let mut description = Self::parse(file)?;
        if let Some(calibration) = &description.calibration {
            let folder = file.parent().unwrap_or(Path::new(""));
            let calibration = expand(calibration, folder).map_err(|accepted| DescriptionError::Invalid {
                file: file.into(),
                message: format!("calibration = \"{}\" must be {accepted}", calibration.display()),
            })?;
            let path = folder.join(calibration);
            description.device = Self::parse(&path)?.device;
        }
        description.check().map_err(|message| DescriptionError::Invalid { file: file.into(), message })?;
        Ok(description)
    }

    fn parse(file: &Path) -> Result<Self, DescriptionError> {
        let text =
            std::fs::read_to_string(file).map_err(|reason| DescriptionError::Read { file: file.into(), reason })?;
        toml::from_str(&text).map_err(|error| {
            let before =
                |end: usize| text.as_bytes()[..end.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
            let line = error.span().map_or(1, |span| before(span.start) + 1);
            let message = format!("line {line}: {}", error.message().replace('\n', ", "));
            DescriptionError::Syntax { file: file.into(), message }
        })
    }

    /// A description of nodes with this device.
    pub fn new(
        name: impl Into<String>,
        nodes: Vec<Node>,
        device: DeviceRates,
        links: Links,
        overhead: Overhead,
    ) -> Self {
        Description { name: name.into(), nodes, device: Some(device), calibration: None, links, overhead }
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers and names have a form in TOML")
    }

    fn check(&self) -> Result<(), String> {
        let Some(device) = &self.device else {
            return Err("a description has a [device] or a calibration that has one".into());
        };
        if self.nodes.is_empty() {
            return Err("there are no [[nodes]]".into());
        }
        let all = self.nodes.iter().map(|node| node.count.saturating_mul(node.ranks));
        if all.fold(0, usize::saturating_add) > MOST_RANKS {
            return Err(format!("nodes.count x nodes.ranks of all [[nodes]] are more than {MOST_RANKS} ranks"));
        }
        for node in &self.nodes {
            if node.count == 0 || node.ranks == 0 {
                return Err("nodes.count and nodes.ranks must be at least 1".into());
            }
            if let Some(groups) = &node.groups
                && (groups.contains(&0) || groups.iter().copied().fold(0, usize::saturating_add) != node.ranks)
            {
                return Err(format!("nodes.groups = {groups:?} must add up to nodes.ranks = {}", node.ranks));
            }
        }
        if !(1..=MOST_NICS).contains(&self.links.inter.nics) {
            return Err(format!("links.inter.nics must be from 1 to {MOST_NICS}"));
        }
        if device.rates.is_empty() {
            return Err("there are no [[device.rates]]".into());
        }
        let mut above = vec![
            ("device.memory", device.memory),
            ("device.memory_rate", device.memory_rate),
            ("device.peak", device.peak.unwrap_or(1.0)),
            ("links.intra.rate", self.links.intra.rate),
            ("links.inter.rate", self.links.inter.rate),
        ];
        above.extend(self.nodes.iter().map(|node| ("nodes.cores", node.cores.unwrap_or(1.0))));
        for rates in &device.rates {
            above.extend([
                ("device.rates.dim", rates.dim),
                ("device.rates.forward", rates.forward),
                ("device.rates.backward", rates.backward),
                ("device.rates.attention", rates.attention),
                ("device.rates.attention_backward", rates.attention_backward),
                ("device.rates.head", rates.head),
            ]);
        }
        if let Some((key, value)) = above.into_iter().find(|(_, value)| !(LEAST..=MOST).contains(value)) {
            return Err(format!("{key} = {value} must be a number from {LEAST:e} to {MOST:e}"));
        }
        let least = [
            ("links.intra.latency", self.links.intra.latency),
            ("links.inter.latency", self.links.inter.latency),
            ("overhead.op", self.overhead.op),
            ("overhead.message", self.overhead.message),
            ("overhead.copy", self.overhead.copy),
        ];
        if let Some((key, value)) = least.into_iter().find(|(_, value)| !(0.0..=MOST).contains(value)) {
            return Err(format!("{key} = {value} must be a number from 0 to {MOST:e}"));
        }
        Ok(())
    }

    /// What one rank computes with.
    pub fn device(&self) -> &DeviceRates {
        self.device.as_ref().expect("a description that has been read has a device")
    }

    /// The same machine with another device.
    pub fn with_device(mut self, device: DeviceRates) -> Self {
        self.device = Some(device);
        self
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.nodes.iter().map(|node| node.count * node.ranks).sum()
    }

    /// The groups of all ranks: one a node, unless `nodes.groups` says otherwise.
    pub fn groups(&self) -> Groups {
        let of = |node: &Node| node.groups.clone().unwrap_or(vec![node.ranks]).repeat(node.count);
        Groups::new(&self.nodes.iter().flat_map(of).collect::<Vec<_>>())
    }

    /// The groups of the first `ranks` ranks, the last one perhaps cut short; `None` if there are fewer.
    pub fn first(&self, ranks: usize) -> Option<Groups> {
        let all = self.groups();
        let size = |group| all.members(group).end.min(ranks).saturating_sub(all.members(group).start);
        let sizes: Vec<usize> = (0..all.count()).map(size).filter(|&size| size > 0).collect();
        (ranks > 0 && ranks <= all.ranks()).then(|| Groups::new(&sizes))
    }

    /// Node of every rank, and its index there.
    pub fn places(&self) -> Vec<(usize, usize)> {
        let sizes = self.nodes.iter().flat_map(|node| vec![node.ranks; node.count]);
        sizes.enumerate().flat_map(|(node, ranks)| (0..ranks).map(move |index| (node, index))).collect()
    }

    /// Cores of every node, `None` where ranks have processors of their own.
    pub fn cores(&self) -> Vec<Option<f64>> {
        self.nodes.iter().flat_map(|node| vec![node.cores; node.count]).collect()
    }

    /// The node of a rank.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn node_of(&self, rank: Rank) -> usize {
        self.places()[rank].0
    }
}

impl DeviceRates {
    /// The rates for a model of this width in this type. If no rates are for this type, those of all types serve.
    pub fn at(&self, dim: usize, dtype: Dtype) -> Rates {
        let fits = |rates: &&Rates| rates.dtype.is_none_or(|d| d == dtype);
        let mut points: Vec<&Rates> = self.rates.iter().filter(fits).collect();
        if points.is_empty() {
            points = self.rates.iter().collect();
        }
        points.sort_by(|a, b| a.dim.total_cmp(&b.dim));
        let dim = dim as f64;
        let above = points.iter().position(|point| point.dim >= dim).unwrap_or(points.len() - 1);
        let (a, b) = (points[above.saturating_sub(1)], points[above]);
        let part = if b.dim > a.dim { ((dim / a.dim).ln() / (b.dim / a.dim).ln()).clamp(0.0, 1.0) } else { 0.0 };
        let mix = |of: fn(&Rates) -> f64| of(a) * (of(b) / of(a)).powf(part);
        Rates {
            dtype: Some(dtype),
            dim,
            forward: mix(|r| r.forward),
            backward: mix(|r| r.backward),
            attention: mix(|r| r.attention),
            attention_backward: mix(|r| r.attention_backward),
            head: mix(|r| r.head),
        }
    }
}
