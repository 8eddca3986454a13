//! Reading checkpoints, alone or with all ranks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::fabric::Control;
use crate::model::ModelShape;

use super::agree::{agree, on_root};
use super::checksum::{checked, checksum};
use super::layout::{Extent, Header, State, Table, same_model};
use super::save::by_name;
use super::{CheckpointError, PieceMut, Result, Source, checkpoints, h5, step_of, tensors};

/// Elements read at a time where a whole tensor is not wanted in memory.
const BUFFER: usize = 1 << 16;

/// An open checkpoint, for one process: generation, export, inspection.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    table: Table,
    file: File,
}

impl Checkpoint {
    /// Opens a checkpoint and checks everything but the numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let table = h5::open(path)?;
        let file = File::open(path).map_err(CheckpointError::read(path))?;
        Ok(Checkpoint { path: path.to_path_buf(), table, file })
    }

    /// What it says about itself.
    pub fn header(&self) -> &Header {
        &self.table.header
    }

    /// Checks every number in the file against its checksum.
    pub fn verify(&self) -> Result<()> {
        self.check(0, 1)
    }

    /// Reads elements of a tensor's weights or moments, from element `start` on. A tensor read whole is compared with its
    /// checksum.
    pub fn read_state(&self, state: State, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let params = tensors(&self.table.header.shape);
        let index = by_name(&params);
        let Some(&index) = index.get(name) else {
            return Err(CheckpointError::tensor(&self.path, name, "is no tensor of this model"));
        };
        let extent = &self.table.extents[index][state as usize];
        read(&self.path, &self.file, extent, start, out)?;
        if out.len() == extent.len && checksum(0, out) != extent.checksum {
            return Err(mismatch(&self.path, state, name));
        }
        Ok(())
    }
}

impl Source for Checkpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn shape(&self) -> &ModelShape {
        &self.table.header.shape
    }

    fn deck(&self) -> &str {
        &self.table.header.deck
    }

    fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.read_state(State::Weights, name, start, out)?;
        match out.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(not_finite(&self.path, State::Weights, name, start + at)),
        }
    }

    fn check(&self, part: usize, parts: usize) -> Result<()> {
        verify(&self.path, &self.table, |index| index % parts == part)
    }
}

/// Collective. Fills the ranks' pieces from a checkpoint of a model of this shape; on every rank the file's header, or
/// the same error. Pieces may be any part of the model; what they hold is checked: by the checksums of the tensors
/// that the ranks' pieces cover evenly, by reading the whole tensor where they do not.
pub fn load(path: &Path, shape: &ModelShape, pieces: &mut [PieceMut], control: &dyn Control) -> Result<Header> {
    let table: Table = on_root(control, || {
        let table = h5::open(path)?;
        same_model(path, &table.header.shape, shape)?;
        Ok(table)
    })?;
    let params = tensors(shape);
    let index = by_name(&params);
    // A dataset: the checksum of what was read, and how many elements.
    let mut totals = vec![0u64; 6 * params.len()];
    let outcome = (|| {
        let file = File::open(path).map_err(CheckpointError::read(path))?;
        for piece in pieces {
            let Some(&at) = index.get(piece.name) else {
                return Err(CheckpointError::Pieces(format!("{} is no tensor of this model", piece.name)));
            };
            let moments = piece.moments.iter_mut().flatten();
            let arrays = std::iter::once(&mut piece.weights).chain(moments);
            for (which, values) in arrays.enumerate() {
                read(path, &file, &table.extents[at][which], piece.start, values)?;
                let total = &mut totals[6 * at + 2 * which..][..2];
                let (sum, odd) = checked(piece.start, values);
                if let Some(element) = odd {
                    return Err(not_finite(path, State::ALL[which], piece.name, element));
                }
                total[0] = total[0].wrapping_add(sum);
                total[1] += values.len() as u64;
            }
        }
        Ok(())
    })();
    agree(control, outcome)?;
    control.sum_u64(&mut totals);
    let mut uneven = vec![false; params.len()];
    for (at, param) in params.iter().enumerate() {
        for which in 0..3 {
            let (sum, count) = (totals[6 * at + 2 * which], totals[6 * at + 2 * which + 1]);
            let (copies, rest) = (count / param.len() as u64, count % param.len() as u64);
            uneven[at] |= rest != 0 || sum != table.extents[at][which].checksum.wrapping_mul(copies);
        }
    }
    // Covered unevenly, or wrong: the whole tensor decides, and names the dataset.
    agree(control, verify(path, &table, |at| uneven[at] && at % control.size() == control.rank()))?;
    Ok(table.header)
}

/// Collective. What the newest checkpoint of a folder that can be opened says about itself, or
/// [`CheckpointError::NoCheckpoint`] if there is none.
pub fn newest(folder: &Path, control: &dyn Control) -> Result<Header> {
    on_root(control, || {
        let mut tried = Vec::new();
        for path in checkpoints(folder)? {
            match h5::open(&path) {
                Ok(table) => return Ok(table.header),
                Err(error) if error.is_damage() => tried.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Err(CheckpointError::no_checkpoint(folder, tried))
    })
}

/// Collective. Continues from the newest good checkpoint of a folder, of those `before` a step if that is given: a damaged
/// one is passed over with a warning. Returns its path and header, or [`CheckpointError::NoCheckpoint`] if none is left.
pub fn resume(
    folder: &Path,
    before: Option<u64>,
    shape: &ModelShape,
    pieces: &mut [PieceMut],
    control: &dyn Control,
) -> Result<(PathBuf, Header)> {
    let mut found: Vec<PathBuf> = on_root(control, || checkpoints(folder))?;
    found.retain(|path| step_of(path) < before || before.is_none());
    let mut tried = Vec::new();
    for path in found {
        match load(&path, shape, pieces, control) {
            Ok(header) => return Ok((path, header)),
            Err(error) if error.is_damage() => {
                if control.rank() == 0 {
                    log::warn!("passing over a checkpoint: {error}");
                }
                tried.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Err(CheckpointError::no_checkpoint(folder, tried))
}

/// Reads the tensors that `mine` picks and compares checksums.
pub(super) fn verify(path: &Path, table: &Table, mine: impl Fn(usize) -> bool) -> Result<()> {
    let file = File::open(path).map_err(CheckpointError::read(path))?;
    let mut buffer = vec![0.0; BUFFER];
    for (at, param) in tensors(&table.header.shape).iter().enumerate().filter(|(at, _)| mine(*at)) {
        for (extent, state) in table.extents[at].iter().zip(State::ALL) {
            let mut sum = 0u64;
            for start in (0..extent.len).step_by(BUFFER) {
                let part = &mut buffer[..BUFFER.min(extent.len - start)];
                read(path, &file, extent, start, part)?;
                sum = sum.wrapping_add(checksum(start, part));
            }
            if sum != extent.checksum {
                return Err(mismatch(path, state, &param.name));
            }
        }
    }
    Ok(())
}

fn read(path: &Path, file: &File, extent: &Extent, start: usize, out: &mut [f32]) -> Result<()> {
    if start + out.len() > extent.len {
        let text = format!("elements {start}..{} of a tensor of {}", start + out.len(), extent.len);
        return Err(CheckpointError::Pieces(text));
    }
    let bytes = bytemuck::cast_slice_mut(out);
    file.read_exact_at(bytes, extent.offset + 4 * start as u64).map_err(CheckpointError::read(path))
}

/// Written by version 0.1, which did not look, or by another program.
fn not_finite(path: &Path, state: State, name: &str, element: usize) -> CheckpointError {
    CheckpointError::tensor(path, &format!("{}/{name}", state.group()), format!("is not finite at element {element}"))
}

fn mismatch(path: &Path, state: State, name: &str) -> CheckpointError {
    CheckpointError::damaged(path, format!("is damaged: {}/{name} does not match its checksum", state.group()))
}
