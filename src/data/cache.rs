//! Ids of texts, kept between runs.
//!
//! A file of the cache holds the ids and, behind them, a seal: which text and tokenizer they are of, how many they are,
//! and their checksum. The file is used only if all of it is right; else the text is tokenised again.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{DataError, TokenType, TokenWriter, Tokens};

/// First bytes of a seal; another number where the same text and tokenizer would give other ids.
const MAGIC: [u8; 16] = *b"tawpipe tokens 2";

/// What the ids depend on: text, tokenizer, and this program's way with both.
pub(super) struct Key([u8; 32]);

impl Key {
    /// The key of a text under the tokenizer of this checksum.
    pub(super) fn new(tokenizer: &[u8; 32], text: &[u8]) -> Key {
        let mut hash = Sha256::new_with_prefix(MAGIC);
        hash.update(tokenizer);
        hash.update(text);
        Key(hash.finalize().into())
    }

    /// Where its ids are kept.
    fn path(&self, kind: TokenType) -> PathBuf {
        let name: String = self.0.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        cache_folder().join(format!("{name}.{}", if kind == TokenType::U16 { "u16" } else { "u32" }))
    }

    /// The bytes that stand behind ids of this number and checksum.
    fn seal(&self, tokens: usize, digest: [u8; 32]) -> Vec<u8> {
        [&MAGIC[..], &self.0, &(tokens as u64).to_le_bytes(), &digest].concat()
    }
}

/// Bytes of a seal.
const SEAL: usize = 16 + 32 + 8 + 32;

/// The ids of a text: those that are kept, or else what `tokenise` writes. Any number of processes may call
/// this at once: a file appears whole, so that at worst the work is done twice.
pub(super) fn open(
    text: &Path,
    key: &Key,
    kind: TokenType,
    tokenise: impl FnOnce(&mut TokenWriter) -> Result<(), DataError>,
) -> Result<Tokens, DataError> {
    let path = key.path(kind);
    if path.exists() {
        match Tokens::before(&path, kind, SEAL) {
            Ok(tokens) if sealed(key, &tokens) => return Ok(tokens),
            _ => log::info!("{}: this file of the cache is damaged, and made again", path.display()),
        }
    }
    let folder = cache_folder();
    fs::create_dir_all(&folder).map_err(|reason| DataError::File { path: folder, reason })?;
    log::info!("tokenising {} into {}", text.display(), path.display());
    let mut writer = TokenWriter::create(&path, kind)?;
    tokenise(&mut writer)?;
    let (tokens, digest) = writer.written();
    writer.tail(&key.seal(tokens, digest))?;
    writer.finish()?;
    Tokens::before(&path, kind, SEAL)
}

/// Whether these are the ids that were once written under this key.
fn sealed(key: &Key, tokens: &Tokens) -> bool {
    let (ids, seal) = tokens.parts();
    key.seal(tokens.len(), Sha256::digest(ids).into()) == seal
}

/// `$TAWPIPE_CACHE`, else `tawpipe` in the user's cache folder, else in the folder for temporary files.
pub fn cache_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("TAWPIPE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("tawpipe")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/tawpipe")))
        .unwrap_or_else(|| std::env::temp_dir().join("tawpipe"))
}
