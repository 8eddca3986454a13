//! Where a model's weights come from.

use std::path::Path;

use crate::model::ModelShape;

use super::hf::HfFolder;
use super::{Checkpoint, CheckpointError, Result};

/// A model on disk: a checkpoint or a Hugging Face folder.
pub trait Source {
    /// The file or folder.
    fn path(&self) -> &Path;
    /// The model's shape.
    fn shape(&self) -> &ModelShape;
    /// Reads elements of a tensor as f32, from element `start` (row by row) on; a tied head is the embedding. A tensor
    /// read whole is compared with its checksum, if it has one.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;
    /// The resolved deck that trained it, TOML; empty if that is not known.
    fn deck(&self) -> &str {
        ""
    }
    /// The longest sequence it was made for, if the files say so.
    fn positions(&self) -> Option<usize> {
        None
    }
    /// Reads share `part` of `parts` of the model and compares it with its checksums, if there are any: for readers of
    /// parts of tensors.
    fn check(&self, part: usize, parts: usize) -> Result<()> {
        let _ = (part, parts);
        Ok(())
    }
}

/// Opens what `model.from` names: a Hugging Face folder, a checkpoint file, or the newest checkpoint in a run folder.
/// Everything is checked but the numbers.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    if path.is_file() {
        return Ok(Box::new(Checkpoint::open(path)?));
    }
    if path.join("config.json").is_file() {
        return Ok(Box::new(HfFolder::open(path)?));
    }
    for folder in [path.join("checkpoints"), path.to_path_buf()] {
        if let Some(newest) = super::checkpoints(&folder)?.first() {
            return Ok(Box::new(Checkpoint::open(newest)?));
        }
    }
    let problem = if path.join("deck.toml").is_file() {
        "is a run folder without a checkpoint"
    } else if path.exists() {
        "is neither a Hugging Face folder (config.json), a checkpoint, nor a run folder"
    } else {
        "does not exist; expected a Hugging Face folder, a checkpoint (step_N.h5) or a run folder"
    };
    Err(CheckpointError::damaged(path, problem))
}
