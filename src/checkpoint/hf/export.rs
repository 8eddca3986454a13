//! A Hugging Face folder from any model on disk, one buffer of memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};

use crate::model::Param;

use super::super::checksum::checksum;
use super::super::{CheckpointError, Result, Source, tensors};
use super::config::parse_config;
use super::tensors::{BUFFER, CHECKSUMS, is_weight};
use super::{Width, write_config};

/// What an exported folder looks like.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions<'a> {
    /// How weights are stored.
    pub width: Width,
    /// `max_position_embeddings`: the longest sequence it was trained on.
    pub positions: usize,
    /// A `tokenizer.json` to put beside.
    pub tokenizer: Option<&'a Path>,
}

/// Writes `config.json`, `model.safetensors` and, if given, `tokenizer.json` into a folder that must not exist or be
/// empty. First the source's checksums are checked, and that [`super::HfFolder`] would read back all that will be
/// written: before that nothing is. `config.json` comes last: a folder that has one is whole.
pub fn export(source: &dyn Source, folder: &Path, options: &ExportOptions) -> Result<()> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        return Err(CheckpointError::damaged(folder, "exists and is not empty; nothing was written"));
    }
    source.check(0, 1)?;
    let config = write_config(source.shape(), options.width, options.positions);
    if parse_config(&config, source.path())? != *source.shape() {
        return Err(CheckpointError::damaged(source.path(), "has a shape that a config.json cannot hold"));
    }
    let params = tensors(source.shape());
    let sums = checksums(source, &params, options.width)?;
    let tokenizer = match options.tokenizer {
        Some(path) => Some(fs::read(path).map_err(CheckpointError::read(path))?),
        None => None,
    };
    fs::create_dir_all(folder).map_err(CheckpointError::write(folder))?;
    write_weights(source, &params, sums, &folder.join("model.safetensors"), options.width)?;
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(CheckpointError::write(&path))
    };
    if let Some(tokenizer) = tokenizer {
        put("tokenizer.json", &tokenizer)?;
    }
    put("config.json", config.as_bytes())
}

fn write_weights(
    source: &dyn Source,
    params: &[Param],
    sums: BTreeMap<String, u64>,
    path: &Path,
    width: Width,
) -> Result<()> {
    let mut end = 0;
    let infos = params.iter().map(|param| {
        let start = end;
        end += width.bytes() * param.len();
        (param.name.clone(), TensorInfo { dtype: width.dtype(), shape: param.dims(), data_offsets: (start, end) })
    });
    let sums = serde_json::to_string(&sums).expect("plain data");
    // transformers looks for "format".
    let about = [("format".to_string(), "pt".to_string()), (CHECKSUMS.to_string(), sums)].into();
    let metadata = Metadata::new(Some(about), infos.collect()).expect("offsets ascend without gaps");
    let mut header = serde_json::to_vec(&metadata).expect("plain data");
    // Spaces, so that tensors start at multiples of 8 bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = File::create(path).map_err(CheckpointError::write(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, &file);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(CheckpointError::write(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    let mut values = vec![0.0; BUFFER];
    let mut bytes = Vec::with_capacity(4 * BUFFER);
    for param in params {
        for start in (0..param.len()).step_by(BUFFER) {
            let part = &mut values[..BUFFER.min(param.len() - start)];
            source.read(&param.name, start, part)?;
            bytes.clear();
            convert(width, part, &mut bytes);
            put(&bytes)?;
        }
    }
    out.flush().map_err(CheckpointError::write(path))?;
    drop(out);
    file.sync_all().map_err(CheckpointError::write(path))
}

/// Checksum of every tensor as it will be stored; an error if it would not be read back.
fn checksums(source: &dyn Source, params: &[Param], width: Width) -> Result<BTreeMap<String, u64>> {
    let mut values = vec![0.0; BUFFER];
    let of = |param: &Param| {
        let mut sum = 0u64;
        for start in (0..param.len()).step_by(BUFFER) {
            let part = &mut values[..BUFFER.min(param.len() - start)];
            source.read(&param.name, start, part)?;
            for (at, x) in part.iter_mut().enumerate() {
                let stored = width.round(*x);
                if !is_weight(stored) {
                    return Err(CheckpointError::tensor(source.path(), &param.name, lost(width, start + at, *x)));
                }
                *x = stored;
            }
            sum = sum.wrapping_add(checksum(start, part));
        }
        Ok((param.name.clone(), sum))
    };
    params.iter().map(of).collect()
}

/// Why an element cannot be exported.
fn lost(width: Width, at: usize, x: f32) -> String {
    if x.is_finite() && x.abs() > width.largest() {
        let (name, largest) = (width.torch_name(), width.largest());
        return format!(
            "cannot be stored: its element {at} is {x}, and {name} ends at {largest}; --dtype takes a wider one"
        );
    }
    format!("cannot be exported: its element {at} is {x}, which is no weight")
}

/// f32 to little-endian bytes, rounded to nearest even.
fn convert(width: Width, values: &[f32], out: &mut Vec<u8>) {
    match width {
        Width::F32 => values.iter().for_each(|x| out.extend(x.to_le_bytes())),
        Width::Bf16 => values.iter().for_each(|x| out.extend(bf16::from_f32(*x).to_le_bytes())),
        Width::F16 => values.iter().for_each(|x| out.extend(f16::from_f32(*x).to_le_bytes())),
    }
}
