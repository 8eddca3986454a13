//! The matrix multiplied out.

use std::path::Path;

use toml::{Table, Value};

use crate::cluster::Description;
use crate::deck::Deck;
use crate::results::{Cell, Link, Place, Program};

use super::file::{Axes, LinkKeys, rate, seconds};
use super::simulated::grown;
use super::{Experiment, ExperimentError};

/// Modes of `benches/torch_sharded.py`.
const TORCH_MODES: [&str; 4] = ["ddp", "fsdp", "fsdp-sync", "hsdp"];

/// The link that has no limits.
const UNSHAPED: &str = "unshaped";

/// A cell, and what only its runner needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The cell. Of a link that is `like` another machine's, the rate is still to be derived.
    pub cell: Cell,
    /// Runs.
    pub rounds: usize,
    /// If the link is `like` another machine's: the cell at the same point without limits on its links, from whose step
    /// the rate is derived.
    pub probe: Option<Box<Planned>>,
    /// If it is simulated: on which machine.
    pub machine: Option<Description>,
}

impl Experiment {
    /// Every combination of every `[[cells]]`, each once, in the file's order. `place` replaces the file's.
    ///
    /// # Errors
    /// If a deck is refused, or two different cells would have the same name.
    pub fn cells(&self, place: Option<Place>) -> Result<Vec<Planned>, ExperimentError> {
        let mut all: Vec<Planned> = Vec::new();
        for axes in &self.keys.cells {
            for planned in self.multiply(axes, place.unwrap_or(self.keys.place.kind))? {
                match all.iter_mut().find(|other| other.cell.id == planned.cell.id) {
                    None => all.push(planned),
                    // The same point of two series, such as weak and strong scaling.
                    Some(other) if other.cell == planned.cell => other.rounds = other.rounds.max(planned.rounds),
                    Some(_) => {
                        let id = planned.cell.id;
                        return Err(
                            self.invalid(format!("two different cells are called {id}; rename a system or a model"))
                        );
                    }
                }
            }
        }
        Ok(all)
    }

    fn multiply(&self, axes: &Axes, place: Place) -> Result<Vec<Planned>, ExperimentError> {
        let keys = &self.keys;
        let names = |wanted: &Option<Vec<String>>, known: &Table| -> Vec<String> {
            wanted.clone().unwrap_or_else(|| known.keys().cloned().collect())
        };
        let or = |list: Vec<String>, other: &str| if list.is_empty() { vec![other.to_string()] } else { list };
        let deck_name = keys.deck.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let links = or(names(&axes.links, &keys.links), UNSHAPED);
        let models = or(names(&axes.models, &keys.models), &deck_name);
        let seqs: Vec<Option<usize>> = match &axes.seq {
            None => vec![None],
            Some(list) => list.iter().copied().map(Some).collect(),
        };
        let mut planned = Vec::new();
        for &nodes in &axes.nodes {
            for &ranks in &axes.ranks {
                for model in &models {
                    for &seq in &seqs {
                        for link in &links {
                            for label in names(&axes.systems, &keys.systems) {
                                let point = Point { axes, place, sizes: vec![ranks; nodes], model, seq, link, label };
                                planned.push(self.planned(point)?);
                            }
                        }
                    }
                }
            }
        }
        Ok(planned)
    }

    fn planned(&self, point: Point) -> Result<Planned, ExperimentError> {
        let rounds = point.axes.rounds.unwrap_or(self.keys.rounds);
        let probe = match self.link_keys(point.link)?.like {
            None => None,
            Some(like) => {
                let point = Point { link: UNSHAPED, label: like.system, ..point.clone() };
                Some(Box::new(Planned { cell: self.cell(point)?, rounds: 1, probe: None, machine: None }))
            }
        };
        let cluster = point.axes.cluster.as_ref().or(self.keys.place.cluster.as_ref());
        let (place, sizes) = (point.place, point.sizes.clone());
        let mut cell = self.cell(point)?;
        let mut machine = None;
        if place == Place::Simulated {
            let file = cluster.ok_or_else(|| self.invalid("simulated cells want a cluster: where.cluster"))?;
            let described = Description::read(&self.path(file)).map_err(ExperimentError::Description)?;
            let grown = grown(&described, &sizes, cell.link.rate);
            let name = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            cell.id = format!("{}.{}", cell.id, slug(&name));
            cell.link.rate = Some(8.0 * grown.links.inter.rate);
            cell.cluster = Some(described.name);
            machine = Some(grown);
        }
        Ok(Planned { cell, rounds, probe, machine })
    }

    fn cell(&self, point: Point) -> Result<Cell, ExperimentError> {
        let Point { axes, place, sizes, model, seq, link, label } = point;
        let keys = &self.keys;
        let fragment =
            |table: &Table, name: &str| table.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
        let mut system = fragment(&keys.systems, &label);
        let torch = system.remove("torch");
        let (warmup, steps) = (axes.warmup.unwrap_or(keys.warmup), axes.steps.unwrap_or(keys.steps));

        let mut sets = sets(&axes.set, "");
        sets.extend(self::sets(&fragment(&keys.models, model), "model"));
        sets.extend(self::sets(&system, "system"));
        sets.extend(seq.map(|seq| format!("data.seq={seq}")));
        sets.push(format!("run.steps={}", warmup + steps));
        let read = |sets: &[String]| {
            Deck::read(&self.path(&keys.deck), sets).map_err(|deck| ExperimentError::Deck {
                file: self.file.clone(),
                label: label.clone(),
                deck: Box::new(deck),
            })
        };
        let length = match seq {
            Some(seq) => seq,
            None => read(&[])?.data.seq,
        };
        let micro = match axes.micro.or(axes.micro_tokens.map(|tokens| (tokens / length).max(1))) {
            Some(micro) => micro,
            None => read(&[])?.batch.micro,
        };
        if axes.micro.is_some() || axes.micro_tokens.is_some() {
            sets.push(format!("batch.micro={micro}"));
        }
        let ranks: usize = sizes.iter().sum();
        let global = axes.micros_per_rank.map(|each| each.saturating_mul(micro).saturating_mul(ranks)).or(axes.global);
        let global = global.or(axes.global_tokens.map(|tokens| tokens / length));
        sets.extend(global.map(|global| format!("batch.global={global}")));
        let deck = read(&sets)?;
        let Some(shape) = deck.model.shape() else {
            return Err(self.invalid("deck: experiments want a shape in [model], not model.from"));
        };

        let (program, name, options) = match torch {
            None => {
                let options = serde_json::to_value(&deck.system).ok().and_then(|value| value.as_object().cloned());
                (Program::Tawpipe, deck.system.name().to_string(), options.unwrap_or_default())
            }
            Some(mode) => match mode.as_str().filter(|mode| TORCH_MODES.contains(mode)) {
                Some(mode) => (Program::Torch, mode.to_string(), Default::default()),
                None => {
                    let accepted = TORCH_MODES.join(", ");
                    return Err(self.invalid(format!("systems.\"{label}\": torch = {mode}; accepted: {accepted}")));
                }
            },
        };
        let id = format!(
            "{}.{}x{}.{}.{}.s{}.g{}",
            slug(&label),
            sizes.len(),
            sizes[0],
            slug(link),
            slug(model),
            deck.data.seq,
            deck.batch.global
        );
        Ok(Cell {
            experiment: self.name.clone(),
            id,
            series: label,
            program,
            system: name,
            options,
            place,
            ranks_per_node: sizes,
            link: self.link(link)?,
            cluster: None,
            model: model.to_string(),
            parameters: shape.params(),
            shape,
            seq: deck.data.seq,
            micro: deck.batch.micro,
            global: deck.batch.global,
            dtype: deck.run.dtype,
            grad_dtype: deck.run.grad_dtype,
            recompute: deck.run.recompute,
            deck: keys.deck.display().to_string(),
            sets,
            warmup,
            steps,
        })
    }

    /// A link as the file says it; of one that is `like` another machine's, without a rate.
    fn link(&self, name: &str) -> Result<Link, ExperimentError> {
        let LinkKeys { rate: given, latency, .. } = self.link_keys(name)?;
        Ok(Link {
            name: name.to_string(),
            rate: given.as_deref().and_then(rate),
            latency: latency.as_deref().and_then(seconds).unwrap_or(0.0),
            derivation: None,
        })
    }

    /// The base deck's path.
    pub(super) fn deck(&self) -> std::path::PathBuf {
        self.path(Path::new(&self.keys.deck))
    }
}

/// A point of the matrix.
#[derive(Clone)]
struct Point<'a> {
    axes: &'a Axes,
    place: Place,
    sizes: Vec<usize>,
    model: &'a str,
    seq: Option<usize>,
    link: &'a str,
    label: String,
}

/// A fragment of a deck as `section.key=value`: tables are sections, other keys belong to `section`.
pub fn sets(fragment: &Table, section: &str) -> Vec<String> {
    fragment
        .iter()
        .flat_map(|(key, value)| match value {
            Value::Table(table) if section.is_empty() || !table.is_empty() => {
                table.iter().map(|(inner, value)| format!("{key}.{inner}={value}")).collect()
            }
            value if section.is_empty() => vec![format!("{key}={value}")],
            value => vec![format!("{section}.{key}={value}")],
        })
        .collect()
}

/// A name that is safe in file names: lower-case letters and digits, everything else a single dash.
fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    out.trim_end_matches('-').to_string()
}
