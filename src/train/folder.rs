//! The run folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::checkpoint;
use crate::data::TokenizerChoice;
use crate::deck::Deck;
use crate::metrics::Part;

use super::lock::LOCK;

/// File that says a run has done all its steps.
pub const DONE: &str = "DONE";

/// What a run folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: a run starts.
    Nothing,
    /// A run that has ended before its first checkpoint: it starts again.
    Begun,
    /// A run with a checkpoint: it goes on.
    Checkpoint,
}

impl Found {
    /// All of them.
    pub const ALL: [Found; 3] = [Found::Nothing, Found::Begun, Found::Checkpoint];
}

/// Where a run writes: what the deck says, else a name with the time.
pub fn name(deck: &Deck) -> PathBuf {
    deck.run.folder.clone().unwrap_or_else(|| {
        let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        PathBuf::from("runs").join(format!("{}-{time}", deck.name()))
    })
}

/// Refuses a folder that holds something, unless it is a run and that is to be continued; writes nothing.
pub fn look(folder: &Path, resume: bool) -> anyhow::Result<Found> {
    let text = folder.display();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        entries => entries.with_context(|| format!("run folder {text}"))?,
    };
    // This process's own lock says nothing.
    let entries = entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != LOCK));
    if entries.count() == 0 {
        return Ok(Found::Nothing);
    }
    if !resume {
        bail!("run folder {text} is not empty; continue it with --resume, or choose another with --set run.folder=…");
    }
    if !checkpoint::checkpoints(&checkpoints(folder))?.is_empty() {
        return Ok(Found::Checkpoint);
    }
    if ["deck.toml", "metrics.jsonl", "checkpoints"].iter().any(|name| folder.join(name).exists()) {
        return Ok(Found::Begun);
    }
    bail!("run folder {text} holds something else than a run; choose another with --set run.folder=…")
}

/// Makes the folder.
pub fn create(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(checkpoints(folder)).with_context(|| format!("run folder {}", folder.display()))
}

/// Writes the resolved deck of the run's last part, with all parts named above it.
pub fn describe(folder: &Path, deck: &Deck, parts: &[Part]) -> anyhow::Result<()> {
    let mut text =
        String::from("# The deck of the last part of this run; the decks of all parts are in metrics.jsonl.\n");
    parts.iter().for_each(|part| text += &format!("# {}\n", part.line()));
    write(&folder.join("deck.toml"), &(text + &deck.to_toml()))
}

/// Keeps a copy of the deck's tokenizer, so that the run is complete without the file it came from.
pub fn keep_tokenizer(folder: &Path, deck: &Deck) -> anyhow::Result<()> {
    let TokenizerChoice::File(path) = deck.tokenizer() else { return Ok(()) };
    let copy = folder.join(TokenizerChoice::KEPT);
    if fs::canonicalize(&path).ok() == fs::canonicalize(&copy).ok() {
        return Ok(());
    }
    fs::copy(&path, &copy).map(|_| ()).with_context(|| format!("{} to {}", path.display(), copy.display()))
}

/// The run is done, or goes on.
pub fn set_done(folder: &Path, done: bool) -> anyhow::Result<()> {
    let path = folder.join(DONE);
    if done {
        return write(&path, "");
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// Where checkpoints go.
pub fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("checkpoints")
}
