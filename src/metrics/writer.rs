//! Everything rank 0 writes about a run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::events::Events;
use super::{History, Journal, MetricsError, Part, Record, RunInfo, Validation, series};

/// Largest part of the run time that goes into rewriting the series.
const BUDGET: f64 = 0.005;

/// The journal `metrics.jsonl` and the series `metrics.h5` of a run folder.
#[derive(Debug)]
pub struct Metrics {
    journal: Journal,
    history: History,
    series: PathBuf,
    /// For TensorBoard, if that is asked for.
    events: Option<Events>,
    started: Instant,
    /// Time spent on the series so far, and on its last rewrite.
    spent: Duration,
    last: Duration,
}

impl Metrics {
    /// Starts both files in a run folder that has neither.
    pub fn create(folder: &Path, info: RunInfo) -> Result<Self, MetricsError> {
        let journal = Journal::create(&folder.join("metrics.jsonl"))?;
        let mut metrics = Self::new(folder, journal, History::default());
        metrics.begin(0, info)?;
        Ok(metrics)
    }

    /// Continues after the checkpoint of `step`; what was reported later is cut off.
    pub fn resume(folder: &Path, info: RunInfo, step: u64) -> Result<Self, MetricsError> {
        let mut metrics = Self::open(folder, step)?;
        metrics.begin(step, info)?;
        Ok(metrics)
    }

    /// As [`Metrics::resume`], without a new part: for a run that has no step left to take.
    pub fn open(folder: &Path, step: u64) -> Result<Self, MetricsError> {
        let (journal, history) = Journal::resume(&folder.join("metrics.jsonl"), step)?;
        Ok(Self::new(folder, journal, history))
    }

    fn begin(&mut self, step: u64, info: RunInfo) -> Result<(), MetricsError> {
        let part = Part::new(self.history.parts.last().map_or(1, |last| last.part + 1), step, info);
        self.journal.begin(&part)?;
        self.history.parts.push(part);
        Ok(())
    }

    fn new(folder: &Path, journal: Journal, history: History) -> Self {
        Metrics {
            journal,
            history,
            series: folder.join("metrics.h5"),
            events: None,
            started: Instant::now(),
            spent: Duration::ZERO,
            // A first guess, so that the first rewrite is not before half a second.
            last: Duration::from_millis(2),
        }
    }

    /// The same, which also writes a new event file for TensorBoard; earlier ones count up to `step` only.
    pub fn tensorboard(mut self, step: u64) -> Result<Self, MetricsError> {
        let folder = self.series.parent().unwrap_or(Path::new("."));
        self.events = Some(Events::start(folder, step)?);
        Ok(self)
    }

    /// Everything reported so far, of earlier parts of the run too.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Reports a training step.
    pub fn step(&mut self, record: Record) -> Result<(), MetricsError> {
        self.journal.append(&record)?;
        if let Some(events) = &mut self.events {
            events.step(&record)?;
        }
        self.history.steps.push(record);
        self.rewrite_if_cheap()
    }

    /// Reports a validation.
    pub fn validation(&mut self, validation: Validation) -> Result<(), MetricsError> {
        self.journal.append(&validation)?;
        if let Some(events) = &mut self.events {
            events.validation(&validation)?;
        }
        self.history.validations.push(validation);
        self.rewrite_if_cheap()
    }

    /// Brings the series up to date: at the end of a run, and beside a checkpoint.
    pub fn flush(&mut self) -> Result<(), MetricsError> {
        let start = Instant::now();
        series::write(&self.series, &self.history)?;
        self.last = start.elapsed();
        self.spent += self.last;
        Ok(())
    }

    fn rewrite_if_cheap(&mut self) -> Result<(), MetricsError> {
        if (self.spent + self.last).as_secs_f64() > BUDGET * self.started.elapsed().as_secs_f64() {
            return Ok(());
        }
        self.flush()
    }
}
