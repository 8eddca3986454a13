//! The journal `metrics.jsonl`: one JSON object a line, appended and never rewritten while a run goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{MetricsError, Record, Row, Validation};

/// Everything a run has reported so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Training steps, ascending.
    pub steps: Vec<Record>,
    /// Validations, ascending.
    pub validations: Vec<Validation>,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Starts an empty journal; an error if there is one.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        let file = File::options().append(true).create_new(true).open(path).map_err(MetricsError::io(path, "write"))?;
        Ok(Journal { path: path.to_path_buf(), file })
    }

    /// Continues after `step`: what was reported later is cut off. Returns what remains. A journal that is missing, for
    /// a checkpoint that was moved, starts empty.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, History), MetricsError> {
        let mut history = if path.exists() { read_journal(path)? } else { History::default() };
        history.steps.retain(|record| record.step <= step);
        history.validations.retain(|validation| validation.step <= step);
        // Rewritten beside and renamed: a kill in between loses nothing.
        let new = path.with_extension("jsonl.tmp");
        fs::write(&new, text(&history)).map_err(MetricsError::io(&new, "write"))?;
        fs::rename(&new, path).map_err(MetricsError::io(path, "write"))?;
        let file = File::options().append(true).open(path).map_err(MetricsError::io(path, "write"))?;
        Ok((Journal { path: path.to_path_buf(), file }, history))
    }

    /// Appends a line. It has left this process when this returns, so that SIGKILL cannot lose it.
    pub fn append(&mut self, row: &impl Row) -> Result<(), MetricsError> {
        let line = row.json() + "\n";
        self.file.write_all(line.as_bytes()).map_err(MetricsError::io(&self.path, "write"))
    }
}

/// Lines of a history, each validation after the step it follows.
fn text(history: &History) -> String {
    let mut text = String::new();
    let mut validations = history.validations.iter().peekable();
    for record in &history.steps {
        while let Some(validation) = validations.next_if(|v| v.step < record.step) {
            text += &(validation.json() + "\n");
        }
        text += &(record.json() + "\n");
    }
    for validation in validations {
        text += &(validation.json() + "\n");
    }
    text
}

/// Reads a journal. A last line without its end, left by a kill, is passed over.
pub fn read_journal(path: &Path) -> Result<History, MetricsError> {
    let text = fs::read(path).map_err(MetricsError::io(path, "read"))?;
    let mut history = History::default();
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    for (number, line) in text[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
        let problem = |text: String| MetricsError::damaged(path, format!("line {}: {text}", number + 1));
        let map: Map<String, Json> =
            serde_json::from_slice(line).map_err(|error| problem(format!("is no JSON object: {error}")))?;
        if map.contains_key("valid_loss") {
            history.validations.push(Validation::from_json(&map).map_err(problem)?);
        } else {
            history.steps.push(Record::from_json(&map).map_err(problem)?);
        }
    }
    Ok(history)
}
