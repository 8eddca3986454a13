//! The journal `metrics.jsonl`: one JSON object a line, appended and never rewritten while a run goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::{MetricsError, Part, Record, Row, Validation};

/// Everything a run has reported so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Training steps, ascending.
    pub steps: Vec<Record>,
    /// Validations, ascending.
    pub validations: Vec<Validation>,
    /// Parts of the run, ascending. Runs of version 0.1 have none.
    pub parts: Vec<Part>,
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

    /// Continues after `step`: what was reported later is cut off, and so are parts of which nothing remains. Returns what
    /// remains. A journal that is missing, for a checkpoint that was moved, starts empty.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, History), MetricsError> {
        let mut history = if path.exists() { read_journal(path)? } else { History::default() };
        history.steps.retain(|record| record.step <= step);
        history.validations.retain(|validation| validation.step <= step);
        history.parts.retain(|part| part.step < step);
        // Rewritten beside and renamed: a kill in between loses nothing.
        let new = path.with_extension("jsonl.tmp");
        fs::write(&new, text(&history)).map_err(MetricsError::io(&new, "write"))?;
        fs::rename(&new, path).map_err(MetricsError::io(path, "write"))?;
        let file = File::options().append(true).open(path).map_err(MetricsError::io(path, "write"))?;
        Ok((Journal { path: path.to_path_buf(), file }, history))
    }

    /// Appends a line. It has left this process when this returns, so that SIGKILL cannot lose it.
    pub fn append(&mut self, row: &impl Row) -> Result<(), MetricsError> {
        self.write(row.json())
    }

    /// Appends the line of a part.
    pub fn begin(&mut self, part: &Part) -> Result<(), MetricsError> {
        self.write(part.json())
    }

    fn write(&mut self, line: String) -> Result<(), MetricsError> {
        self.file.write_all((line + "\n").as_bytes()).map_err(MetricsError::io(&self.path, "write"))
    }
}

/// Lines of a history: at each step its record, then its validation, then the part that starts after it.
fn text(history: &History) -> String {
    let mut lines: Vec<(u64, u8, String)> = Vec::new();
    lines.extend(history.steps.iter().map(|record| (record.step, 0, record.json())));
    lines.extend(history.validations.iter().map(|validation| (validation.step, 1, validation.json())));
    lines.extend(history.parts.iter().map(|part| (part.step, 2, part.json())));
    lines.sort_by_key(|(step, kind, _)| (*step, *kind));
    lines.into_iter().map(|(_, _, line)| line + "\n").collect()
}

/// Reads a journal up to the first line that is of no use, which a lost machine may leave, and warns about that one. A last
/// line without its end, left by a kill, is passed over in silence.
pub fn read_journal(path: &Path) -> Result<History, MetricsError> {
    let text = fs::read(path).map_err(MetricsError::io(path, "read"))?;
    let mut history = History::default();
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    for (number, line) in text[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
        if let Err(problem) = history.take(line) {
            let lines = text[..whole].iter().filter(|&&byte| byte == b'\n').count() - number;
            log::warn!(
                "{}: line {}: {problem}; it and what follows are left out ({lines} lines)",
                path.display(),
                number + 1
            );
            break;
        }
    }
    Ok(history)
}

impl History {
    /// Takes up a line of a journal.
    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let map: Map<String, Json> =
            serde_json::from_slice(line).map_err(|error| format!("is no JSON object: {error}"))?;
        let last = self.steps.last().map_or(0, |record| record.step);
        let fits = |step: u64, fits: bool| if fits { Ok(()) } else { Err(format!("step {step} follows step {last}")) };
        if map.contains_key("part") {
            let part: Part = serde_json::from_value(Json::Object(map)).map_err(|error| error.to_string())?;
            fits(part.step, part.step >= last)?;
            self.parts.push(part);
        } else if map.contains_key("valid_loss") {
            let validation = Validation::from_json(&map)?;
            fits(validation.step, validation.step >= last)?;
            self.validations.push(validation);
        } else {
            let record = Record::from_json(&map)?;
            fits(record.step, record.step > last)?;
            self.steps.push(record);
        }
        Ok(())
    }
}
