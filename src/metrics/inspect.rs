//! `tawpipe inspect`: what is in any file that a run reads or writes.

use std::fmt::Write;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::checkpoint::hf::TensorFile;
use crate::checkpoint::{CheckpointError, checkpoints};

use super::{History, MetricsError, Row, read_journal, series};

/// Why a file could not be described.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file of weights, or what looked like one.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file of metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Describes a checkpoint, a metrics file or journal, a run folder, a Hugging Face folder, a safetensors file or a
/// token file. What it is, its contents say, not its name, except that raw tokens carry no mark.
pub fn inspect(path: &Path) -> Result<String, InspectError> {
    if path.is_dir() {
        return if path.join("metrics.jsonl").is_file() { run(path) } else { Ok(crate::checkpoint::inspect(path)?) };
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(MetricsError::io(path, "read"))?;
    file.take(4096).read_to_end(&mut start).map_err(MetricsError::io(path, "read"))?;
    if start.starts_with(b"\x89HDF") {
        return match series::read(path) {
            Ok(history) => {
                let last = history.parts.last();
                let head = last.map_or_else(String::new, |part| {
                    format!(" of a run of system {} in groups {:?}", part.system, part.groups)
                });
                let deck = last.map_or("", |part| &part.deck);
                Ok(format!("{}: tawpipe metrics{head}\n{}deck:\n{deck}", path.display(), summary(&history)))
            }
            // Then it is a checkpoint, or reading it as one says best what is wrong.
            Err(_) => Ok(crate::checkpoint::inspect(path)?),
        };
    }
    if is_journal(&start) {
        return Ok(format!("{}: tawpipe journal\n{}", path.display(), summary(&read_journal(path)?)));
    }
    if start.get(8) == Some(&b'{') || path.extension().is_some_and(|e| e == "safetensors") {
        return Ok(safetensors(&TensorFile::open(path)?, path));
    }
    Ok(tokens(path)?)
}

/// Whether a file that starts so is a journal.
pub fn is_journal(start: &[u8]) -> bool {
    start.starts_with(b"{\"step\":") || start.starts_with(b"{\"part\":")
}

fn run(folder: &Path) -> Result<String, InspectError> {
    let mut text = format!("{}: tawpipe run\n", folder.display());
    for path in checkpoints(&folder.join("checkpoints"))? {
        let _ = writeln!(text, "checkpoint {}", path.display());
    }
    text += &summary(&read_journal(&folder.join("metrics.jsonl"))?);
    Ok(text)
}

/// For every metric the first, last, least and greatest value.
fn summary(history: &History) -> String {
    fn rows<R: Row>(text: &mut String, rows: &[R]) {
        let _ = writeln!(text, "{}: {} rows", R::GROUP, rows.len());
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(text, "  {:<18}{:>14}{:>14}{:>14}{:>14}  unit", "", "first", "last", "least", "greatest");
        for (at, metric) in R::METRICS.iter().enumerate() {
            let column: Vec<f64> = rows.iter().map(|row| row.values()[at].real()).collect();
            let least = column.iter().copied().fold(f64::NAN, f64::min);
            let greatest = column.iter().copied().fold(f64::NAN, f64::max);
            let _ = write!(text, "  {:<18}", metric.name);
            for value in [column[0], column[column.len() - 1], least, greatest] {
                let _ = write!(text, "{:>14}", short(value));
            }
            let _ = writeln!(text, "  {}", metric.unit);
        }
    }
    let mut text: String = history.parts.iter().map(|part| part.line() + "\n").collect();
    rows(&mut text, &history.steps);
    rows(&mut text, &history.validations);
    text
}

/// Six significant digits, whole numbers in full.
fn short(x: f64) -> String {
    match x.abs() {
        _ if x.is_nan() => "-".into(),
        a if x.fract() == 0.0 && a < 1e13 => format!("{x}"),
        a if (1e-3..1e6).contains(&a) => {
            let digits = (5 - a.log10().floor() as i32).max(0) as usize;
            format!("{x:.digits$}")
        }
        _ => format!("{x:.5e}"),
    }
}

fn safetensors(file: &TensorFile, path: &Path) -> String {
    let mut text = format!("{}: safetensors file\n", path.display());
    for (name, dtype, dims) in file.tensors() {
        let _ = writeln!(text, "  {name:<52} {:>16} {dtype}", format!("{dims:?}"));
    }
    text
}

/// Raw tokens carry no type: shows what each type would make of them.
fn tokens(path: &Path) -> Result<String, MetricsError> {
    let error = || MetricsError::io(path, "read");
    let file = File::open(path).map_err(error())?;
    let bytes = file.metadata().map_err(error())?.len();
    let mut text = format!("{}: {bytes} bytes; as a file of raw little-endian tokens it is\n", path.display());
    for (name, width) in [("u16", 2usize), ("u32", 4), ("i32", 4)] {
        if bytes == 0 || bytes % width as u64 != 0 {
            let _ = writeln!(text, "  {name}  impossible: no whole number of tokens");
            continue;
        }
        let (mut least, mut greatest) = (i64::MAX, i64::MIN);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(error())?);
        let mut chunk = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            let part = &mut chunk[..left.min(1 << 16) as usize];
            reader.read_exact(part).map_err(error())?;
            left -= part.len() as u64;
            for word in part.chunks_exact(width) {
                let id = match (name, word) {
                    ("u16", &[a, b]) => i64::from(u16::from_le_bytes([a, b])),
                    ("u32", &[a, b, c, d]) => i64::from(u32::from_le_bytes([a, b, c, d])),
                    (_, &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
                    _ => continue,
                };
                (least, greatest) = (least.min(id), greatest.max(id));
            }
        }
        let _ = writeln!(text, "  {name}  {} tokens, ids {least} to {greatest}", bytes / width as u64);
    }
    Ok(text)
}
