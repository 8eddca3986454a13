//! Result files.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FORMAT, Record};

/// What can be wrong with a result file; one line that names it.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// The system refused.
    #[error("{file}: cannot {action}: {reason}")]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// `read` or `write`.
        action: &'static str,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It is no result file, or of another version.
    #[error("{file}: {message}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Reads one result file.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn read(file: &Path) -> Result<Record, ResultError> {
    let text =
        fs::read_to_string(file).map_err(|reason| ResultError::Io { file: file.into(), action: "read", reason })?;
    parse(&text, file)
}

fn parse(text: &str, file: &Path) -> Result<Record, ResultError> {
    let damaged = |message: String| ResultError::Damaged { file: file.into(), message };
    let record: Record =
        serde_json::from_str(text).map_err(|error| damaged(format!("is no result of an experiment: {error}")))?;
    if record.format != FORMAT {
        return Err(damaged(format!("has format '{}', expected '{FORMAT}'", record.format)));
    }
    record.cell.check().map_err(|problem| damaged(format!("is no result of an experiment: {problem}")))?;
    Ok(record)
}

/// Reads many records of one file, one a line: what simulated experiments leave.
///
/// # Errors
/// If it cannot be read, or a line is none.
pub fn read_lines(file: &Path) -> Result<Vec<Record>, ResultError> {
    let text =
        fs::read_to_string(file).map_err(|reason| ResultError::Io { file: file.into(), action: "read", reason })?;
    text.lines().map(|line| parse(line, file)).collect()
}

/// Writes many records into one file, one a line.
///
/// # Errors
/// If the system refuses.
pub fn write_lines(file: &Path, records: &[Record]) -> Result<(), ResultError> {
    let line = |record| serde_json::to_string(record).expect("records are plain values") + "\n";
    let text: String = records.iter().map(line).collect();
    let new = file.with_extension("jsonl.tmp");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    written.map_err(|reason| ResultError::Io { file: file.into(), action: "write", reason })
}

/// Reads all result files of a folder (`*.json` one record each, `*.jsonl` one a line), in the order of their names.
///
/// # Errors
/// If one of them is none.
pub fn read_folder(folder: &Path) -> Result<Vec<Record>, ResultError> {
    let io = |reason| ResultError::Io { file: folder.into(), action: "read", reason };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "json" || extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    let mut records = Vec::new();
    for file in &files {
        match file.extension() {
            Some(extension) if extension == "jsonl" => records.extend(read_lines(file)?),
            _ => records.push(read(file)?),
        }
    }
    Ok(records)
}

/// Writes a result file into a folder: under a temporary name, then renamed, so that whoever reads sees a whole one.
/// Returns its path.
///
/// # Errors
/// If the system refuses.
pub fn write(folder: &Path, record: &Record) -> Result<PathBuf, ResultError> {
    let file = folder.join(format!("{}.json", record.cell.id));
    let new = folder.join(format!("{}.json.tmp", record.cell.id));
    let text = serde_json::to_string_pretty(record).expect("records are plain values") + "\n";
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &file));
    written.map_err(|reason| ResultError::Io { file: file.clone(), action: "write", reason })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Costs;
    use crate::results::{Cell, Link, Measured, Outcome, Place, Program, Provenance, Round, Step};

    fn record() -> Record {
        let options = serde_json::json!({"name": "ddp", "blocks_per_shard": 1, "zero1": false});
        let shape = serde_json::json!({
            "dim": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 16, "ffn": 128, "vocab": 256, "tied": false,
            "rope_theta": 1e4, "norm_eps": 1e-5
        });
        let cell = Cell {
            experiment: "small".into(),
            id: "ddp-2x2".into(),
            series: "DDP".into(),
            program: Program::Tawpipe,
            system: "ddp".into(),
            options: options.as_object().unwrap().clone(),
            place: Place::Machine,
            ranks_per_node: vec![2, 2],
            link: Link { name: "unshaped".into(), rate: None, latency: 0.0, derivation: None },
            cluster: None,
            model: "tiny".into(),
            shape: serde_json::from_value(shape).unwrap(),
            parameters: 1,
            seq: 64,
            micro: 2,
            global: 16,
            dtype: crate::model::Dtype::F32,
            grad_dtype: crate::model::Dtype::F32,
            recompute: crate::model::Recompute::None,
            deck: "inputs/bench-tiny.toml".into(),
            sets: vec!["system.name=\"ddp\"".into()],
            warmup: 1,
            steps: 2,
        };
        let step = |step_s: f64| Step {
            step_s,
            tokens_per_s: 100.0 / step_s,
            loss: 5.5,
            exposed_s: Some(0.1),
            bytes_inter: Some(7),
            bytes_intra: None,
        };
        let round = Round {
            date: String::new(),
            command: String::new(),
            seconds: 9.0,
            warmup: 1,
            steps: vec![step(3.0), step(1.0), step(2.0)],
            wire: Vec::new(),
            memory_peak: Some(1),
        };
        Record {
            format: FORMAT.into(),
            cell,
            outcome: Outcome::Measured(Measured { rounds: vec![round] }),
            counted: None,
            prediction: None,
            remarks: Vec::new(),
            provenance: Provenance::default(),
        }
    }

    /// What is written is read back, numbers are those of the measured steps, and other files are refused by name.
    #[test]
    fn records_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let record = record();
        let file = write(folder.path(), &record).unwrap();
        assert_eq!(read(&file).unwrap(), record);
        assert_eq!(read_folder(folder.path()).unwrap(), std::slice::from_ref(&record));
        assert_eq!(record.samples(|step| Some(step.step_s)), [1.0, 2.0]);
        assert_eq!(record.median(|step| step.exposed_s), Some(0.1));
        let job = record.cell.job(Costs::default()).unwrap();
        assert_eq!((job.groups.sizes(), job.batch.micros), (vec![2, 2], 8));

        let other = folder.path().join("other.json");
        fs::write(&other, "{}").unwrap();
        let message = read_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains("other.json") && message.contains("no result"), "{message}");
        let text = fs::read_to_string(&file).unwrap().replace(FORMAT, "tawpipe experiment 9");
        fs::write(&other, text).unwrap();
        assert!(read(&other).unwrap_err().to_string().contains("tawpipe experiment 9"));
    }
}
