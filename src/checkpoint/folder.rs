//! The folder of a run's checkpoints: names, order, and what is thrown away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CheckpointError, Result};

/// Name of the checkpoint after a step.
pub fn file_name(step: u64) -> String {
    format!("step_{step}.h5")
}

/// The step a file name is of, if it is a finished checkpoint's.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step_")?.strip_suffix(".h5")?.parse().ok()
}

/// Finished checkpoints of a folder, newest first; none if there is no such folder.
pub fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(CheckpointError::read(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        if let Some(step) = step_of(&path) {
            found.push((step, path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Deletes all but the newest `keep` checkpoints and what an interrupted save left behind. For one rank; `keep` = 0
/// deletes nothing.
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let mut gone: Vec<PathBuf> = checkpoints(folder)?.into_iter().skip(keep).collect();
    for entry in fs::read_dir(folder).map_err(CheckpointError::read(folder))? {
        let path = entry.map_err(CheckpointError::read(folder))?.path();
        let unfinished = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".tmp"));
        if unfinished.is_some_and(|name| step_of(Path::new(name)).is_some()) {
            gone.push(path);
        }
    }
    for path in gone {
        fs::remove_file(&path).map_err(CheckpointError::write(&path))?;
    }
    Ok(())
}
