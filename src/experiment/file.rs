//! What a file of `inputs/experiments/` contains.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use crate::cluster::MOST_RANKS;
use crate::paths::expand;
use crate::plan::{MOST_GLOBAL, MOST_SEQ};
use crate::results::Place;

use super::ExperimentError;

/// An experiment: what is fixed, what varies, and where it runs. `docs/experiments.md` explains every key.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The file.
    pub file: PathBuf,
    /// Its name without extension; names the folder of results.
    pub name: String,
    /// What the file says.
    pub keys: Keys,
}

/// The file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// A line for reports.
    pub title: String,
    /// The base deck, relative to the file.
    pub deck: PathBuf,
    /// Where it runs.
    #[serde(rename = "where")]
    pub place: Where,
    /// Steps at the start of every run that do not count.
    #[serde(default = "one")]
    pub warmup: usize,
    /// Steps of every run that count.
    pub steps: usize,
    /// Runs of every cell; between two of a cell all others run.
    #[serde(default = "one")]
    pub rounds: usize,
    /// Seconds that a run may take.
    #[serde(default = "limit")]
    pub limit: f64,
    /// Links between nodes, by name.
    #[serde(default)]
    pub links: Table,
    /// Changes of the deck's `[model]`, by name.
    #[serde(default)]
    pub models: Table,
    /// Systems with their options, by the label they are shown under.
    pub systems: Table,
    /// What is multiplied out.
    pub cells: Vec<Axes>,
}

/// `[where]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Where {
    /// What the nodes are.
    pub kind: Place,
    /// If simulated: the described cluster, relative to the file, whose first node is repeated as often as cells say.
    pub cluster: Option<PathBuf>,
}

/// One `[[cells]]`: every combination of its lists is a cell.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axes {
    /// Numbers of nodes.
    #[serde(default = "one_each")]
    pub nodes: Vec<usize>,
    /// Ranks of a node.
    pub ranks: Vec<usize>,
    /// Names of links; left out, all.
    pub links: Option<Vec<String>>,
    /// Names of models; left out, all (the deck's own, if there are none).
    pub models: Option<Vec<String>>,
    /// Labels of systems; left out, all.
    pub systems: Option<Vec<String>>,
    /// Tokens of a sequence; left out, the deck's.
    pub seq: Option<Vec<usize>>,
    /// Sequences of a micro-batch; left out, the deck's.
    pub micro: Option<usize>,
    /// Tokens of a micro-batch, instead of `micro`; at least one sequence.
    pub micro_tokens: Option<usize>,
    /// If simulated: instead of `where.cluster`.
    pub cluster: Option<PathBuf>,
    /// Sequences of a step, however many ranks there are (strong scaling); left out, the deck's.
    pub global: Option<usize>,
    /// Tokens of a step, instead of `global`.
    pub global_tokens: Option<usize>,
    /// Micro-batches of a rank and step, instead of `global` (weak scaling).
    pub micros_per_rank: Option<usize>,
    /// Instead of the experiment's.
    pub warmup: Option<usize>,
    /// Instead of the experiment's.
    pub steps: Option<usize>,
    /// Instead of the experiment's.
    pub rounds: Option<usize>,
    /// Other changes of the deck: sections with keys.
    #[serde(default)]
    pub set: Table,
}

/// A link of `[links]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkKeys {
    /// Such as `200mbit`; left out (without `like`), as fast as it goes.
    pub rate: Option<String>,
    /// Such as `50us`.
    pub latency: Option<String>,
    /// The rate at which transfer takes as large a part of a step as on another machine.
    pub like: Option<Like>,
}

/// Another machine, whose ratio of transfer time to compute time a link shall have.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Like {
    /// Its description, relative to the experiment.
    pub cluster: PathBuf,
    /// What it runs, relative to the experiment.
    pub deck: PathBuf,
    /// Changes of that deck: sections with keys.
    #[serde(default)]
    pub set: Table,
    /// The system of `[systems]` whose bytes and step are taken here; the other machine runs that of its deck.
    pub system: String,
}

/// Most steps, and runs of a cell.
const MOST_STEPS: usize = 1_000_000;

/// Longest run, in seconds.
const MOST_SECONDS: f64 = 1e9;

fn one() -> usize {
    1
}

fn one_each() -> Vec<usize> {
    vec![1]
}

fn limit() -> f64 {
    300.0
}

impl Experiment {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// In one line: the file, the key, and what is accepted.
    pub fn read(file: &Path) -> Result<Self, ExperimentError> {
        let text = std::fs::read_to_string(file)
            .map_err(|reason| ExperimentError::Read { file: file.to_path_buf(), reason })?;
        let keys: Keys = toml::from_str(&text).map_err(|error| {
            let before =
                |end: usize| text.as_bytes()[..end.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
            let line = error.span().map_or(1, |span| before(span.start) + 1);
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            ExperimentError::Invalid { file: file.to_path_buf(), message: format!("line {line}: {message}") }
        })?;
        let name = file.file_stem().map_or_else(|| "experiment".into(), |stem| stem.to_string_lossy().into_owned());
        let experiment = Experiment { file: file.to_path_buf(), name, keys };
        experiment.check()?;
        Ok(experiment)
    }

    /// An error about this file.
    pub(super) fn invalid(&self, message: impl Into<String>) -> ExperimentError {
        ExperimentError::Invalid { file: self.file.clone(), message: message.into() }
    }

    /// A path of the file, which is relative to it, or starts with `~`.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        // Paths that are refused have been when the file was read.
        self.folder().join(expand(path, self.folder()).unwrap_or_else(|_| path.to_path_buf()))
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    fn check(&self) -> Result<(), ExperimentError> {
        let keys = &self.keys;
        let range = |key: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(self.invalid(format!("{key} = {value}; it must be from {least} to {most}")))
        };
        range("steps", keys.steps, 1, MOST_STEPS)?;
        range("warmup", keys.warmup, 0, MOST_STEPS)?;
        range("rounds", keys.rounds, 1, MOST_STEPS)?;
        if !(keys.limit > 0.0 && keys.limit <= MOST_SECONDS) {
            return Err(self.invalid(format!("limit = {} must be seconds above 0, at most {MOST_SECONDS}", keys.limit)));
        }
        let paths = [Some(&keys.deck), keys.place.cluster.as_ref()];
        for path in paths.into_iter().flatten().chain(keys.cells.iter().filter_map(|axes| axes.cluster.as_ref())) {
            let wrong = |accepted| self.invalid(format!("\"{}\" must be {accepted}", path.display()));
            expand(path, self.folder()).map_err(wrong)?;
        }
        for name in keys.links.keys() {
            self.link_keys(name)?;
        }
        for (at, axes) in keys.cells.iter().enumerate() {
            let section = format!("cells {}", at + 1);
            if axes.ranks.is_empty() || axes.nodes.is_empty() {
                return Err(self.invalid(format!("{section}: nodes and ranks must not be empty")));
            }
            let lists: [(&str, &[usize], usize); 10] = [
                ("nodes", &axes.nodes, MOST_RANKS),
                ("ranks", &axes.ranks, MOST_RANKS),
                ("seq", axes.seq.as_deref().unwrap_or_default(), MOST_SEQ),
                ("micro", axes.micro.as_slice(), MOST_GLOBAL),
                ("micro_tokens", axes.micro_tokens.as_slice(), MOST_SEQ),
                ("global", axes.global.as_slice(), MOST_GLOBAL),
                ("global_tokens", axes.global_tokens.as_slice(), MOST_GLOBAL * MOST_SEQ),
                ("micros_per_rank", axes.micros_per_rank.as_slice(), MOST_GLOBAL),
                ("steps", axes.steps.as_slice(), MOST_STEPS),
                ("rounds", axes.rounds.as_slice(), MOST_STEPS),
            ];
            for (key, list, most) in lists {
                list.iter().try_for_each(|value| range(&format!("{section}: {key}"), *value, 1, most))?;
            }
            range(&format!("{section}: warmup"), axes.warmup.unwrap_or(0), 0, MOST_STEPS)?;
            let most = |list: &[usize]| list.iter().copied().max().unwrap_or(1);
            range(&format!("{section}: nodes x ranks"), most(&axes.nodes) * most(&axes.ranks), 1, MOST_RANKS)?;
            let sizes = [axes.global.is_some(), axes.global_tokens.is_some(), axes.micros_per_rank.is_some()];
            if sizes.into_iter().filter(|given| *given).count() > 1 {
                let message = "global, global_tokens and micros_per_rank exclude each other";
                return Err(self.invalid(format!("{section}: {message}")));
            }
            if axes.micro.is_some() && axes.micro_tokens.is_some() {
                return Err(self.invalid(format!("{section}: micro and micro_tokens exclude each other")));
            }
            let names = [
                ("links", &axes.links, &keys.links),
                ("models", &axes.models, &keys.models),
                ("systems", &axes.systems, &keys.systems),
            ];
            for (key, wanted, known) in names {
                if let Some(name) = wanted.iter().flatten().find(|name| !known.contains_key(*name)) {
                    let known: Vec<&str> = known.keys().map(String::as_str).collect();
                    let known = known.join(", ");
                    return Err(self.invalid(format!("{section}: {key} has \"{name}\"; accepted: {known}")));
                }
            }
        }
        Ok(())
    }

    /// A link of `[links]`.
    pub(super) fn link_keys(&self, name: &str) -> Result<LinkKeys, ExperimentError> {
        let wrong = |message: String| self.invalid(format!("links.\"{name}\": {message}"));
        let value = self.keys.links.get(name).cloned().unwrap_or_else(|| Table::new().into());
        let keys: LinkKeys = value.try_into().map_err(|error: toml::de::Error| wrong(error.message().to_string()))?;
        if keys.rate.is_some() && keys.like.is_some() {
            return Err(wrong("rate and like exclude each other".into()));
        }
        if let Some(text) = &keys.rate {
            rate(text)
                .ok_or_else(|| wrong(format!("rate = \"{text}\"; accepted: 200mbit, 1gbit, 56kbit and so on")))?;
        }
        if let Some(text) = &keys.latency {
            seconds(text).ok_or_else(|| wrong(format!("latency = \"{text}\"; accepted: 50us, 1.5ms, 1s and so on")))?;
        }
        if let Some(like) = &keys.like
            && !self.keys.systems.contains_key(&like.system)
        {
            return Err(wrong(format!("like.system = \"{}\" is not one of [systems]", like.system)));
        }
        Ok(keys)
    }
}

/// Bits a second of a rate as `tc` writes it.
pub fn rate(text: &str) -> Option<f64> {
    with_unit(text, &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)])
}

/// Seconds of a time as `tc` writes it.
pub fn seconds(text: &str) -> Option<f64> {
    with_unit(text, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])
}

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let value = number.trim().parse::<f64>().ok()? * factor;
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates and times as `tc` reads them.
    #[test]
    fn units() {
        assert_eq!((rate("200mbit"), rate("1.5gbit"), rate("56kbit")), (Some(2e8), Some(1.5e9), Some(56e3)));
        // Powers of two, which no unit rounds.
        assert_eq!((seconds("2s"), seconds("2ms"), seconds("64us")), (Some(2.0), Some(2e-3), Some(64.0 * 1e-6)));
        assert_eq!((rate("200"), rate("fast"), rate("-1mbit"), rate("1mb")), (None, None, None, None));
    }
}
