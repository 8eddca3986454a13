//! Decks: what a run is asked to do, read from TOML and validated.
//!
//! A deck is one TOML file of a few sections ([`Deck`]'s fields). Paths are relative to it. `--set section.key=value`
//! replaces single keys. Reading fills in every default, so that [`Deck::to_toml`], saved with each run, says all there
//! is to know; a key that nothing reads is an error. Sections and their documentation stand in `sections.rs`.

pub mod docs;
mod error;
mod guard;
mod resolve;
mod section;
mod sections;
mod system;
mod value;

pub use error::DeckError;
pub use guard::{OnNonfinite, Spike};
pub use section::{Key, Section};
pub use sections::{BatchSection, ClusterSection, DataSection, GpuSection, ModelSection, OptimSection, RunSection};
pub use value::{CostSource, DeviceKind, FabricKind, Memory, Poll, RanksPerGroup, Schedule, Seconds};

use std::path::{Path, PathBuf};

use toml::{Table, Value as Toml};

use crate::cluster::{Costs, Groups};
use crate::data::{Dataset, Request, Source, TokenizerChoice};
use crate::model::ModelShape;
use crate::plan::systems::SystemOptions;
use crate::plan::{Batch, Job};

use error::nearest;
use section::{Fields, Origin};

/// A validated deck with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Deck {
    /// The file it was read from, as given; names the run.
    pub file: PathBuf,
    /// `[model]`.
    pub model: ModelSection,
    /// `[data]`.
    pub data: DataSection,
    /// `[batch]`.
    pub batch: BatchSection,
    /// `[optim]`.
    pub optim: OptimSection,
    /// `[run]`.
    pub run: RunSection,
    /// `[gpu]`.
    pub gpu: GpuSection,
    /// `[cluster]`.
    pub cluster: ClusterSection,
    /// `[system]`.
    pub system: SystemOptions,
}

/// All sections.
pub const SECTIONS: [&str; 8] = ["model", "data", "batch", "optim", "run", "gpu", "cluster", "system"];

impl Deck {
    /// Reads a deck file and replaces the keys of `sets` (each `section.key=value`).
    pub fn read(file: &Path, sets: &[String]) -> Result<Deck, DeckError> {
        let text =
            std::fs::read_to_string(file).map_err(|reason| DeckError::Read { file: file.to_path_buf(), reason })?;
        Deck::parse(&text, file, sets)
    }

    /// Reads a deck from text; `file` names it in messages, and relative paths start at its folder.
    pub fn parse(text: &str, file: &Path, sets: &[String]) -> Result<Deck, DeckError> {
        let mut table: Table = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            DeckError::Syntax { file: file.to_path_buf(), line, message }
        })?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|reason| DeckError::Read { file: file.to_path_buf(), reason })?;
        let mut origin = Origin { file: file.to_path_buf(), folder, sets: Default::default() };
        for set in sets {
            apply(set, &mut table, &mut origin)?;
        }
        let mut sections = Sections { table, origin: &origin };
        let mut deck = Deck {
            file: file.to_path_buf(),
            model: sections.take()?,
            data: sections.take()?,
            batch: sections.take()?,
            optim: sections.take()?,
            run: sections.take()?,
            gpu: sections.take()?,
            cluster: sections.take()?,
            system: system::read(sections.table_of("system")?, &origin)?,
        };
        sections.finish()?;
        deck.resolve(&origin)?;
        Ok(deck)
    }

    /// The resolved deck: every key that has a value. Reading it back gives this deck, wherever it lies.
    pub fn to_toml(&self) -> String {
        let sections = [
            ("model", self.model.write()),
            ("data", self.data.write()),
            ("batch", self.batch.write()),
            ("optim", self.optim.write()),
            ("run", self.run.write()),
            ("gpu", self.gpu.write()),
            ("cluster", self.cluster.write()),
            ("system", system::write(&self.system)),
        ];
        let table: Table = sections.into_iter().map(|(name, table)| (name.into(), Toml::Table(table))).collect();
        toml::to_string(&table).expect("a deck is plain TOML")
    }

    /// The deck's name: its file name without extension.
    pub fn name(&self) -> String {
        self.file.file_stem().map_or_else(|| "run".into(), |stem| stem.to_string_lossy().into_owned())
    }

    /// What a system is asked to plan. `shape` is [`ModelSection::shape`], or that of the model at `model.from`.
    pub fn job(&self, shape: ModelShape, groups: Groups) -> Result<Job, DeckError> {
        shape.validate().map_err(|shape| DeckError::Shape { file: self.file.clone(), shape })?;
        let batch = Batch { seq: self.data.seq, micro: self.batch.micro, micros: self.batch.global / self.batch.micro };
        let job = Job {
            groups,
            batch,
            dtype: self.run.dtype,
            grad_dtype: self.run.grad_dtype,
            recompute: self.run.recompute,
            costs: match self.cluster.costs {
                CostSource::Given(costs) => costs,
                CostSource::Flops | CostSource::Measure => Costs::flops(&shape, batch.micro, batch.seq),
            },
            memory: self.cluster.memory.map(|memory| memory.0),
            shape,
            system: self.system.clone(),
        };
        job.check().map_err(|refusal| DeckError::Invalid { file: self.file.clone(), message: refusal.0 })?;
        Ok(job)
    }

    /// The groups `cluster.ranks_per_group` asks for; `None` if MPI shall tell.
    pub fn groups(&self, ranks: usize) -> Result<Option<Groups>, DeckError> {
        let sizes = match &self.cluster.ranks_per_group {
            None => return Ok(None),
            Some(RanksPerGroup::Each(size)) => {
                (0..ranks).step_by(*size).map(|first| (*size).min(ranks - first)).collect()
            }
            Some(RanksPerGroup::List(sizes)) => sizes.clone(),
        };
        let sum: usize = sizes.iter().sum();
        if sum != ranks {
            let message = format!("cluster.ranks_per_group = {sizes:?} are {sum} ranks, but there are {ranks}");
            return Err(DeckError::Invalid { file: self.file.clone(), message });
        }
        Ok(Some(Groups::new(&sizes)))
    }

    /// How text becomes token ids: `data.tokenizer`, or the run's copy of it if that file is gone.
    pub fn tokenizer(&self) -> TokenizerChoice {
        let choice = &self.data.tokenizer;
        self.run.folder.as_ref().map_or_else(|| choice.clone(), |run| choice.or_kept(run))
    }

    /// Opens the data and checks it against the model's vocabulary.
    pub fn dataset(&self, vocab: usize) -> Result<Dataset, DeckError> {
        let source = match (&self.data.text, &self.data.tokens) {
            (Some(text), _) => Source::Text(text.clone()),
            (None, Some(tokens)) => Source::Tokens(tokens.clone(), self.data.token_type),
            (None, None) => unreachable!("a deck is read with one of them"),
        };
        let request = Request {
            source,
            tokenizer: self.tokenizer(),
            valid: self.data.valid.clone(),
            order: self.data.order,
            seed: self.run.seed,
            seq: self.data.seq,
            global: self.batch.global,
            micro: self.batch.micro,
            vocab,
        };
        Dataset::open(&request).map_err(|data| DeckError::Data { file: self.file.clone(), data })
    }
}

/// Replaces one key of the table by `section.key=value`; the value is TOML, or else a string.
fn apply(set: &str, table: &mut Table, origin: &mut Origin) -> Result<(), DeckError> {
    let malformed = || DeckError::Set(set.to_string());
    let (key, value) = set.split_once('=').ok_or_else(malformed)?;
    let (section, name) = key.trim().split_once('.').ok_or_else(malformed)?;
    let value = value.trim();
    let value = match toml::from_str::<Table>(&format!("value = {value}")) {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").expect("its only key"),
        _ => Toml::String(value.to_string()),
    };
    origin.sets.insert(format!("{section}.{name}"), set.to_string());
    match table.entry(section).or_insert_with(|| Toml::Table(Table::new())) {
        Toml::Table(fields) => fields.insert(name.to_string(), value),
        _ => return Err(malformed()),
    };
    Ok(())
}

/// A deck's sections, taken one by one.
struct Sections<'a> {
    table: Table,
    origin: &'a Origin,
}

impl Sections<'_> {
    fn table_of(&mut self, name: &str) -> Result<Table, DeckError> {
        match self.table.remove(name) {
            None => Ok(Table::new()),
            Some(Toml::Table(table)) => Ok(table),
            Some(found) => Err(DeckError::Value {
                origin: self.origin.of(name),
                key: name.to_string(),
                found: found.to_string(),
                accepts: format!("a section: [{name}]"),
            }),
        }
    }

    fn take<S: Section>(&mut self) -> Result<S, DeckError> {
        S::read(Fields::new(S::NAME, self.table_of(S::NAME)?, self.origin, &S::keys())?)
    }

    fn finish(self) -> Result<(), DeckError> {
        let Some(name) = self.table.keys().next() else { return Ok(()) };
        let set = self.origin.sets.iter().find(|(key, _)| key.split('.').next() == Some(name));
        let origin = set.map_or_else(|| self.origin.of(name), |(key, _)| self.origin.of(key));
        let hint = nearest(name, "", &SECTIONS);
        Err(DeckError::Unknown { origin, what: "section", name: name.clone(), hint })
    }
}
