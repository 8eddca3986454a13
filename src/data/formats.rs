//! Files that hold ids, but not as raw numbers of `data.token_type`: refused if they say what they are, remarked on if they
//! only look like it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{DataError, TokenType, Tokens};

/// What each raw file should be.
const RAW: &str = "data.tokens takes nothing but the ids, little-endian, as they are";

/// First bytes of files that are something else, what they are, and what helps.
const KNOWN: &[(&[u8], &str, &str)] = &[
    (b"\x93NUMPY", "a NumPy array (.npy)", "numpy.load(file).astype(\"<u2\").tofile(\"ids.bin\") writes them"),
    (b"PK\x03\x04", "a zip archive (.npz, or of torch.save)", "numpy's tofile writes them"),
    (b"MMIDIDX\0\0", "the index of a Megatron dataset", "name the .bin file beside it"),
    (b"TNTIDX\0\0", "the index of a fairseq dataset", "name the .bin file beside it"),
    (b"LITPKDS", "a packed dataset of LitGPT", "numpy's tofile writes them"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "numpy's tofile writes them"),
    (b"PAR1", "a Parquet file", "numpy's tofile writes them"),
    (b"ARROW1\0\0", "an Arrow file", "numpy's tofile writes them"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"),
    (b"\xfd7zXZ\0", "compressed (xz)", "unpack it first"),
    (b"\x1f\x8b\x08\0\0\0\0\0", "compressed (gzip)", "unpack it first"),
    (b"\x1f\x8b\x08\x08", "compressed (gzip)", "unpack it first"),
    (b"BZh91AY&SY", "compressed (bzip2)", "unpack it first"),
];

/// First words of llm.c's token files, and the type of their ids.
const LLM_C: [(u32, TokenType); 2] = [(20_240_520, TokenType::U16), (20_240_801, TokenType::U32)];

/// Bytes before the ids in a token file of llm.c.
const LLM_C_HEADER: usize = 1024;

/// Refuses a file of token ids that says it is of another format. One that cannot be read says nothing.
pub(super) fn refuse_known(path: &Path, kind: TokenType) -> Result<(), DataError> {
    let refuse = |reason: String| Err(DataError::Format { path: path.to_path_buf(), reason });
    let first = first_bytes(path, 16);
    if let Some((_, what, advice)) = KNOWN.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return refuse(format!("this is {what}; {RAW}; {advice}"));
    }
    let llm_c = |magic: u32| [magic.to_le_bytes(), 1u32.to_le_bytes()].concat();
    if let Some((_, of)) = LLM_C.into_iter().find(|(magic, _)| first.starts_with(&llm_c(*magic))) {
        let skip = LLM_C_HEADER + 1;
        return refuse(format!(
            "this is a token file of llm.c; {RAW}; tail -c +{skip} writes them, data.token_type is \"{}\"",
            of.name()
        ));
    }
    match megatron(path) {
        Some(Some(of)) if of.bytes() == kind.bytes() => Ok(()),
        Some(Some(of)) => refuse(format!(
            "the .idx file beside it says that data.token_type is \"{}\", not \"{}\"",
            of.name(),
            kind.name()
        )),
        Some(None) => refuse(
            "the .idx file beside it says that its ids are of a type that is not supported; accepted: u16, u32, i32"
                .into(),
        ),
        None => Ok(()),
    }
}

/// The type that a Megatron index beside a file gives its ids; `Some(None)` if that is none of ours, `None` if there is no
/// such index.
fn megatron(path: &Path) -> Option<Option<TokenType>> {
    let head = first_bytes(&path.with_extension("idx"), 18);
    (head.len() == 18 && head.starts_with(b"MMIDIDX\0\0")).then(|| match head[17] {
        1 => Some(TokenType::U8),
        4 => Some(TokenType::I32),
        8 => Some(TokenType::U16),
        _ => None,
    })
}

/// As many of a file's first bytes as there are.
fn first_bytes(path: &Path, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Nobody may ever write into a pipe.
    if !path.is_file() {
        return bytes;
    }
    // What cannot be read is for the one who opens the file in earnest to say.
    let _ = File::open(path).and_then(|file| file.take(count).read_to_end(&mut bytes));
    bytes
}

/// How many ids at the start of a file are looked at.
const SAMPLE: usize = 1 << 14;

/// Fewer ids than this that are not 0 prove nothing.
const ENOUGH: usize = 16;

/// What makes a file of ids look like one of another type.
pub(super) fn remark(tokens: &Tokens, kind: TokenType) -> Option<String> {
    let mut ids = vec![0; SAMPLE.min(tokens.len())];
    tokens.fill(0, &mut ids);
    let path = tokens.path().display();
    let only_each = |step: usize| ids.iter().enumerate().all(|(at, id)| at % step == 0 || *id == 0);
    let live = ids.iter().filter(|id| **id != 0).count();
    if live >= ENOUGH && only_each(2) {
        let bytes = kind.bytes() * if only_each(4) { 4 } else { 2 };
        let advice = match bytes {
            4 => "data.token_type = \"u32\" reads these",
            _ => "they must be written as u16 or u32",
        };
        return Some(format!(
            "{path}: all ids but each {} are 0, as if ids of {bytes} bytes were read as {}; {advice}",
            if only_each(4) { "4th" } else { "2nd" },
            kind.name()
        ));
    }
    let turned = |id: i32| id.trailing_zeros() >= 8 * (kind.bytes() as u32 - 1);
    if kind.bytes() > 1 && live >= ENOUGH && ids.iter().all(|id| turned(*id)) {
        return Some(format!("{path}: the low bytes of all ids are 0, as if they were written big-endian"));
    }
    let (bytes, _) = tokens.parts();
    let head = &bytes[..bytes.len().min(4096)];
    let text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    (kind.bytes() > 1 && head.len() >= 4 * ENOUGH && head.iter().all(text))
        .then(|| format!("{path}: this looks like text; data.text reads that"))
}
