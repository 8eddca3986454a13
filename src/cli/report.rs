//! `tawpipe report`: compares runs with each other and with what a table can do.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::data::TokenizerChoice;
use crate::data::baseline::WittenBell;
use crate::deck::Deck;
use crate::exit::Exit;
use crate::metrics::read_journal;
use crate::report::{Baseline, Run, report};

/// Lengths of context, in bytes, of the table models that runs are compared with.
const CONTEXTS: [usize; 2] = [3, 4];

/// Prints the table and draws the curves.
pub fn run(folders: &[PathBuf]) -> anyhow::Result<Exit> {
    // Runs of one comparison mostly share their data: its baselines are computed once.
    let mut known: Vec<(Deck, Vec<Baseline>)> = Vec::new();
    let mut runs = Vec::new();
    for folder in folders {
        let (deck, mut run) = read(folder)
            .with_context(|| format!("{}: no run folder with deck.toml and metrics.jsonl", folder.display()))?;
        run.baselines = match known.iter().find(|(other, _)| other.data == deck.data) {
            Some((_, baselines)) => baselines.clone(),
            None if run.bytes => baselines(&deck),
            None => Vec::new(),
        };
        known.push((deck, run.baselines.clone()));
        runs.push(run);
    }
    print!("{}", report(&runs)?);
    Ok(Exit::Done)
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
