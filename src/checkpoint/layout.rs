//! What is in a checkpoint file and where: the part of the format that HDF5 is not needed for.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::{ModelShape, Param};

use super::{CheckpointError, Result, checksum, tensors};

/// Value of the attribute `format`; another one is refused.
#[cfg_attr(not(feature = "hdf5"), allow(dead_code, reason = "only the HDF5 side uses it"))]
pub(super) const FORMAT: &str = "tawpipe checkpoint 1";

/// What a checkpoint says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Steps taken: the next one is `step + 1`.
    pub step: u64,
    /// Seed of initialisation and data.
    pub seed: u64,
    /// Tokens seen so far, over all ranks.
    pub tokens: u64,
    /// The model.
    pub shape: ModelShape,
    /// The resolved deck, TOML.
    pub deck: String,
    /// How far the run has come; checkpoints of version 0.1 and imported models do not say.
    // Left out of the checksum too where it is not there, so that old checkpoints keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// How far a run has come, beside its steps and tokens: what a resumed run goes on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Training sequences read so far, in the order of the data.
    pub sequences: u64,
    /// Tokens of each of them.
    pub seq: usize,
    /// Updates that were applied: AdamW's count.
    pub updates: u64,
    /// Updates that were left out.
    pub skipped: u64,
    /// Steps up to the last one, in a row, whose loss or gradient norm was not finite.
    pub skipped_in_a_row: u64,
    /// The last finite gradient norms, oldest first; only with `run.spike`.
    pub norms: Vec<f64>,
}

/// The three numbers kept for every weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The f32 master weights.
    Weights,
    /// AdamW's first moment.
    Moment1,
    /// AdamW's second moment.
    Moment2,
}

impl State {
    /// All of them, in the order in which a checkpoint lists them.
    pub const ALL: [State; 3] = [State::Weights, State::Moment1, State::Moment2];

    /// The group that holds its datasets.
    pub const fn group(self) -> &'static str {
        match self {
            State::Weights => "model",
            State::Moment1 => "optimizer/moment1",
            State::Moment2 => "optimizer/moment2",
        }
    }
}

/// One dataset: a contiguous run of f32 in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Number of elements.
    pub len: usize,
    /// Σ hash(element index, bits) modulo 2^64.
    pub checksum: u64,
}

/// Everything but the numbers. Rank 0 reads it with HDF5 and tells the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Table {
    /// What the file says about itself.
    pub header: Header,
    /// For every tensor of [`tensors`] in that order, its three datasets in the order of [`State::ALL`].
    pub extents: Vec<[Extent; 3]>,
}

/// Checksum of the header: a changed attribute shows before anything of it is used.
#[cfg_attr(not(feature = "hdf5"), allow(dead_code, reason = "only the HDF5 side uses it"))]
pub(super) fn seal(header: &Header) -> u64 {
    checksum::text(&serde_json::to_vec(&(FORMAT, header)).expect("plain data"))
}

/// Refuses a checkpoint of another model, naming the first key that differs.
pub(super) fn same_model(path: &Path, found: &ModelShape, wanted: &ModelShape) -> Result<()> {
    // Through JSON, so that a key added to the shape is compared without being listed here.
    let keys = |shape| match serde_json::to_value(shape) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => unreachable!("a shape is a table"),
    };
    let (found, wanted) = (keys(found), keys(wanted));
    match wanted.iter().find(|(key, value)| found.get(*key) != Some(value)) {
        None => Ok(()),
        Some((key, value)) => Err(CheckpointError::OtherModel {
            path: path.display().to_string(),
            key: format!("model.{key}"),
            found: found.get(key).map_or("none".into(), ToString::to_string),
            wanted: value.to_string(),
        }),
    }
}

/// Every dataset of a model: index of the tensor, the tensor, which of its three, and the path in the file.
#[cfg_attr(not(feature = "hdf5"), allow(dead_code, reason = "only the HDF5 side uses it"))]
pub(super) fn datasets(shape: &ModelShape) -> impl Iterator<Item = (usize, Param, usize, String)> {
    tensors(shape).into_iter().enumerate().flat_map(|(index, param)| {
        State::ALL.into_iter().enumerate().map(move |(which, state)| {
            let path = format!("{}/{}", state.group(), param.name);
            (index, param.clone(), which, path)
        })
    })
}
