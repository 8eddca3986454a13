//! Text to token ids and back.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokenizers::models::ModelWrapper;

use super::cache;
use super::windows::{self, Placed};
use super::{DataError, TokenType, TokenWriter, TokenizerChoice, Tokens};

/// Text is tokenised in windows of this many bytes; where they are too short for a tokenizer, in longer ones. Some 100 bytes
/// of memory a byte of a window.
const WINDOWS: [usize; 3] = [1 << 20, 8 << 20, 64 << 20];

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
        /// The largest id and 1.
        vocab: usize,
        /// How many ids stand for something: all below `vocab`, unless the file leaves gaps.
        used: usize,
        /// What reads it.
        inner: Box<tokenizers::Tokenizer>,
    },
}

impl Tokenizer {
    /// Loads what a deck chose.
    pub fn load(choice: &TokenizerChoice) -> Result<Tokenizer, DataError> {
        let TokenizerChoice::File(path) = choice else { return Ok(Tokenizer::Bytes) };
        let json = fs::read(path).map_err(|reason| DataError::File { path: path.clone(), reason })?;
        let failed = |error| DataError::Tokenizer { path: path.clone(), reason: format!("no tokenizer.json: {error}") };
        let mut inner = tokenizers::Tokenizer::from_bytes(&json).map_err(failed)?;
        // These are for batches of short texts, and tokenizer.json keeps what was set last: they would cut or fill a corpus.
        inner.with_padding(None).with_truncation(None).map_err(failed)?;
        // The ids of a text must not be drawn anew each time.
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            inner.with_model(model);
        }
        let mut ids: Vec<u32> = inner.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        ids.dedup();
        let vocab = ids.last().map_or(0, |id| *id as usize + 1);
        let checksum = Sha256::digest(&json).into();
        Ok(Tokenizer::File { path: path.clone(), checksum, vocab, used: ids.len(), inner: Box::new(inner) })
    }

    /// The largest id and 1: the vocabulary that a model needs.
    pub fn vocab(&self) -> usize {
        match self {
            Tokenizer::Bytes => 256,
            Tokenizer::File { vocab, .. } => *vocab,
        }
    }

    /// How many ids below [`Tokenizer::vocab`] stand for nothing: a file may leave gaps.
    pub fn unused(&self) -> usize {
        match self {
            Tokenizer::Bytes => 0,
            Tokenizer::File { vocab, used, .. } => vocab - used,
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
        let mut writer = TokenWriter::create(out, kind)?;
        self.encode_all(&input, &mut writer)?;
        writer.finish()
    }

    /// A text file as tokens: mapped as it is for bytes, else through a token file in the cache.
    ///
    /// Any number of processes may call this at once; to do the work once, call it on one rank of a node first.
    pub fn open(&self, text: &Path) -> Result<Tokens, DataError> {
        let input = Tokens::open(text, TokenType::U8)?;
        let Tokenizer::File { checksum, .. } = self else { return Ok(input) };
        let key = cache::Key::new(checksum, input.parts().0);
        let kind = if self.vocab() <= 1 << 16 { TokenType::U16 } else { TokenType::U32 };
        cache::open(text, &key, kind, |writer| self.encode_all(&input, writer))
    }

    /// The ids of a whole text, the same as if it were encoded at once.
    fn encode_all(&self, input: &Tokens, writer: &mut TokenWriter) -> Result<(), DataError> {
        let bytes = input.parts().0;
        let Tokenizer::File { path, .. } = self else {
            return bytes
                .chunks(WINDOWS[0])
                .try_for_each(|part| writer.write(&part.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>()));
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| DataError::Encoding { path: input.path().to_path_buf(), position: error.valid_up_to() })?;
        if self.encode_in(&WINDOWS, text, writer)? {
            return Ok(());
        }
        let (text, far) = (input.path().display(), WINDOWS[2] >> 20);
        let reason = format!(
            "the ids of {text} depend on text that is far away, so that it can only be encoded at once; that is done up to \
             {far} MiB"
        );
        Err(DataError::Tokenizer { path: path.clone(), reason })
    }

    /// The ids of a text, with the first of these windows that is long enough; false if none is.
    fn encode_in(&self, lengths: &[usize], text: &str, writer: &mut TokenWriter) -> Result<bool, DataError> {
        let Tokenizer::File { path, inner, .. } = self else { unreachable!("bytes need no windows") };
        let failed = |reason| DataError::Tokenizer { path: path.clone(), reason };
        let encode = |text: &str| {
            let tokens = inner.encode(text, false).map_err(|error| failed(error.to_string()))?;
            let words = tokens.get_word_ids();
            let first = |at: usize| at == 0 || words[at] != words[at - 1];
            let places = tokens.get_ids().iter().zip(tokens.get_offsets()).enumerate();
            Ok(places
                .map(|(at, (id, (start, end)))| Placed { id: *id, start: *start, end: *end, first: first(at) })
                .collect())
        };
        for window in lengths {
            let take = |tokens: &[Placed]| writer.write(&tokens.iter().map(|token| token.id).collect::<Vec<_>>());
            if windows::encode(text, *window, encode, take)? {
                return Ok(true);
            }
            writer.restart()?;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainer;
    use tokenizers::models::unigram::Unigram;
    use tokenizers::normalizers::{NFC, NormalizerWrapper, Prepend, Replace, Sequence, Strip};
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::fixed_length::FixedLength;
    use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
    use tokenizers::pre_tokenizers::whitespace::Whitespace;
    use tokenizers::{AddedToken, Tokenizer as HuggingFace};

    use super::*;

    /// Lines of about 50 bytes that do not repeat.
    fn lines(count: usize) -> String {
        (0..count).map(|i| format!("{i}: In the beginning was the wörd number {}.\n", i * 7919 % 1000)).collect()
    }

    /// A BPE tokenizer of 400 ids, trained on such lines.
    fn bpe(normalizer: Option<NormalizerWrapper>, split: PreTokenizerWrapper) -> HuggingFace {
        let mut tokenizer = HuggingFace::new(tokenizers::models::bpe::BPE::default());
        tokenizer.with_normalizer(normalizer).unwrap().with_pre_tokenizer(Some(split));
        let trainer = BpeTrainer::builder().vocab_size(400).show_progress(false);
        let trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect()).build();
        tokenizer.train(&mut TrainerWrapper::from(trainer), lines(300).split_inclusive('\n')).unwrap();
        tokenizer
    }

    /// Kinds that treat the start of a text, or what is far from it, in their own way.
    fn kinds() -> Vec<(&'static str, HuggingFace)> {
        let replace = || Replace::new(" ", "▁").unwrap().into();
        let sentencepiece = Sequence::new(vec![Prepend::new("▁".into()).into(), replace()]);
        let stripped = Sequence::new(vec![Strip::new(true, true).into(), NFC.into()]);
        let never = Metaspace::new('▁', PrependScheme::Never, false);
        let mut unsplit = bpe(Some(sentencepiece.into()), never.into());
        unsplit.with_pre_tokenizer(None::<PreTokenizerWrapper>);
        let pieces =
            [("<unk>", 0.0), ("▁the", -2.0), ("▁", -3.0), ("e", -3.5), ("in", -3.2), ("▁wörd", -4.0), ("n", -4.1)];
        let pieces = pieces.map(|(piece, score)| (piece.to_string(), score)).to_vec();
        let mut unigram = HuggingFace::new(Unigram::from(pieces, Some(0), false).unwrap());
        unigram.with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::First, false)));
        let mut added = bpe(None, ByteLevel::default().into());
        added.add_tokens([AddedToken::from("number 77.\n", false).lstrip(true).rstrip(true)]).unwrap();
        vec![
            ("byte level", bpe(None, ByteLevel::default().into())),
            ("sentencepiece", unsplit),
            ("metaspace", bpe(None, Metaspace::new('▁', PrependScheme::Always, true).into())),
            ("strip", bpe(Some(stripped.into()), Whitespace.into())),
            ("fixed length", bpe(None, FixedLength::new(7).into())),
            ("unigram", unigram),
            ("added tokens", added),
        ]
    }

    /// In windows of 4 KiB a text has the ids that it has when it is encoded at once: over many lines, on one long line, and
    /// where the only space for a long way is a line end.
    #[test]
    fn windows_give_the_ids_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let lines = lines(1200);
        let texts = [lines.clone(), lines.replace('\n', " "), lines.replace(' ', "").replace(".\n", "\n\n")];
        for (name, theirs) in kinds() {
            let file = folder.path().join("tokenizer.json");
            theirs.save(&file, false).unwrap();
            let ours = Tokenizer::load(&TokenizerChoice::File(file)).unwrap();
            for (i, text) in texts.iter().enumerate() {
                let path = folder.path().join("ids.bin");
                let mut writer = TokenWriter::create(&path, TokenType::I32).unwrap();
                assert!(ours.encode_in(&[4096], text, &mut writer).unwrap(), "{name}, text {i}: no seam");
                writer.finish().unwrap();
                let tokens = Tokens::open(&path, TokenType::I32).unwrap();
                let mut found = vec![0; tokens.len()];
                tokens.fill(0, &mut found);
                let wanted = theirs.encode(text.as_str(), false).unwrap();
                let wanted: Vec<i32> = wanted.get_ids().iter().map(|id| *id as i32).collect();
                let same = wanted.iter().zip(&found).take_while(|(one, other)| one == other).count();
                assert_eq!((same, found.len()), (wanted.len(), wanted.len()), "{name}, text {i}: alike up to {same}");
            }
        }
    }
}
