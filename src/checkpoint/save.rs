//! Writing a checkpoint with all ranks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::fabric::Control;
use crate::model::{ModelShape, Param};

use super::agree::{agree, on_root};
use super::checksum::checked;
use super::layout::{Header, State, Table};
use super::load::verify;
use super::{CheckpointError, Piece, Result, file_name, h5, tensors};

/// Collective. Writes `folder/step_N.h5` from what the ranks hold; their pieces together must cover every element of
/// every tensor exactly once. Returns its path on every rank, or the same error on every rank. Until all is written,
/// read back and found right the file is called `step_N.h5.tmp`, so whatever happens, a `step_N.h5` is whole.
pub fn save(folder: &Path, header: &Header, pieces: &[Piece], control: &dyn Control) -> Result<PathBuf> {
    let path = folder.join(file_name(header.step));
    let unfinished = folder.join(format!("{}.tmp", file_name(header.step)));
    let outcome = write(&unfinished, header, pieces, control).and_then(|()| {
        on_root(control, || {
            fs::rename(&unfinished, &path).map_err(CheckpointError::write(&path))?;
            File::open(folder).and_then(|f| f.sync_all()).map_err(CheckpointError::write(folder))
        })
    });
    if outcome.is_err() && control.rank() == 0 {
        // Gives back the space; if this fails too, the first error says more.
        let _ = fs::remove_file(&unfinished);
    }
    outcome.map(|()| path)
}

fn write(path: &Path, header: &Header, pieces: &[Piece], control: &dyn Control) -> Result<()> {
    let sums = sums(&header.shape, pieces, control)?;
    let table: Table = on_root(control, || {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
        h5::create(path, header, &sums)
    })?;
    // In turn: many clients writing into one file at a time is what network file systems do worst. A rank that fails
    // still passes the turn on.
    if control.rank() > 0 {
        control.receive(control.rank() - 1);
    }
    let written = write_pieces(path, &table, pieces).map_err(CheckpointError::write(path));
    if control.rank() + 1 < control.size() {
        control.send(control.rank() + 1, &[]);
    }
    agree(control, written)?;
    let again: Table = on_root(control, || h5::open(path))?;
    if again != table {
        return Err(CheckpointError::damaged(path, "read back differently from what was written"));
    }
    agree(control, verify(path, &table, |index| index % control.size() == control.rank()))
}

fn write_pieces(path: &Path, table: &Table, pieces: &[Piece]) -> std::io::Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    let params = tensors(&table.header.shape);
    let index = by_name(&params);
    let file = File::options().write(true).open(path)?;
    for piece in pieces {
        let extents = &table.extents[index[piece.name]];
        for (extent, values) in extents.iter().zip(states(piece)) {
            file.write_all_at(bytemuck::cast_slice(values), extent.offset + 4 * piece.start as u64)?;
        }
    }
    // Also where delayed allocation reports a full disk.
    file.sync_all()
}

/// Collective. Checksums of every tensor, and the proof that all values are finite and that the pieces tile the model.
fn sums(shape: &ModelShape, pieces: &[Piece], control: &dyn Control) -> Result<Vec<[u64; 3]>> {
    let params = tensors(shape);
    let index = by_name(&params);
    // A tensor: three checksums, then elements covered and a checksum of which elements those are.
    let mut totals = vec![0u64; 4 * params.len()];
    let add = |piece: &Piece| {
        let unknown = || CheckpointError::Pieces(format!("{} is no tensor of this model", piece.name));
        let at = *index.get(piece.name).ok_or_else(unknown)?;
        let end = piece.start + piece.weights.len();
        if end > params[at].len() || states(piece).iter().any(|s| s.len() != piece.weights.len()) {
            let text = format!("{}: elements {}..{end} of {}", piece.name, piece.start, params[at].len());
            return Err(CheckpointError::Pieces(text));
        }
        for (state, values) in State::ALL.into_iter().zip(states(piece)) {
            let (sum, odd) = checked(piece.start, values);
            if let Some(element) = odd {
                return Err(CheckpointError::NotFinite {
                    tensor: format!("{}/{}", state.group(), piece.name),
                    element,
                });
            }
            let total = &mut totals[4 * at + state as usize];
            *total = total.wrapping_add(sum);
        }
        totals[4 * at + 3] += piece.weights.len() as u64;
        Ok(())
    };
    agree(control, pieces.iter().try_for_each(add))?;
    control.sum_u64(&mut totals);
    for (param, total) in params.iter().zip(totals.chunks(4)) {
        if total[3] != param.len() as u64 {
            let text = format!("{}: {} of {} elements were given", param.name, total[3], param.len());
            return Err(CheckpointError::Pieces(text));
        }
    }
    Ok(totals.chunks(4).map(|total| [total[0], total[1], total[2]]).collect())
}

/// The three arrays of a piece, in the order of [`super::State::ALL`].
fn states<'a>(piece: &Piece<'a>) -> [&'a [f32]; 3] {
    [piece.weights, piece.moment1, piece.moment2]
}

/// Number of every tensor in the order of [`tensors`].
pub(super) fn by_name(params: &[Param]) -> HashMap<&str, usize> {
    params.iter().enumerate().map(|(index, param)| (param.name.as_str(), index)).collect()
}
