//! Which checkpoints of a run are good: rank 0 looks after them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::checkpoint::{self, Keep};
use crate::metrics::{History, Record};

/// The checkpoints of a run folder.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    newest: usize,
    /// Step of the checkpoint that this process has gone on from; later ones that it has not written itself are of steps that
    /// it takes anew.
    from: u64,
    /// The run trains differently since then: that checkpoint stays, as the way back.
    differs: bool,
    written: BTreeSet<u64>,
    /// No step has followed the last one written.
    unconfirmed: bool,
}

impl Kept {
    /// Those in `folder`, of which the `newest` are to be kept, for a run that goes on from step `from`, and trains
    /// differently from then on if it `differs`.
    pub fn new(folder: PathBuf, newest: usize, from: u64, differs: bool) -> Self {
        Kept { folder, newest, from, differs, written: BTreeSet::new(), unconfirmed: false }
    }

    /// The run goes on from an older one instead.
    pub fn go_back(&mut self, from: u64) {
        self.from = from;
        self.written.clear();
    }

    /// One has been written.
    pub fn add(&mut self, step: u64, history: &History) {
        self.written.insert(step);
        self.unconfirmed = true;
        self.prune(history);
    }

    /// A step has been taken: what was kept in place of a checkpoint that was not yet confirmed may go.
    pub fn confirm(&mut self, history: &History) {
        if self.unconfirmed && history.steps.last().is_some_and(is_finite) {
            self.unconfirmed = false;
            self.prune(history);
        }
    }

    fn outdated(&self, step: u64) -> bool {
        step > self.from && !self.written.contains(&step)
    }

    /// Removes what need not be kept. The newest confirmed one stays: one that a step with finite loss and norm has followed.
    fn prune(&self, history: &History) {
        let last = last_finite(history);
        let keep = Keep {
            newest: self.newest,
            spared: self.differs.then_some(self.from),
            confirmed: &|step| step < last,
            outdated: &|step| self.outdated(step),
        };
        if let Err(error) = checkpoint::prune(&self.folder, &keep) {
            log::warn!("old checkpoints stay: {error}");
        }
    }

    /// What to go back to when a step has gone wrong: the newest confirmed one.
    pub fn best(&self, history: &History) -> Option<PathBuf> {
        let found = checkpoint::checkpoints(&self.folder).ok()?;
        let last = last_finite(history);
        let confirmed =
            |path: &PathBuf| checkpoint::step_of(path).is_some_and(|step| step < last && !self.outdated(step));
        found.into_iter().find(confirmed)
    }
}

/// The last step whose loss and gradient norm were finite: every older checkpoint is confirmed.
fn last_finite(history: &History) -> u64 {
    history.steps.iter().rev().find(|record| is_finite(record)).map_or(0, |record| record.step)
}

fn is_finite(record: &Record) -> bool {
    record.loss.is_finite() && record.grad_norm.is_finite()
}
