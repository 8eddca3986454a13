//! The numbers of runs as one table for other programs, as comma-separated values (RFC 4180).

use std::path::Path;

use super::{ReportError, Run};
use crate::metrics::{Metric, Record, Row, Validation, Value};

/// Writes a row a step of every run: the run's name, what the step reported, and what the validation after it did. Unknown
/// numbers are empty.
///
/// # Errors
/// If the file cannot be written.
pub fn write_csv(runs: &[Run], path: &Path) -> Result<(), ReportError> {
    let failed = |error: std::io::Error| ReportError { path: path.to_path_buf(), reason: error.to_string() };
    std::fs::write(path, table(runs)).map_err(failed)
}

fn table(runs: &[Run]) -> String {
    let head = Record::METRICS.iter().chain(validation_columns()).map(|metric| metric.name);
    let mut text = ["run"].into_iter().chain(head).collect::<Vec<_>>().join(",") + "\n";
    let unknown = vec![String::new(); validation_columns().len()];
    for run in runs {
        for record in &run.history.steps {
            let after = run.history.validations.iter().find(|validation| validation.step == record.step);
            let after = after.map(|validation| numbers(&validation.values()[1..]));
            let cells =
                [vec![quoted(&run.name())], numbers(&record.values()), after.unwrap_or_else(|| unknown.clone())];
            text += &(cells.concat().join(",") + "\n");
        }
    }
    text
}

/// All but the step, which stands among the first.
fn validation_columns() -> &'static [Metric] {
    &Validation::METRICS[1..]
}

/// In full precision.
fn numbers(values: &[Value]) -> Vec<String> {
    let number = |value: &Value| match value {
        Value::U64(whole) => whole.to_string(),
        other => Some(other.real()).filter(|real| real.is_finite()).map_or_else(String::new, |real| real.to_string()),
    };
    values.iter().map(number).collect()
}

/// A text as a cell: in quotes where it has a comma, a quote or a line end in it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As RFC 4180 has it.
    #[test]
    fn names_in_quotes() {
        assert_eq!(["kjv-1", "a, b", "the \"big\" one"].map(quoted), ["kjv-1", "\"a, b\"", "\"the \"\"big\"\" one\""]);
    }
}
