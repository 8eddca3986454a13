//! Where a model's weights come from.

use std::path::Path;

use crate::fabric::Control;
use crate::model::ModelShape;

use super::agree::agree;
use super::hf::HfFolder;
use super::layout::same_model;
use super::{Checkpoint, CheckpointError, PieceMut, Result};

/// A model on disk: a checkpoint or a Hugging Face folder.
pub trait Source {
    /// The file or folder.
    fn path(&self) -> &Path;
    /// The model's shape.
    fn shape(&self) -> &ModelShape;
    /// Reads elements of a tensor as f32, from element `start` (row by row) on; a tied head is the embedding.
    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()>;
    /// Checks share `part` of `parts` of the numbers against their checksums, if there are any.
    fn check(&self, part: usize, parts: usize) -> Result<()> {
        let _ = (part, parts);
        Ok(())
    }
}

/// Opens what `model.from` names: a Hugging Face folder, a checkpoint file, or the newest checkpoint in a run folder.
/// Everything is checked but the numbers, which [`Source::check`] does.
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
    let problem = if path.exists() {
        "is neither a Hugging Face folder (config.json), a checkpoint, nor a run folder"
    } else {
        "does not exist; expected a Hugging Face folder, a checkpoint (step_N.h5) or a run folder"
    };
    Err(CheckpointError::damaged(path, problem))
}

/// Collective. Fills the weights of the ranks' pieces from what `model.from` names and leaves their moments alone: a
/// new run from another's weights. All ranks return the same.
pub fn start(path: &Path, shape: &ModelShape, pieces: &mut [PieceMut], control: &dyn Control) -> Result<()> {
    let outcome = (|| {
        let source = open(path)?;
        same_model(source.path(), source.shape(), shape)?;
        for piece in pieces {
            source.read(piece.name, piece.start, piece.weights)?;
        }
        source.check(control.rank(), control.size())
    })();
    agree(control, outcome)
}
