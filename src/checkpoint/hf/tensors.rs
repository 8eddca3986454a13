//! One safetensors file: its table of tensors, and reads of parts of them.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};
use serde::{Deserialize, Serialize};

use super::super::checksum::checksum;
use super::super::{CheckpointError, Result};

/// Key in the header's metadata under which tawpipe puts checksums: JSON, tensor name to number.
pub(super) const CHECKSUMS: &str = "tawpipe.checksums";

/// Weights beyond this are damage: a flipped high bit of the exponent gives such numbers, training never does.
const LARGEST: f32 = 1e10;

/// Longest header that is believed, in bytes; safetensors itself has this limit.
const MAX_HEADER: u64 = 100_000_000;

/// Elements converted at a time.
pub(super) const BUFFER: usize = 1 << 16;

/// How floats are stored in a safetensors file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
}

impl Width {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Width::F32 => 4,
            Width::Bf16 | Width::F16 => 2,
        }
    }

    /// PyTorch's name, as in `config.json`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            Width::F32 => "float32",
            Width::Bf16 => "bfloat16",
            Width::F16 => "float16",
        }
    }

    /// The greatest finite number.
    pub(super) const fn largest(self) -> f32 {
        match self {
            Width::F32 => f32::MAX,
            Width::Bf16 => bf16::MAX.to_f32_const(),
            Width::F16 => f16::MAX.to_f32_const(),
        }
    }

    /// The name in safetensors.
    pub(super) const fn dtype(self) -> Dtype {
        match self {
            Width::F32 => Dtype::F32,
            Width::Bf16 => Dtype::BF16,
            Width::F16 => Dtype::F16,
        }
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// As stored.
    pub dims: Vec<usize>,
    /// As stored; `None` if it is none of ours, with its name beside.
    pub width: Option<Width>,
    /// Name of the stored type.
    pub dtype: String,
}

/// An open safetensors file.
///
/// Read with positioned reads instead of a memory map: a part of a tensor costs the same, and a file that shrinks
/// under us is an error instead of a SIGBUS.
#[derive(Debug)]
pub struct TensorFile {
    pub(super) path: PathBuf,
    file: File,
    pub(super) places: HashMap<String, Place>,
    /// Of the tensors' values as f32; empty in files that others wrote.
    checksums: HashMap<String, u64>,
}

impl TensorFile {
    /// Opens a file and checks that its header and its length agree.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(CheckpointError::read(path))?;
        let length = file.metadata().map_err(CheckpointError::read(path))?.len();
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 0)
            .map_err(|_| CheckpointError::damaged(path, "is no safetensors file: shorter than 8 bytes"))?;
        let size = u64::from_le_bytes(size);
        if size > MAX_HEADER || size + 8 > length {
            let text = format!("is no sound safetensors file: header of {size} bytes in a file of {length}");
            return Err(CheckpointError::damaged(path, text));
        }
        let mut header = vec![0; size as usize];
        file.read_exact_at(&mut header, 8).map_err(CheckpointError::read(path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| CheckpointError::damaged(path, format!("is no sound safetensors file: {error}")))?;
        let start = 8 + size;
        let end = start + metadata.data_len() as u64;
        if end != length {
            let (end, what) = (end.to_string(), if end > length { "is truncated" } else { "is too long" });
            return Err(CheckpointError::damaged(path, format!("{what}: {length} bytes, its header says {end}")));
        }
        let places = metadata.tensors().into_iter().map(|(name, info)| {
            let width = [Width::F32, Width::Bf16, Width::F16].into_iter().find(|w| w.dtype() == info.dtype);
            let (offset, dtype) = (start + info.data_offsets.0 as u64, format!("{:?}", info.dtype));
            (name, Place { offset, dims: info.shape.clone(), width, dtype })
        });
        let places = places.collect();
        let checksums = metadata.metadata().as_ref().and_then(|about| about.get(CHECKSUMS));
        let checksums = checksums.map_or(Ok(HashMap::new()), |text| serde_json::from_str(text));
        let checksums =
            checksums.map_err(|error| CheckpointError::damaged(path, format!("{CHECKSUMS} in its header: {error}")))?;
        Ok(TensorFile { path: path.to_path_buf(), file, places, checksums })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.places.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Name, stored type and dimensions of every tensor, by name.
    pub fn tensors(&self) -> Vec<(&str, &str, &[usize])> {
        let of = |name| (name, self.places[name].dtype.as_str(), self.places[name].dims.as_slice());
        self.names().into_iter().map(of).collect()
    }

    /// Compares a tensor with its checksum; nothing to compare in files that others wrote.
    pub fn check(&self, name: &str) -> Result<()> {
        let (Some(place), Some(&wanted)) = (self.places.get(name), self.checksums.get(name)) else { return Ok(()) };
        let len: usize = place.dims.iter().product();
        let mut buffer = vec![0.0; BUFFER.min(len)];
        let mut sum = 0u64;
        for start in (0..len).step_by(BUFFER) {
            let part = &mut buffer[..BUFFER.min(len - start)];
            self.read_part(name, start, part)?;
            sum = sum.wrapping_add(checksum(start, part));
        }
        if sum == wanted { Ok(()) } else { Err(self.mismatch(name)) }
    }

    fn mismatch(&self, name: &str) -> CheckpointError {
        CheckpointError::tensor(&self.path, name, "is damaged: it does not match its checksum")
    }

    /// Reads elements of a tensor as f32, from element `start` (row by row) on. A value that can be no weight (NaN,
    /// infinite, above 1e10) is an error, and a tensor read whole is compared with its checksum, if it has one.
    pub fn read(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        self.read_part(name, start, out)?;
        let whole = self.places.get(name).is_some_and(|place| place.dims.iter().product::<usize>() == out.len());
        match self.checksums.get(name) {
            Some(&wanted) if whole && checksum(0, out) != wanted => Err(self.mismatch(name)),
            _ => Ok(()),
        }
    }

    fn read_part(&self, name: &str, start: usize, out: &mut [f32]) -> Result<()> {
        let error = |problem: String| CheckpointError::tensor(&self.path, name, problem);
        let place = self.places.get(name).ok_or_else(|| error("is missing".into()))?;
        let len: usize = place.dims.iter().product();
        if start + out.len() > len {
            return Err(error(format!("has {len} elements; {start}..{} were asked for", start + out.len())));
        }
        let width = place.width.ok_or_else(|| error(wrong_type(&place.dtype)))?;
        let mut buffer = vec![0u8; width.bytes() * BUFFER.min(out.len())];
        for (i, part) in out.chunks_mut(BUFFER).enumerate() {
            let first = start + i * BUFFER;
            let bytes = &mut buffer[..width.bytes() * part.len()];
            let at = place.offset + (width.bytes() * first) as u64;
            self.file.read_exact_at(bytes, at).map_err(CheckpointError::read(&self.path))?;
            convert(width, bytes, part);
            if let Some(bad) = part.iter().position(|x| !is_weight(*x)) {
                return Err(error(format!("is damaged: element {} is {}", first + bad, part[bad])));
            }
        }
        Ok(())
    }
}

impl Width {
    /// What a value becomes by being stored: rounded to nearest even.
    pub(super) fn round(self, x: f32) -> f32 {
        match self {
            Width::F32 => x,
            Width::Bf16 => bf16::from_f32(x).to_f32(),
            Width::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

/// Whether a number can be a weight: finite, and not so large that it must be damage.
pub(super) fn is_weight(x: f32) -> bool {
    x.abs() <= LARGEST
}

/// For a tensor whose type is none of ours.
pub(super) fn wrong_type(dtype: &str) -> String {
    format!("has type {dtype}; accepted: F32, BF16, F16")
}

/// Little-endian bytes to f32.
fn convert(width: Width, bytes: &[u8], out: &mut [f32]) {
    match width {
        Width::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(words).for_each(|(x, word)| *x = f32::from_le_bytes(*word));
        }
        Width::Bf16 => {
            let (words, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(words).for_each(|(x, word)| *x = bf16::from_le_bytes(*word).to_f32());
        }
        Width::F16 => {
            let (words, _) = bytes.as_chunks::<2>();
            out.iter_mut().zip(words).for_each(|(x, word)| *x = f16::from_le_bytes(*word).to_f32());
        }
    }
}
