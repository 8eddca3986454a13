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
pub fn report(folders: &[PathBuf]) -> Result<String, ReportError> {
    let runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect::<Result<_, _>>()?;
    let columns = ["run", "system", "steps", "train loss", "valid loss", "bits/byte", "tokens/s", "MFU %"];
    let columns = columns.into_iter().chain(["between groups MB/step", "inside MB/step", "exposed comm %"]);
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

/// Medians leave out the first step; a number that nothing knows is a dash.
fn row(run: &Run) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| match value.filter(|value| value.is_finite()) {
        Some(value) => format!("{value:.digits$}"),
        None => "-".into(),
    };
    let (last, valid) = (run.history.steps.last(), run.history.validations.last());
    vec![
        run.name(),
        run.deck.system.name().into(),
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
