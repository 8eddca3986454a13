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
pub fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step_")?.strip_suffix(".h5")?.parse().ok()
}

/// The run folder that a checkpoint lies in, `RUN/checkpoints/step_N.h5`.
pub fn run_folder(file: &Path) -> &Path {
    file.parent().and_then(Path::parent).unwrap_or(Path::new(""))
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

/// Which checkpoints are worth keeping.
pub struct Keep<'a> {
    /// How many of the newest.
    pub newest: usize,
    /// The one of this step is kept too.
    pub spared: Option<u64>,
    /// Whether the one of this step is known to be good: the newest such is kept whatever its age.
    pub confirmed: &'a dyn Fn(u64) -> bool,
    /// Whether the one of this step is of steps that the run takes anew, having gone back to an older one: it does not count,
    /// and goes once the run is past it.
    pub outdated: &'a dyn Fn(u64) -> bool,
}

/// Deletes what is not to be kept, and what an interrupted save left behind. For one rank.
pub fn prune(folder: &Path, keep: &Keep) -> Result<()> {
    let all = checkpoints(folder)?.into_iter().filter_map(|path| Some((step_of(&path)?, path)));
    let (outdated, found): (Vec<_>, Vec<_>) = all.partition(|(step, _)| (keep.outdated)(*step));
    let newest = found.first().map(|(step, _)| *step);
    let confirmed = found.iter().map(|(step, _)| *step).find(|step| (keep.confirmed)(*step));
    let kept = [confirmed, keep.spared];
    let old = found.into_iter().skip(keep.newest).filter(|(step, _)| !kept.contains(&Some(*step)));
    let passed = outdated.into_iter().filter(|(step, _)| Some(*step) < newest);
    let mut gone: Vec<PathBuf> = old.chain(passed).map(|(_, path)| path).collect();
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
