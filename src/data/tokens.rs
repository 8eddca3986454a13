//! Files of token ids: mapped into memory for reading, streamed for writing.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::{DataError, TokenType};

/// A file of little-endian token ids, mapped into memory: opening a large one costs nothing.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    map: Mmap,
    /// Bytes of ids at the start of the file.
    bytes: usize,
    kind: TokenType,
}

impl Tokens {
    /// Maps a file. It must not be empty nor end within a token.
    pub fn open(path: &Path, kind: TokenType) -> Result<Tokens, DataError> {
        Tokens::before(path, kind, 0)
    }

    /// Maps a file whose last `tail` bytes are no ids.
    pub(super) fn before(path: &Path, kind: TokenType, tail: usize) -> Result<Tokens, DataError> {
        let failed = |reason| DataError::File { path: path.to_path_buf(), reason };
        // Before it is opened: opening a pipe waits for its writer.
        let about = std::fs::metadata(path).map_err(failed)?;
        if !about.is_file() {
            return Err(DataError::Kind { path: path.to_path_buf(), what: kind_of(&about) });
        }
        let file = File::open(path).map_err(failed)?;
        let bytes = (file.metadata().map_err(failed)?.len() as usize).saturating_sub(tail);
        if bytes == 0 {
            return Err(DataError::Empty(path.to_path_buf()));
        }
        if !bytes.is_multiple_of(kind.bytes()) {
            return Err(DataError::Ragged { path: path.to_path_buf(), bytes, width: kind.bytes() });
        }
        // SAFETY: read-only and private. Bytes another process changes in the meantime are still valid token ids; a
        // file cut short while in use kills the process with SIGBUS, as it must.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Tokens { path: path.to_path_buf(), map, bytes, kind })
    }

    /// The bytes of the ids, and those behind them.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.map.split_at(self.bytes)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.bytes / self.kind.bytes()
    }

    /// Never true: empty files are refused.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of a range as bytes, if every token is a byte.
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        (self.kind == TokenType::U8).then(|| &self.parts().0[range])
    }

    /// Copies tokens `start..start + out.len()`.
    ///
    /// # Panics
    /// If the file has fewer.
    pub fn fill(&self, start: usize, out: &mut [i32]) {
        let width = self.kind.bytes();
        let bytes = &self.parts().0[start * width..(start + out.len()) * width];
        for (id, bytes) in out.iter_mut().zip(bytes.chunks_exact(width)) {
            *id = match *bytes {
                [a] => i32::from(a),
                [a, b] => i32::from(u16::from_le_bytes([a, b])),
                [a, b, c, d] => i32::from_le_bytes([a, b, c, d]),
                _ => unreachable!("tokens have one, two or four bytes"),
            };
        }
    }

    /// Checks that every id is below `vocab`.
    pub fn check(&self, vocab: usize) -> Result<(), DataError> {
        if self.kind != TokenType::I32 && self.kind.ids() <= vocab as u64 {
            return Ok(());
        }
        let mut block = [0i32; 4096];
        for start in (0..self.len()).step_by(block.len()) {
            let block_len = block.len().min(self.len() - start);
            let ids = &mut block[..block_len];
            self.fill(start, ids);
            // As u32, negative ids lie above every vocabulary.
            if let Some(at) = ids.iter().position(|id| *id as u32 as usize >= vocab) {
                let id = if self.kind == TokenType::U32 { i64::from(ids[at] as u32) } else { i64::from(ids[at]) };
                return Err(DataError::Vocabulary { path: self.path.clone(), position: start + at, id, vocab });
            }
        }
        Ok(())
    }
}

/// What a path is that is no file.
fn kind_of(about: &std::fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match about.file_type() {
        kind if kind.is_dir() => "folder",
        kind if kind.is_fifo() => "pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

/// Writes a token file under a temporary name and renames it when complete, so that no reader sees half of it.
#[derive(Debug)]
pub struct TokenWriter {
    path: PathBuf,
    kind: TokenType,
    file: BufWriter<tempfile::NamedTempFile>,
    written: usize,
    /// Of the bytes of all ids.
    digest: Sha256,
}

impl TokenWriter {
    /// Starts a file; its folder must exist.
    pub fn create(path: &Path, kind: TokenType) -> Result<TokenWriter, DataError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().permissions(readable()).tempfile_in(folder);
        let file = file.map_err(|reason| DataError::File { path: path.to_path_buf(), reason })?;
        Ok(TokenWriter {
            path: path.to_path_buf(),
            kind,
            file: BufWriter::new(file),
            written: 0,
            digest: Sha256::new(),
        })
    }

    /// Appends ids; each must fit the file's type.
    pub fn write(&mut self, ids: &[u32]) -> Result<(), DataError> {
        for &id in ids {
            if u64::from(id) >= self.kind.ids() {
                let (path, position) = (self.path.clone(), self.written);
                return Err(DataError::Vocabulary { path, position, id: id.into(), vocab: self.kind.ids() as usize });
            }
            let bytes = id.to_le_bytes();
            let bytes = &bytes[..self.kind.bytes()];
            self.digest.update(bytes);
            self.file.write_all(bytes).map_err(|reason| DataError::File { path: self.path.clone(), reason })?;
            self.written += 1;
        }
        Ok(())
    }

    /// Forgets all ids written so far.
    pub(super) fn restart(&mut self) -> Result<(), DataError> {
        let emptied = self.file.rewind().and_then(|()| self.file.get_ref().as_file().set_len(0));
        (self.written, self.digest) = (0, Sha256::new());
        emptied.map_err(|reason| DataError::File { path: self.path.clone(), reason })
    }

    /// Number of tokens written, and the checksum of their bytes.
    pub(super) fn written(&self) -> (usize, [u8; 32]) {
        (self.written, self.digest.clone().finalize().into())
    }

    /// Appends bytes that are no ids; no id may be written behind them.
    pub(super) fn tail(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let result = self.file.write_all(bytes);
        result.map_err(|reason| DataError::File { path: self.path.clone(), reason })
    }

    /// Puts the file in its place and returns the number of tokens.
    pub fn finish(self) -> Result<usize, DataError> {
        let failed = |reason| DataError::File { path: self.path.clone(), reason };
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(self.written)
    }
}

/// Temporary files are private by default; a token file is for everyone.
fn readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o644)
}
