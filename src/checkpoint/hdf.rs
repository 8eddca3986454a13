//! Small helpers around the hdf5 crate, for every file we write with it.

use hdf5::file::LibraryVersion;
use hdf5::types::{FixedUnicode, TypeDescriptor};
use hdf5::{File, FileBuilder, Location};

/// Longest text attribute, in bytes: HDF5 wants an object header below 64 KiB.
const LONGEST: usize = 60_000;

/// How we open files. Format bounds of HDF5 1.8: every reader since knows them, and unlike older ones they put a
/// checksum on object headers. Locks are off because parallel file systems lack them and renaming replaces them.
pub(crate) fn options() -> FileBuilder {
    let mut options = File::with_options();
    options.with_fapl(|fapl| fapl.libver_bounds(LibraryVersion::V18, LibraryVersion::V18).file_locking(false));
    options
}

/// Creates a text attribute, as a string of fixed length. Strings of variable length would be nicer in h5py, but they
/// live in a heap without a checksum, and one flipped bit in it sends HDF5 1.10 into an endless loop.
pub(crate) fn set_text(place: &Location, name: &str, value: &str) -> hdf5::Result<()> {
    if value.len() > LONGEST {
        return Err(format!("attribute {name} is {} bytes long; at most {LONGEST} fit", value.len()).into());
    }
    let text: FixedUnicode<LONGEST> =
        value.parse().map_err(|_| hdf5::Error::from(format!("attribute {name} contains a NUL character")))?;
    let stored = TypeDescriptor::FixedUnicode(value.len().max(1));
    place.new_attr_builder().empty_as(&stored).create(name)?.write_scalar(&text)
}

/// Creates a whole-number attribute.
pub(crate) fn set_u64(place: &Location, name: &str, value: u64) -> hdf5::Result<()> {
    place.new_attr::<u64>().create(name)?.write_scalar(&value)
}

/// Reads a text attribute.
pub(crate) fn read_text(place: &Location, name: &str) -> hdf5::Result<String> {
    let text: FixedUnicode<LONGEST> = place.attr(name)?.read_scalar()?;
    // Checked here because a damaged file need not hold UTF-8.
    String::from_utf8(text.as_bytes().to_vec()).map_err(|_| hdf5::Error::from("no UTF-8 text".to_string()))
}

/// One line for an HDF5 error: the system's words if it was the system, else those of the innermost call.
pub(crate) fn words(error: &hdf5::Error) -> String {
    let Some(stack) = error.stack() else { return error.to_string() };
    let lines: Vec<String> = stack.iter().map(|frame| frame.desc().to_string()).collect();
    let system = lines.iter().find_map(|line| line.split("error message = '").nth(1)?.split('\'').next());
    system.map_or_else(|| lines.last().cloned().unwrap_or_else(|| error.to_string()), str::to_string)
}
