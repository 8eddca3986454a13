//! The HDF5 side of a checkpoint: datasets, attributes and where the numbers lie. Runs on rank 0 only.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use hdf5::plist::dataset_create::{AllocTime, FillTime};
use hdf5::types::{FloatSize, TypeDescriptor};
use hdf5::{File, Location};

use super::hdf::{options, read_text, set_text, set_u64, words};
use super::layout::{Extent, FORMAT, Header, Table, datasets, seal};
use super::{CheckpointError, Result};

/// First bytes of every HDF5 file.
const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Bytes for the structure of a file: headers of groups and datasets with their attributes. Measured: some 260 bytes a
/// dataset.
fn structure(header: &Header, datasets: usize) -> usize {
    let norms = header.position.as_ref().map_or(0, |position| position.norms.len());
    (512 * datasets + header.deck.len() + 24 * norms + (16 << 10)).next_multiple_of(4096)
}

/// Creates a checkpoint in which every dataset has its place but no contents yet. `sums` holds the checksums of what
/// will be written, for every tensor in the order of [`super::State::ALL`].
pub(super) fn create(path: &Path, header: &Header, sums: &[[u64; 3]]) -> Result<Table> {
    // On a full disk HDF5 fails to close a file and then keeps it open, with the space it takes, for good. So it is not
    // asked to until the disk has space for what it writes itself.
    fs::File::create(path)
        .and_then(|mut file| file.write_all(&vec![0; structure(header, 3 * sums.len())]).and_then(|()| file.sync_all()))
        .map_err(CheckpointError::write(path))?;
    build(path, header, sums).map_err(|error| CheckpointError::Io {
        path: path.display().to_string(),
        direction: super::Direction::Write,
        reason: words(&error),
    })
}

fn build(path: &Path, header: &Header, sums: &[[u64; 3]]) -> hdf5::Result<Table> {
    let mut options = options();
    // In one run at the start, not scattered over the pages of a file with holes.
    options.with_fapl(|fapl| fapl.meta_block_size(structure(header, 3 * sums.len()) as u64));
    let file = options.create(path)?;
    set_text(&file, "format", FORMAT)?;
    set_text(&file, "model", &serde_json::to_string(&header.shape).expect("plain data"))?;
    set_text(&file, "deck", &header.deck)?;
    for (name, value) in [("step", header.step), ("seed", header.seed), ("tokens", header.tokens)] {
        set_u64(&file, name, value)?;
    }
    if let Some(position) = &header.position {
        set_text(&file, "position", &serde_json::to_string(position).expect("plain data"))?;
    }
    set_u64(&file, "seal", seal(header))?;
    let mut extents = vec![[Extent { offset: 0, len: 0, checksum: 0 }; 3]; sums.len()];
    for (index, param, which, name) in datasets(&header.shape) {
        let dataset = file
            .new_dataset::<f32>()
            .shape(param.dims())
            .alloc_time(Some(AllocTime::Early))
            .fill_time(FillTime::Never)
            .create(name.as_str())?;
        let checksum = sums[index][which];
        set_u64(&dataset, "checksum", checksum)?;
        let offset = dataset.offset().ok_or_else(|| hdf5::Error::from(format!("{name} got no place in the file")))?;
        extents[index][which] = Extent { offset, len: param.len(), checksum };
    }
    file.close()?;
    Ok(Table { header: header.clone(), extents })
}

/// Reads what a checkpoint says about itself and where its tensors lie; of the numbers themselves nothing.
pub(super) fn open(path: &Path) -> Result<Table> {
    let length = fs::metadata(path).map_err(CheckpointError::read(path))?.len();
    let mut start = [0; 8];
    let mut raw = fs::File::open(path).map_err(CheckpointError::read(path))?;
    if raw.read_exact(&mut start).is_err() || start != *SIGNATURE {
        return Err(CheckpointError::damaged(path, "is no HDF5 file (damaged, or of another kind)"));
    }
    let file = options().open(path).map_err(|error| unreadable(path, &error))?;
    let header = header(path, &file)?;
    let mut extents = Vec::new();
    for (index, param, which, name) in datasets(&header.shape) {
        let dataset =
            file.dataset(&name).map_err(|_| CheckpointError::tensor(path, &name, "is missing or unreadable"))?;
        let dims = dataset.shape();
        if dims != param.dims() {
            return Err(CheckpointError::tensor(path, &name, format!("is {dims:?}, expected {:?}", param.dims())));
        }
        let kind = dataset.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(|e| unreadable(path, &e))?;
        let (TypeDescriptor::Float(FloatSize::U4), Some(offset)) = (kind, dataset.offset()) else {
            return Err(CheckpointError::tensor(path, &name, "is no contiguous f32 dataset"));
        };
        if offset.checked_add(4 * param.len() as u64).is_none_or(|end| end > length) {
            return Err(CheckpointError::damaged(path, format!("is truncated: {name} ends after byte {length}")));
        }
        let checksum = get_u64(path, &dataset, "checksum")?;
        if which == 0 {
            extents.push([Extent { offset, len: param.len(), checksum }; 3]);
        }
        extents[index][which] = Extent { offset, len: param.len(), checksum };
    }
    Ok(Table { header, extents })
}

fn header(path: &Path, file: &File) -> Result<Header> {
    match get_text(path, file, "format") {
        Ok(format) if format == FORMAT => {}
        Ok(other) => {
            return Err(CheckpointError::damaged(path, format!("has format '{other}', expected '{FORMAT}'")));
        }
        Err(_) => return Err(CheckpointError::damaged(path, "is an HDF5 file but no tawpipe checkpoint")),
    }
    let model = get_text(path, file, "model")?;
    let position = file.attr("position").is_ok().then(|| get_text(path, file, "position")).transpose()?;
    let attribute = |name: &str, error| CheckpointError::damaged(path, format!("attribute {name}: {error}"));
    let header = Header {
        step: get_u64(path, file, "step")?,
        seed: get_u64(path, file, "seed")?,
        tokens: get_u64(path, file, "tokens")?,
        shape: serde_json::from_str(&model).map_err(|error| attribute("model", error))?,
        deck: get_text(path, file, "deck")?,
        position: position
            .map(|text| serde_json::from_str(&text).map_err(|error| attribute("position", error)))
            .transpose()?,
    };
    if get_u64(path, file, "seal")? != seal(&header) {
        return Err(CheckpointError::damaged(path, "is damaged: its attributes do not match their checksum"));
    }
    header.shape.validate().map_err(|error| CheckpointError::damaged(path, error.to_string()))?;
    Ok(header)
}

fn get_text(path: &Path, place: &Location, name: &str) -> Result<String> {
    read_text(place, name).map_err(|error| attribute(path, name, &error))
}

fn get_u64(path: &Path, place: &Location, name: &str) -> Result<u64> {
    place.attr(name).and_then(|attr| attr.read_scalar()).map_err(|error| attribute(path, name, &error))
}

fn attribute(path: &Path, name: &str, error: &hdf5::Error) -> CheckpointError {
    CheckpointError::damaged(path, format!("attribute {name} is unreadable: {}", words(error)))
}

fn unreadable(path: &Path, error: &hdf5::Error) -> CheckpointError {
    CheckpointError::damaged(path, format!("is no sound HDF5 file (truncated or damaged): {}", words(error)))
}
