//! An experiment from its first missing cell to its last.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::Description;
use crate::results::{Cell, FORMAT, Measured, Outcome, Place, Program, Provenance, Record, Round, read, write};

use super::child::{self, End};
use super::counted::count;
use super::here::{calibration, foresee};
use super::launch::Host;
use super::like::{self, Ratio};
use super::provenance::{now, provenance, spell};
use super::{Experiment, ExperimentError, Planned, agreement, simulated};

/// What was typed beside the file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Cells whose id has one of these texts in it, or is one of them; none: all.
    pub only: Vec<String>,
    /// Where result files go.
    pub results: PathBuf,
    /// Runs cells again whose result is a failure.
    pub retry_failed: bool,
    /// Starts no run after this time.
    pub limit: Option<Duration>,
    /// Instead of the file's.
    pub place: Option<Place>,
    /// The Python that has PyTorch; without it its cells are left out.
    pub torch: Option<String>,
    /// Leaves out predictions, and the calibration that they need.
    pub no_predictions: bool,
}

/// What an experiment has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every cell that can be run here has its result.
    Done,
    /// The time limit came first: so many runs are missing.
    Limit(usize),
    /// A signal came first.
    Stopped(usize),
}

impl Options {
    fn wants(&self, cell: &Cell, all: &[Planned]) -> bool {
        let exact = |text: &String| all.iter().any(|other| other.cell.id == *text);
        self.only.is_empty()
            || self.only.iter().any(|text| if exact(text) { cell.id == *text } else { cell.id.contains(text.as_str()) })
    }

    /// Why a cell cannot be run here, if so.
    pub fn skips(&self, planned: &Planned) -> Option<String> {
        let cell = &planned.cell;
        if cell.program == Program::Torch && self.torch.is_none() {
            return Some("needs PyTorch: --torch PYTHON, or TAWPIPE_TORCH".into());
        }
        if !matches!(cell.place, Place::VirtualCluster | Place::Simulated)
            && (cell.link.rate.is_some() || cell.link.latency > 0.0 || planned.probe.is_some())
        {
            return Some("needs a virtual cluster, whose links have rates".into());
        }
        let nodes = std::env::var("SLURM_NNODES").ok().and_then(|text| text.parse::<usize>().ok());
        match nodes {
            Some(nodes) if cell.place == Place::Allocation && cell.nodes() > nodes => {
                Some(format!("needs {} nodes, the allocation has {nodes}", cell.nodes()))
            }
            _ => None,
        }
    }

    /// The cells of an experiment that were asked for.
    ///
    /// # Errors
    /// If the experiment is refused, or nothing is left.
    pub fn choose(&self, experiment: &Experiment) -> Result<Vec<Planned>, ExperimentError> {
        let all = experiment.cells(self.place)?;
        let chosen: Vec<Planned> = all.iter().filter(|planned| self.wants(&planned.cell, &all)).cloned().collect();
        match chosen.is_empty() {
            true => Err(ExperimentError::Place(format!("--only {}: no cell is called so", self.only.join(" ")))),
            false => Ok(chosen),
        }
    }

    /// The result of a cell, if there is one of this very cell.
    ///
    /// # Errors
    /// If a file of its name is no result.
    pub fn result(&self, cell: &Cell) -> Result<Option<Record>, ExperimentError> {
        if cell.place == Place::Simulated {
            return simulated::result(self, cell);
        }
        let file = self.results.join(format!("{}.json", cell.id));
        if !file.exists() {
            return Ok(None);
        }
        let record = read(&file)?;
        if same(&record.cell, cell) {
            return Ok(Some(record));
        }
        log::warn!("{} was measured with other settings and is measured again", file.display());
        Ok(None)
    }
}

/// Whether a result is of a cell: all but a rate that is derived must be the same.
fn same(found: &Cell, wanted: &Cell) -> bool {
    let mut found = found.clone();
    if found.link.derivation.is_some() && wanted.link.derivation.is_none() && wanted.link.rate.is_none() {
        found.link = wanted.link.clone();
    }
    found == *wanted
}

/// Measures all cells that have no result. `stop` says when to end early: the run that is under way is then given up.
///
/// # Errors
/// What makes all further runs impossible; a cell that fails is no error.
pub fn run(experiment: &Experiment, options: &Options, stop: &dyn Fn() -> bool) -> Result<Progress, ExperimentError> {
    if options.place.unwrap_or(experiment.keys.place.kind) == Place::Simulated {
        return simulated::run(experiment, options, stop);
    }
    let chosen = options.choose(experiment)?;
    let mut skipped: HashMap<String, usize> = HashMap::new();
    let mut cells = Vec::new();
    for planned in chosen {
        match options.skips(&planned) {
            Some(reason) => *skipped.entry(reason).or_default() += 1,
            None => cells.push(planned),
        }
    }
    for (reason, count) in skipped {
        log::warn!("{count} cells are left out: {reason}");
    }
    let place = options.place.unwrap_or(experiment.keys.place.kind);
    let io = |reason: std::io::Error| ExperimentError::Program {
        what: options.results.display().to_string(),
        reason: reason.to_string(),
    };
    std::fs::create_dir_all(&options.results).map_err(io)?;
    let mut session = Session {
        experiment,
        options,
        stop,
        host: Host::new(place)?,
        provenance: provenance(),
        machine: None,
        ratios: HashMap::new(),
        started: Instant::now(),
        seconds: Vec::new(),
    };
    let ranks = cells.iter().map(|planned| planned.cell.ranks()).max().unwrap_or(1);
    if !options.no_predictions && cells.iter().any(|planned| planned.cell.program == Program::Tawpipe) {
        session.machine = calibration(&options.results, &session.host, ranks);
    }
    let progress = session.rounds(&cells);
    // Whatever happened: what there is is compared.
    agree(options)?;
    progress
}

/// Compares the losses of all results of the folder, and says in each whether it is apart.
fn agree(options: &Options) -> Result<(), ExperimentError> {
    let mut records = crate::results::read_folder(&options.results)?;
    for at in agreement::compare(&mut records) {
        for remark in &records[at].remarks {
            log::warn!("{}: {remark}", records[at].cell.id);
        }
        write(&options.results, &records[at])?;
    }
    Ok(())
}

struct Session<'a> {
    experiment: &'a Experiment,
    options: &'a Options,
    stop: &'a dyn Fn() -> bool,
    host: Host,
    provenance: Provenance,
    /// The calibrated machine, for predictions.
    machine: Option<Description>,
    /// Of links that are `like` another machine's, by name.
    ratios: HashMap<String, Ratio>,
    started: Instant,
    /// What runs have taken.
    seconds: Vec<f64>,
}

impl Session<'_> {
    /// One run of every cell, then the next of every cell.
    fn rounds(&mut self, cells: &[Planned]) -> Result<Progress, ExperimentError> {
        let total: usize = cells.iter().map(|planned| planned.rounds).sum();
        let most = cells.iter().map(|planned| planned.rounds).max().unwrap_or(0);
        let mut number = 0;
        for round in 0..most {
            for planned in cells.iter().filter(|planned| planned.rounds > round) {
                number += 1;
                let missing = total - number + 1;
                if (self.stop)() {
                    return Ok(Progress::Stopped(missing));
                }
                if self.options.limit.is_some_and(|limit| self.started.elapsed() >= limit) {
                    return Ok(Progress::Limit(missing));
                }
                match self.one(planned, round) {
                    // Ctrl-C reaches the scripts that we call, too.
                    Err(_) if (self.stop)() => return Ok(Progress::Stopped(missing)),
                    Err(error) => return Err(error),
                    Ok(None) => return Ok(Progress::Stopped(missing)),
                    Ok(Some(text)) if text.is_empty() => {}
                    Ok(Some(text)) => log::info!("[{number}/{total}] {text}{}", self.left(missing - 1)),
                }
            }
        }
        Ok(Progress::Done)
    }

    fn left(&self, missing: usize) -> String {
        let mean = self.seconds.iter().sum::<f64>() / self.seconds.len().max(1) as f64;
        match (mean * missing as f64 / 60.0).ceil() {
            minutes if missing > 0 && minutes > 0.0 => format!("; some {minutes:.0} min left"),
            _ => String::new(),
        }
    }

    /// One run of a cell, if its result has fewer than `round` + 1. Returns what to say, nothing if nothing was to do, and
    /// `None` if the experiment was stopped meanwhile.
    fn one(&mut self, planned: &Planned, round: usize) -> Result<Option<String>, ExperimentError> {
        let mut cell = planned.cell.clone();
        let name = format!("{}, {}x{}, {}", cell.series, cell.nodes(), cell.ranks_per_node[0], cell.link.name);
        let record = self.options.result(&cell)?;
        match &record {
            Some(Record { outcome: Outcome::Measured(measured), .. }) if measured.rounds.len() > round => {
                return Ok(Some(String::new()));
            }
            // Once a session is often enough to try again.
            Some(Record { outcome: Outcome::Failed { .. }, .. }) if round > 0 || !self.options.retry_failed => {
                return Ok(Some(String::new()));
            }
            _ => {}
        }
        if let Some(found) = &record {
            cell.link = found.cell.link.clone();
        } else if let Some(probe) = &planned.probe {
            match self.derive(&cell, probe)? {
                None => return Ok(None),
                Some(Ok(link)) => cell.link = link,
                Some(Err(reason)) => {
                    let outcome = Outcome::Failed { reason: reason.clone(), log: Vec::new() };
                    self.keep(Record { outcome, ..self.blank(cell) })?;
                    return Ok(Some(format!("{name}: {reason}")));
                }
            }
        }
        let mut record = match record {
            Some(Record { outcome: Outcome::Failed { .. }, .. }) | None => self.blank(cell.clone()),
            Some(record) => record,
        };
        match count(&cell) {
            Ok(counted) => record.counted = counted,
            Err(reason) => {
                record.outcome = Outcome::Failed { reason: reason.clone(), log: Vec::new() };
                self.keep(record)?;
                return Ok(Some(format!("{name}: {reason}")));
            }
        }
        if let Some(machine) = &self.machine {
            record.prediction = foresee(machine, &cell);
        }
        let folder = tempfile::Builder::new().prefix(".run-").tempdir_in(&self.options.results);
        let folder = folder.map_err(|reason| ExperimentError::Program {
            what: self.options.results.display().to_string(),
            reason: reason.to_string(),
        })?;
        let (said, end) = self.measure(&cell, folder.path(), &mut record)?;
        if !end {
            return Ok(None);
        }
        self.keep(record)?;
        Ok(Some(format!("{name}: {said}")))
    }

    /// Runs a cell once. Returns what to say, and whether it ended by itself.
    fn measure(&mut self, cell: &Cell, folder: &Path, record: &mut Record) -> Result<(String, bool), ExperimentError> {
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let torch = self.options.torch.as_deref();
        let words = self.host.words(cell, &self.experiment.deck(), torch, &absolute)?;
        let command = self.host.command(cell, &words)?;
        let limit = Duration::from_secs_f64(self.experiment.keys.limit);
        let (date, start) = (now(), Instant::now());
        let typed = typed(&command, &absolute);
        log::debug!("{typed}");
        let log = self.options.results.join("logs").join(format!("{}.log", cell.id));
        let end = child::run(command, [cell.warmup, cell.steps], &self.host.counters(), limit, self.stop, &log);
        let seconds = start.elapsed().as_secs_f64();
        self.seconds.push(seconds);
        match end {
            End::Stopped => {
                self.host.clean();
                Ok((String::new(), false))
            }
            End::Failed { reason, log: lines, killed } => {
                if killed {
                    self.host.clean();
                }
                let said = format!("failed: {reason} (all it said: {})", log.display());
                if record.rounds().is_empty() {
                    record.outcome = Outcome::Failed { reason, log: lines };
                } else {
                    record.remarks.push(format!("a run failed: {reason}; its last lines: {}", lines.join(" | ")));
                }
                Ok((said, true))
            }
            End::Done(ran) => {
                record.provenance.torch = ran.torch.or(record.provenance.torch.take());
                let (wire, steps, memory_peak) = (ran.wire, ran.steps, ran.memory_peak);
                let round = Round { date, command: typed, seconds, warmup: cell.warmup, steps, wire, memory_peak };
                let speed = round.measured().iter().map(|step| step.tokens_per_s).collect();
                let said = format!("{:.0} tokens/s", crate::results::median(speed).unwrap_or(0.0));
                match &mut record.outcome {
                    Outcome::Measured(measured) => measured.rounds.push(round),
                    other => *other = Outcome::Measured(Measured { rounds: vec![round] }),
                }
                Ok((said, true))
            }
        }
    }

    /// The link of a cell that is `like` another machine's, from a probe that is measured first. `None` if the experiment
    /// was stopped meanwhile; inside, why there can be none.
    fn derive(
        &mut self,
        cell: &Cell,
        probe: &Planned,
    ) -> Result<Option<Result<crate::results::Link, String>>, ExperimentError> {
        let Some(said) = self.one(probe, 0)? else { return Ok(None) };
        if !said.is_empty() {
            log::info!("first, to derive the rate of link {}: {said}", cell.link.name);
        }
        let keys = self.experiment.link_keys(&cell.link.name)?;
        let (ratio, like) = match (self.ratios.get(&cell.link.name), keys.like) {
            (Some(ratio), Some(like)) => (ratio.clone(), like),
            (None, Some(like)) => (like::ratio(self.experiment, &like)?, like),
            (_, None) => return Ok(Some(Ok(cell.link.clone()))),
        };
        self.ratios.insert(cell.link.name.clone(), ratio.clone());
        let link = self.options.result(&probe.cell)?.and_then(|record| {
            let counted = record.counted.clone()?;
            like::link(cell, &ratio, &record, &counted)
        });
        Ok(Some(
            link.ok_or_else(|| format!("{} could not be measured, from which the link's rate is derived", like.system)),
        ))
    }

    fn blank(&self, cell: Cell) -> Record {
        Record {
            format: FORMAT.into(),
            cell,
            outcome: Outcome::Predicted,
            counted: None,
            prediction: None,
            remarks: Vec::new(),
            provenance: self.provenance.clone(),
        }
    }

    fn keep(&self, mut record: Record) -> Result<(), ExperimentError> {
        record.provenance = Provenance { date: now(), torch: record.provenance.torch, ..self.provenance.clone() };
        write(&self.options.results, &record)?;
        Ok(())
    }
}

/// A command as it would be typed in the repository, its run's folder called RUN.
fn typed(command: &std::process::Command, folder: &Path) -> String {
    let folder = folder.to_string_lossy();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    spell(words.map(|word| word.to_string_lossy().replace(&*folder, "RUN")))
}
