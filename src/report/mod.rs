//! Tables and plots of finished (or still running) runs.

mod curve;
mod run;
mod table;

pub use run::{ReportError, Run};
pub use table::Table;

use std::path::PathBuf;

use crate::data::baseline::WittenBell;
use crate::deck::Deck;

/// Lengths of context, in bytes, of the table models that runs are compared with.
const CONTEXTS: [usize; 2] = [3, 4];

/// What a table model achieves on a run's validation text.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// For legends and tables.
    pub name: String,
    /// Bits per byte.
    pub bits: f64,
}

/// Witten-Bell models of the deck's own split; none if its tokens are no bytes, or nothing validates.
pub fn baselines(deck: &Deck) -> Vec<Baseline> {
    let data = match deck.dataset(256) {
        Ok(data) => data,
        Err(error) => {
            log::warn!("no baselines: {error}");
            return Vec::new();
        }
    };
    let Some((train, valid)) = data.text() else { return Vec::new() };
    let baseline = |context| Baseline {
        name: format!("Witten-Bell, {context} bytes of context"),
        bits: WittenBell::train(train, context).bits_per_byte(valid),
    };
    CONTEXTS.map(baseline).into()
}

/// Compares runs in a Markdown table and draws `loss.svg` into the folder of each.
///
/// # Errors
/// If a folder holds no run, or the drawing cannot be written.
pub fn report(folders: &[PathBuf]) -> anyhow::Result<String> {
    let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect::<Result<_, _>>()?;
    let columns = ["run", "system", "steps", "train loss", "valid loss", "bits/byte", "tokens/s", "MFU %"];
    let columns = columns.into_iter().chain(["inter MB/step", "intra MB/step", "exposed comm %"]);
    let mut table = Table::new(columns.map(String::from).collect());
    let mut notes = String::new();
    // Runs of one comparison mostly share their data.
    let mut known: Vec<(&Deck, Vec<Baseline>)> = Vec::new();
    for run in &runs {
        table.row(row(run));
        let shared = known.iter().find(|(deck, _)| deck.data == run.deck.data);
        let baselines = shared.map_or_else(|| baselines(&run.deck), |(_, baselines)| baselines.clone());
        let path = curve::draw(run, &baselines)?;
        for baseline in &baselines {
            if shared.is_none() {
                notes += &format!("{}: {:.3} bits per byte\n", baseline.name, baseline.bits);
            }
        }
        notes += &format!("loss curve: {}\n", path.display());
        if shared.is_none() {
            known.push((&run.deck, baselines));
        }
    }
    Ok(format!("{table}\n{notes}"))
}

fn row(run: &Run) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
    let name = run.folder.file_name().map_or_else(|| run.folder.display().to_string(), |n| n.display().to_string());
    let valid = run.valid.last();
    let percent = |key| run.median(key).map(|part| 100.0 * part);
    vec![
        name,
        run.deck.system.name().into(),
        run.steps.last().map_or(0, |step| step.step).to_string(),
        number(run.steps.last().map(|step| step.loss), 4),
        number(valid.map(|valid| valid.loss), 4),
        number(valid.and_then(|valid| valid.bits_per_byte), 3),
        number(run.median("tokens_per_s"), 0),
        number(percent("mfu"), 1),
        number(run.median("inter_bytes").map(|bytes| bytes / 1e6), 2),
        number(run.median("intra_bytes").map(|bytes| bytes / 1e6), 2),
        number(percent("exposed_comm"), 1),
    ]
}
