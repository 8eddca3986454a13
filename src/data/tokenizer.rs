//! Text to token ids and back.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{DataError, TokenType, TokenWriter, TokenizerChoice, Tokens};

/// Text is tokenised in pieces of about this many bytes, cut behind a line end: long enough that the cuts do not
/// matter, short enough that memory does not either.
const PIECE: usize = 64 << 10;

/// Text to token ids and back.
#[derive(Debug)]
pub enum Tokenizer {
    /// Every byte is a token.
    Bytes,
    /// A Hugging Face tokenizer.
    File {
        /// Its `tokenizer.json`.
        path: PathBuf,
        /// SHA-256 of that file.
        checksum: [u8; 32],
        /// What reads it.
        inner: Box<tokenizers::Tokenizer>,
    },
}

impl Tokenizer {
    /// Loads what a deck chose.
    pub fn load(choice: &TokenizerChoice) -> Result<Tokenizer, DataError> {
        let TokenizerChoice::File(path) = choice else { return Ok(Tokenizer::Bytes) };
        let json = fs::read(path).map_err(|reason| DataError::File { path: path.clone(), reason })?;
        let inner = tokenizers::Tokenizer::from_bytes(&json).map_err(|error| DataError::Tokenizer {
            path: path.clone(),
            reason: format!("no tokenizer.json: {error}"),
        })?;
        Ok(Tokenizer::File { path: path.clone(), checksum: Sha256::digest(&json).into(), inner: Box::new(inner) })
    }

    /// Number of ids.
    pub fn vocab(&self) -> usize {
        match self {
            Tokenizer::Bytes => 256,
            Tokenizer::File { inner, .. } => inner.get_vocab_size(true),
        }
    }

    /// Ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self {
            Tokenizer::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Tokenizer::File { path, inner, .. } => {
                let failed = |error| DataError::Tokenizer { path: path.clone(), reason: format!("{error}") };
                Ok(inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
            }
        }
    }

    /// Text of ids. Bytes that are no UTF-8 become `�`, unknown ids nothing.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        match self {
            Tokenizer::Bytes => {
                let bytes: Vec<u8> = ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Tokenizer::File { path, inner, .. } => inner
                .decode(ids, true)
                .map_err(|error| DataError::Tokenizer { path: path.clone(), reason: format!("{error}") }),
        }
    }

    /// Tokenises a text file into a token file and returns the number of tokens.
    pub fn encode_file(&self, text: &Path, out: &Path, kind: TokenType) -> Result<usize, DataError> {
        let input = Tokens::open(text, TokenType::U8)?;
        let bytes = input.bytes(0..input.len()).expect("opened as bytes");
        let mut writer = TokenWriter::create(out, kind)?;
        if let Tokenizer::Bytes = self {
            for piece in bytes.chunks(PIECE) {
                writer.write(&piece.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>())?;
            }
            return writer.finish();
        }
        let mut rest = std::str::from_utf8(bytes)
            .map_err(|error| DataError::Encoding { path: text.to_path_buf(), position: error.valid_up_to() })?;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(piece_len(rest));
            writer.write(&self.encode(piece)?)?;
            rest = tail;
        }
        writer.finish()
    }

    /// A text file as tokens: mapped as it is for bytes, else through a token file in the cache.
    ///
    /// The cache file's name is a checksum of text and tokenizer. Any number of processes may call this at once; to do
    /// the work once, call it on one rank of a node first.
    pub fn open(&self, text: &Path) -> Result<Tokens, DataError> {
        let Tokenizer::File { checksum, .. } = self else { return Tokens::open(text, TokenType::U8) };
        let input = Tokens::open(text, TokenType::U8)?;
        let mut hash = Sha256::new_with_prefix(checksum);
        hash.update(input.bytes(0..input.len()).expect("opened as bytes"));
        let key: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let kind = if self.vocab() <= 1 << 16 { TokenType::U16 } else { TokenType::U32 };
        let folder = cache_folder();
        let cached = folder.join(format!("{key}.{}", if kind == TokenType::U16 { "u16" } else { "u32" }));
        if !cached.exists() {
            fs::create_dir_all(&folder).map_err(|reason| DataError::File { path: folder, reason })?;
            log::info!("tokenising {} into {}", text.display(), cached.display());
            self.encode_file(text, &cached, kind)?;
        }
        Tokens::open(&cached, kind)
    }
}

/// Bytes up to the last line end within a piece; without one, up to the last character.
fn piece_len(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let end = (0..=PIECE).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    text[..end].rfind('\n').map_or(end, |at| at + 1)
}

/// `$TAWPIPE_CACHE`, else `tawpipe` in the user's cache folder, else in the folder for temporary files.
fn cache_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("TAWPIPE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("tawpipe")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/tawpipe")))
        .unwrap_or_else(|| std::env::temp_dir().join("tawpipe"))
}
