//! What people look at: tables and curves of runs, drawings and traces of timelines.

mod curve;
mod experiment;
pub mod figure;
mod png;
mod run;
mod scalars;
mod sheet;
mod svg;
mod table;
mod timeline;

pub use experiment::{Findings, findings};
pub use run::{Baseline, Run};
pub use sheet::write_csv;
pub use table::Table;
pub use timeline::{Kind, Picture, TimeUnit, gantt, perfetto};

use std::path::PathBuf;

use crate::metrics::Cores;

/// A drawing cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ReportError {
    /// Which file.
    pub path: PathBuf,
    /// What went wrong.
    pub reason: String,
}

/// Compares runs in a Markdown table and draws `loss.svg`, `grad_norm.svg` and `learning_rate.svg` into the folder of each; a
/// drawing that cannot be written is named.
pub fn report(runs: &[Run]) -> String {
    let columns = ["run", "system", "steps", "train loss", "valid loss", "bits/byte", "tokens/s", "MFU %"];
    let columns = columns.into_iter().chain(["between groups MB/step", "inside MB/step", "exposed comm %"]);
    let mut table = Table::new(columns.map(String::from).collect());
    let (mut baselines, mut curves) = (Vec::new(), String::new());
    let remarks: String = runs.iter().filter_map(crowded).collect();
    for run in runs {
        table.row(row(run));
        curves += &match curve::draw(run) {
            Ok(path) => format!("loss curve: {}\n", path.display()),
            Err(error) => format!("no loss curve: {error}\n"),
        };
        curves += &match scalars::draw(run) {
            Ok([norm, rate]) => {
                format!("gradient norm: {}\nlearning rate: {}\n", norm.display(), rate.display())
            }
            Err(error) => format!("no curves of gradient norm and learning rate: {error}\n"),
        };
        // Runs of one comparison mostly share their text.
        for Baseline { name, bits } in &run.baselines {
            let line = format!("{name}: {bits:.3} bits per byte\n");
            if !baselines.contains(&line) {
                baselines.push(line);
            }
        }
    }
    format!("{table}\n{remarks}{}{curves}", baselines.concat())
}

/// What the numbers of a run do not say whose threads had to share cores.
fn crowded(run: &Run) -> Option<String> {
    let Cores { threads, cores } = run.history.parts.last()?.cores.filter(|node| node.threads > node.cores)?;
    Some(format!(
        "{}: {threads} threads of a node shared {cores} core{}. A thread that waits for a core counts as waiting for \
         communication, so tokens/s, MFU and exposed communication are not those of ranks with cores of their own.\n",
        run.name(),
        if cores == 1 { "" } else { "s" },
    ))
}

/// Medians leave out the first step; a number that nothing knows is a dash.
fn row(run: &Run) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| match value.filter(|value| value.is_finite()) {
        Some(value) => format!("{value:.digits$}"),
        None => "-".into(),
    };
    let (last, valid) = (run.history.steps.last(), run.history.validations.last());
    vec![
        run.name(),
        run.system.clone(),
        last.map_or(0, |step| step.step).to_string(),
        number(last.map(|step| step.loss), 4),
        number(valid.map(|valid| valid.valid_loss), 4),
        number(valid.map(|valid| valid.bits_per_byte), 3),
        number(run.median(|step| step.tokens_per_s), 0),
        number(run.median(|step| 100.0 * step.mfu), 1),
        number(run.median(|step| step.bytes_inter as f64 / 1e6), 2),
        number(run.median(|step| step.bytes_intra as f64 / 1e6), 2),
        number(run.median(|step| 100.0 * step.exposed_s / step.step_s), 1),
    ]
}
