//! `tawpipe report`: compares runs with each other and with what a table can do; turns results of experiments into tables
//! and figures.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::data::TokenizerChoice;
use crate::data::baseline::WittenBell;
use crate::deck::Deck;
use crate::exit::Exit;
use crate::metrics::read_journal;
use crate::output::out;
use crate::report::{Baseline, Run, findings, report, write_csv};
use crate::results::read_folder;

use super::args::ReportArgs;
use super::launch::Unusable;

/// Lengths of context, in bytes, of the table models that runs are compared with.
const CONTEXTS: [usize; 2] = [3, 4];

/// Reports on every folder, by what is in it. A folder that cannot be used is named and passed over; the exit code says so.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let (runs, others): (Vec<PathBuf>, Vec<PathBuf>) =
        args.folders.iter().flat_map(|f| inside(f)).partition(|f| is_run(f));
    if others.len() > 1 && args.out.is_some() {
        bail!(Unusable("--out takes one folder of results: it would be written over".into()));
    }
    if runs.is_empty() && args.csv.is_some() {
        bail!(Unusable("--csv takes run folders: there is none among these".into()));
    }
    let named = runs.len() + others.len();
    let mut refused: Vec<anyhow::Error> = Vec::new();
    for folder in others {
        refused.extend(results(&folder, args).err());
    }
    refused.extend(compare(&runs, args.csv.as_deref())?);
    // Where nothing at all can be used, the first says why.
    let error = (refused.len() == named).then(|| refused.remove(0));
    refused.iter().for_each(|why| log::warn!("passed over: {why:#}"));
    match error {
        Some(error) => Err(error),
        None => Ok(if refused.is_empty() { Exit::Done } else { Exit::Failure }),
    }
}

fn is_run(folder: &Path) -> bool {
    folder.join("deck.toml").exists() || folder.join("metrics.jsonl").exists()
}

/// The folder itself; or the runs in it, where it has nothing else to report on.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = || std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let result = |path: &PathBuf| path.extension().is_some_and(|e| e == "json" || e == "jsonl");
    let mut runs: Vec<PathBuf> = entries().filter(|path| is_run(path)).collect();
    runs.sort();
    if is_run(folder) || runs.is_empty() || entries().any(|path| result(&path)) {
        vec![folder.to_path_buf()]
    } else {
        runs
    }
}

/// Writes tables and figures of an experiment, and prints the tables.
fn results(folder: &Path, args: &ReportArgs) -> anyhow::Result<()> {
    let records = read_folder(folder).map_err(|error| Unusable(error.to_string()))?;
    let shown = folder.display();
    let Some(first) = records.first() else {
        bail!(Unusable(format!("{shown}: no run folder (deck.toml, metrics.jsonl) and no results (*.json, *.jsonl)")));
    };
    if let Some(name) = args.reference.iter().find(|name| records.iter().all(|record| record.cell.series != **name)) {
        let mut known: Vec<&str> = records.iter().map(|record| record.cell.series.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        bail!(Unusable(format!("{shown}: no series \"{name}\"; there are: {}", known.join(", "))));
    }
    let out = args.out.as_deref().unwrap_or(folder);
    let file = folder.join("simulated.jsonl");
    let raw = match (&args.out, file.exists()) {
        (Some(_), _) => folder.display().to_string(),
        (None, true) => "simulated.jsonl".into(),
        (None, false) => ".".into(),
    };
    let beside = args.beside.as_deref().map(read_folder).transpose().map_err(|error| Unusable(error.to_string()))?;
    let beside = beside.unwrap_or_default();
    let found = findings(&first.cell.experiment, &records, &args.reference, &beside, &raw);
    found.save(out, args.png)?;
    out!("{}", found.markdown);
    log::info!("written: {} and {} figures", out.join("README.md").display(), found.figures.len());
    Ok(())
}

/// Prints the table of runs, draws their curves, and writes all their numbers to `csv`; returns why runs could not be used.
fn compare(folders: &[PathBuf], csv: Option<&Path>) -> anyhow::Result<Vec<anyhow::Error>> {
    // Runs of one comparison mostly share their data: its baselines are computed once.
    let mut known: Vec<(Deck, Vec<Baseline>)> = Vec::new();
    let (mut runs, mut refused) = (Vec::new(), Vec::new());
    for folder in folders {
        let found = read(folder)
            .with_context(|| format!("{}: no run folder with deck.toml and metrics.jsonl", folder.display()));
        let (deck, mut run) = match found {
            Ok(found) => found,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        run.baselines = match known.iter().find(|(other, _)| other.data == deck.data) {
            Some((_, baselines)) => baselines.clone(),
            None if run.bytes => baselines(&deck),
            None => Vec::new(),
        };
        known.push((deck, run.baselines.clone()));
        runs.push(run);
    }
    if !runs.is_empty() {
        out!("{}", report(&runs));
        if let Some(path) = csv {
            write_csv(&runs, path)?;
            log::info!("written: {}", path.display());
        }
    }
    Ok(refused)
}

fn read(folder: &Path) -> anyhow::Result<(Deck, Run)> {
    let deck = Deck::read(&folder.join("deck.toml"), &[])?;
    let run = Run {
        folder: folder.to_path_buf(),
        system: deck.system.name().to_string(),
        bytes: deck.data.text.is_some() && deck.data.tokenizer == TokenizerChoice::Bytes,
        history: read_journal(&folder.join("metrics.jsonl"))?,
        baselines: Vec::new(),
    };
    Ok((deck, run))
}

/// Witten-Bell models of the deck's own split; none if nothing validates.
fn baselines(deck: &Deck) -> Vec<Baseline> {
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
