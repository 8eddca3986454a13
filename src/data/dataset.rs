//! Which sequence a step sees.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::formats;
use super::{DataError, Order, Request, Source, TokenType, Tokenizer, TokenizerChoice, Tokens, Valid, permute};

/// A run of tokens within a file.
#[derive(Clone, Debug)]
struct Part {
    tokens: Arc<Tokens>,
    range: Range<usize>,
}

impl Part {
    fn bytes(&self) -> Option<&[u8]> {
        self.tokens.bytes(self.range.clone())
    }
}

/// Training and validation tokens, and the order in which they are seen.
///
/// Sequence i is tokens `i*seq ..= i*seq + seq` of its part: `seq` inputs and, one further, `seq` targets.
#[derive(Clone, Debug)]
pub struct Dataset {
    train: Part,
    valid: Option<Part>,
    bytes_per_token: Option<f64>,
    remarks: Vec<String>,
    order: Order,
    seed: u64,
    seq: usize,
    global: usize,
    micro: usize,
}

impl Dataset {
    /// Opens the files and checks every token against the vocabulary.
    pub fn open(request: &Request) -> Result<Dataset, DataError> {
        let Request { order, seed, seq, global, micro, vocab, .. } = *request;
        let tokenizer = match request.source {
            Source::Text(_) => Tokenizer::load(&request.tokenizer)?,
            Source::Tokens(..) => Tokenizer::Bytes,
        };
        let mut remarks = Vec::new();
        let mut open = |source: &Source| {
            let tokens = match source {
                Source::Text(path) => tokenizer.open(path)?,
                Source::Tokens(path, kind) => {
                    formats::refuse_known(path, *kind)?;
                    let tokens = Tokens::open(path, *kind)?;
                    remarks.extend(formats::remark(&tokens, *kind));
                    tokens
                }
            };
            tokens.check(vocab)?;
            Ok(Arc::new(tokens))
        };
        let all = open(&request.source)?;
        let (train, valid) = match &request.valid {
            Valid::Fraction(fraction) => {
                let cut = all.len() - (all.len() as f64 * fraction) as usize;
                let part = |range: Range<usize>| Part { tokens: all.clone(), range };
                (part(0..cut), (*fraction > 0.0).then(|| part(cut..all.len())))
            }
            Valid::File(path) => {
                let other = open(&request.source.sibling(path))?;
                let range = 0..other.len();
                (Part { tokens: all.clone(), range: 0..all.len() }, Some(Part { tokens: other, range }))
            }
        };
        if train.range.len() <= seq {
            return Err(DataError::Short { path: all.path().to_path_buf(), seq, have: train.range.len() });
        }
        if let Some(Part { tokens, range }) = valid.as_ref().filter(|valid| valid.range.len() < 2) {
            return Err(DataError::NoValid { path: tokens.path().to_path_buf(), have: range.len() });
        }
        let bytes_per_token = match (&request.source, &request.tokenizer) {
            (Source::Text(_), TokenizerChoice::Bytes) => Some(1.0),
            (Source::Text(path), TokenizerChoice::File(_)) => {
                let path = if let Valid::File(valid) = &request.valid { valid } else { path };
                let tokens = valid.as_ref().map_or(all.len(), |valid| valid.tokens.len());
                Some(file_len(path)? as f64 / tokens as f64)
            }
            (Source::Tokens(..), _) => None,
        };
        Ok(Dataset { train, valid, bytes_per_token, remarks, order, seed, seq, global, micro })
    }

    /// Inputs and targets of micro-batch `micro` (from 0) of a step before which `first` sequences have been read, each
    /// `[sequences, seq]`.
    ///
    /// # Panics
    /// If the slices are not `batch.micro * data.seq` long, or the step has no such micro-batch.
    pub fn micro(&self, first: u64, micro: usize, inputs: &mut [i32], targets: &mut [i32]) {
        assert!(micro < self.global / self.micro, "micro-batch {micro} of {}", self.global / self.micro);
        let first = u128::from(first) + (micro * self.micro) as u128;
        for (i, (inputs, targets)) in self.rows(inputs, targets).enumerate() {
            let count = self.sequences();
            let (epoch, index) = ((first + i as u128) / count as u128, ((first + i as u128) % count as u128) as usize);
            let sequence = match self.order {
                Order::Sequential => index,
                Order::Random => permute(self.seed, epoch as u64, index, count),
            };
            self.copy(&self.train, sequence, inputs, targets);
        }
    }

    /// Training sequences of an epoch.
    pub fn sequences(&self) -> usize {
        (self.train.range.len() - 1) / self.seq
    }

    /// How many sequences lie behind, if `sequences` of `seq` tokens have been read: so many that the next one is the first
    /// that begins behind the tokens that were read. Epochs stay epochs.
    pub fn behind(&self, sequences: u64, seq: usize) -> u64 {
        let epoch = ((self.train.range.len() - 1) / seq.max(1)).max(1) as u64;
        let ours = self.sequences() as u64;
        let rest = (sequences % epoch) * seq as u64;
        sequences / epoch * ours + rest.div_ceil(self.seq as u64).min(ours)
    }

    /// Training tokens.
    pub fn train_tokens(&self) -> usize {
        self.train.range.len()
    }

    /// Target tokens of a validation: each token of the part but its first.
    pub fn valid_tokens(&self) -> usize {
        self.valid.as_ref().map_or(0, |valid| valid.range.len() - 1)
    }

    /// Batches of `batch.global` sequences that a validation takes; 0 if nothing validates.
    pub fn valid_batches(&self) -> usize {
        self.valid_tokens().div_ceil(self.seq).div_ceil(self.global)
    }

    /// Like [`Dataset::micro`] for batch `batch` of a validation; returns the number of real targets. What lies beyond
    /// the last token has target -1, which counts for nothing. All real targets of all micro-batches of all batches
    /// are [`Dataset::valid_tokens`], each once.
    pub fn valid_micro(&self, batch: usize, micro: usize, inputs: &mut [i32], targets: &mut [i32]) -> usize {
        let valid = self.valid.as_ref().expect("a part to validate with");
        let first = batch * self.global + micro * self.micro;
        self.rows(inputs, targets)
            .enumerate()
            .map(|(i, (inputs, targets))| {
                let real = self.valid_tokens().saturating_sub((first + i) * self.seq).min(self.seq);
                inputs.fill(0);
                targets.fill(-1);
                self.copy(valid, first + i, &mut inputs[..real], &mut targets[..real]);
                real
            })
            .sum()
    }

    /// Bytes of text a token stands for, in the validation data (or all, if nothing validates): bits per byte are
    /// loss / (ln 2 · this). 1 for the byte tokenizer; with another one, the mean over the whole file. `None` if only
    /// ids are known.
    pub fn bytes_per_token(&self) -> Option<f64> {
        self.bytes_per_token
    }

    /// What makes the files look like something else than they were taken for; for one rank to say.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Training and validation text, if tokens are bytes and something validates.
    pub fn text(&self) -> Option<(&[u8], &[u8])> {
        Some((self.train.bytes()?, self.valid.as_ref()?.bytes()?))
    }

    /// Row by row of a micro-batch.
    fn rows<'a>(
        &self,
        inputs: &'a mut [i32],
        targets: &'a mut [i32],
    ) -> impl Iterator<Item = (&'a mut [i32], &'a mut [i32])> {
        assert_eq!((inputs.len(), targets.len()), (self.micro * self.seq, self.micro * self.seq), "micro-batch size");
        inputs.chunks_exact_mut(self.seq).zip(targets.chunks_exact_mut(self.seq))
    }

    fn copy(&self, part: &Part, sequence: usize, inputs: &mut [i32], targets: &mut [i32]) {
        if inputs.is_empty() {
            return;
        }
        let start = part.range.start + sequence * self.seq;
        part.tokens.fill(start, inputs);
        part.tokens.fill(start + 1, targets);
    }
}

impl Source {
    /// A file of the same kind.
    fn sibling(&self, path: &Path) -> Source {
        match self {
            Source::Text(_) => Source::Text(path.to_path_buf()),
            Source::Tokens(_, kind) => Source::Tokens(path.to_path_buf(), *kind),
        }
    }
}

fn file_len(path: &Path) -> Result<u64, DataError> {
    Ok(Tokens::open(path, TokenType::U8)?.len() as u64)
}
