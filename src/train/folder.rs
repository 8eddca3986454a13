//! The run folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::deck::Deck;

/// File that says a run has done all its steps.
pub const DONE: &str = "DONE";

/// Where a run writes: what the deck says, else a name with the time.
pub fn name(deck: &Deck) -> PathBuf {
    deck.run.folder.clone().unwrap_or_else(|| {
        let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        PathBuf::from("runs").join(format!("{}-{time}", deck.name()))
    })
}

/// Refuses a folder that holds something, unless the run in it is to be continued; writes nothing.
pub fn look(folder: &Path, resume: bool) -> anyhow::Result<()> {
    let text = folder.display();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !resume => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("run folder {text} does not exist: there is nothing to --resume")
        }
        Err(error) => return Err(error).with_context(|| format!("run folder {text}")),
        Ok(entries) => entries.count(),
    };
    if entries > 0 && !resume {
        bail!("run folder {text} is not empty; continue it with --resume, or choose another with --set run.folder=…");
    }
    Ok(())
}

/// Makes the folder and writes the resolved deck into it.
pub fn create(folder: &Path, deck: &Deck) -> anyhow::Result<()> {
    let checkpoints = checkpoints(folder);
    fs::create_dir_all(&checkpoints).with_context(|| format!("run folder {}", folder.display()))?;
    let path = folder.join("deck.toml");
    fs::write(&path, deck.to_toml()).with_context(|| path.display().to_string())
}

/// Where checkpoints go.
pub fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("checkpoints")
}
