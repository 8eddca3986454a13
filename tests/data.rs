//! Which tokens a step sees: files, order, split, validation.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tawpipe::data::{
    DataError, Dataset, Order, Request, Source, TokenType, TokenWriter, TokenizerChoice, Valid, permute,
};

/// A token file of consecutive ids, so that an id is its position.
fn counting(folder: &Path, tokens: u32, kind: TokenType) -> PathBuf {
    let path = folder.join("tokens.bin");
    let mut writer = TokenWriter::create(&path, kind).unwrap();
    writer.write(&(0..tokens).collect::<Vec<_>>()).unwrap();
    assert_eq!(writer.finish().unwrap(), tokens as usize);
    path
}

fn request(source: Source, seq: usize) -> Request {
    Request {
        source,
        tokenizer: TokenizerChoice::Bytes,
        valid: Valid::Fraction(0.0),
        order: Order::Sequential,
        seed: 1,
        seq,
        global: 4,
        micro: 2,
        vocab: 1 << 16,
    }
}

/// Inputs and targets of a micro-batch.
fn micro(data: &Dataset, step: u64, micro: usize, tokens: usize) -> (Vec<i32>, Vec<i32>) {
    let (mut inputs, mut targets) = (vec![0; tokens], vec![0; tokens]);
    data.micro(4 * step, micro, &mut inputs, &mut targets);
    (inputs, targets)
}

/// Sequence i is tokens[i*S ..= i*S+S]; step s uses sequences s*global onwards and wraps around; all id types read alike.
#[test]
fn sequential_order_is_the_contract() {
    for kind in [TokenType::U16, TokenType::U32, TokenType::I32] {
        let folder = tempfile::tempdir().unwrap();
        // 13 sequences of 5 tokens and a tail of 3.
        let data = Dataset::open(&request(Source::Tokens(counting(folder.path(), 69, kind), kind), 5)).unwrap();
        assert_eq!(data.sequences(), 13);
        for step in 0..9u64 {
            for m in 0..2 {
                let (inputs, targets) = micro(&data, step, m, 10);
                for row in 0..2 {
                    let sequence = (step as i32 * 4 + m as i32 * 2 + row) % 13;
                    for t in 0..5 {
                        assert_eq!(inputs[(row * 5 + t) as usize], sequence * 5 + t);
                        assert_eq!(targets[(row * 5 + t) as usize], sequence * 5 + t + 1);
                    }
                }
            }
        }
    }
}

/// In random order every epoch holds each sequence once, two epochs differ, and so do two seeds.
#[test]
fn random_order_sees_each_sequence_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Tokens(counting(folder.path(), 60 * 5 + 1, TokenType::U16), TokenType::U16);
    let epochs = |seed| {
        let data = Dataset::open(&Request { order: Order::Random, seed, ..request(source.clone(), 5) }).unwrap();
        let firsts: Vec<i32> = (0..30u64)
            .flat_map(|step| (0..2).flat_map(move |m| [(step, m, 0), (step, m, 5)]))
            .map(|(step, m, at)| micro(&data, step, m, 10).0[at])
            .collect();
        (firsts[..60].to_vec(), firsts[60..].to_vec())
    };
    let (first, second) = epochs(1);
    for epoch in [&first, &second] {
        assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), 60);
        assert!(epoch.iter().all(|start| start % 5 == 0));
    }
    assert_ne!(first, second);
    assert_ne!(first, epochs(2).0);
}

proptest! {
    /// The keyed permutation is one: 0..len onto itself, for any key.
    #[test]
    fn permutation(seed: u64, epoch in 0u64..1000, len in 1usize..3000) {
        let images: HashSet<usize> = (0..len).map(|index| permute(seed, epoch, index, len)).collect();
        prop_assert_eq!(images.len(), len);
        prop_assert!(images.into_iter().all(|image| image < len));
    }

    /// Training and validation share no token, together they are the file, and a validation sees each of its targets
    /// exactly once, whatever the sizes.
    #[test]
    fn split_is_a_partition(tokens in 20u32..400, seq in 1usize..9, rows in 1usize..4, micros in 1usize..4, percent in 10u32..60) {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::Tokens(counting(folder.path(), tokens, TokenType::U16), TokenType::U16);
        let valid = Valid::Fraction(f64::from(percent) / 100.0);
        let data = Dataset::open(&Request { valid, global: rows * micros, micro: rows, ..request(source, seq) }).unwrap();
        let cut = data.train_tokens() as i32;
        prop_assert_eq!(data.train_tokens() + data.valid_tokens() + 1, tokens as usize);

        let mut seen = Vec::new();
        for batch in 0..data.valid_batches() {
            for m in 0..micros {
                let (mut inputs, mut targets) = (vec![7; rows * seq], vec![7; rows * seq]);
                let real = data.valid_micro(batch, m, &mut inputs, &mut targets);
                let live: Vec<(i32, i32)> =
                    inputs.into_iter().zip(targets).filter(|(_, target)| *target != -1).collect();
                prop_assert_eq!(live.len(), real);
                prop_assert!(live.iter().all(|(input, target)| input + 1 == *target));
                seen.extend(live.into_iter().map(|(_, target)| target));
            }
        }
        prop_assert_eq!(seen, (cut + 1..tokens as i32).collect::<Vec<_>>());

        let steps = data.sequences().div_ceil(rows * micros) as u64;
        for step in 0..steps {
            for m in 0..micros {
                prop_assert!(micro(&data, step, m, rows * seq).1.into_iter().all(|target| target < cut));
            }
        }
    }
}

/// What is wrong with a file is said with the file's name, and a bad id with its position.
#[test]
fn bad_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = counting(folder.path(), 300, TokenType::U16);
    let open = |request: Request| Dataset::open(&request).unwrap_err();
    let tokens = |kind| request(Source::Tokens(path.clone(), kind), 5);

    let error = open(Request { vocab: 256, ..tokens(TokenType::U16) });
    assert!(matches!(error, DataError::Vocabulary { position: 256, id: 256, vocab: 256, .. }), "{error}");
    assert!(error.to_string().contains("tokens.bin"), "{error}");
    // Also far into a file, which is read in pieces.
    let long = counting(folder.path(), 6000, TokenType::U16);
    let error = open(Request { vocab: 5000, ..request(Source::Tokens(long, TokenType::U16), 5) });
    assert!(matches!(error, DataError::Vocabulary { position: 5000, id: 5000, .. }), "{error}");
    let path = counting(folder.path(), 300, TokenType::U16);
    let tokens = |kind| request(Source::Tokens(path.clone(), kind), 5);

    let error = open(Request { seq: 300, ..tokens(TokenType::U16) });
    assert!(matches!(error, DataError::Short { seq: 300, have: 300, .. }), "{error}");

    let ragged = folder.path().join("ragged.bin");
    std::fs::write(&ragged, [0u8; 7]).unwrap();
    let error = open(request(Source::Tokens(ragged, TokenType::U32), 5));
    assert!(matches!(error, DataError::Ragged { bytes: 7, width: 4, .. }), "{error}");

    // A negative id is above every vocabulary.
    let negative = folder.path().join("negative.bin");
    std::fs::write(&negative, [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]).unwrap();
    let error = open(request(Source::Tokens(negative, TokenType::I32), 1));
    assert!(matches!(error, DataError::Vocabulary { position: 1, id: -1, .. }), "{error}");

    let empty = folder.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(open(request(Source::Text(empty), 5)), DataError::Empty(_)));
    let missing = folder.path().join("missing.txt");
    assert!(matches!(open(request(Source::Text(missing), 5)), DataError::File { .. }));
}

/// A tokenizer.json is applied, its ids cached and reused, and bytes a token reported; decoding gives the text back.
#[test]
fn hugging_face_tokenizers_are_cached() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("tokenizer.json");
    // Whole words, split at spaces.
    std::fs::write(
        &json,
        r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "in": 1, "the": 2, "beginning": 3}, "unk_token": "[UNK]"}}"#,
    )
    .unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "in the beginning\n".repeat(10_000)).unwrap();
    let cache = folder.path().join("cache");
    // SAFETY: no other test of this binary reads the environment.
    unsafe { std::env::set_var("TAWPIPE_CACHE", &cache) };
    let request = Request { tokenizer: TokenizerChoice::File(json), vocab: 4, ..request(Source::Text(text), 3) };
    let data = Dataset::open(&request).unwrap();
    assert_eq!(data.train_tokens(), 30_000);
    assert_eq!(data.bytes_per_token(), Some(17.0 / 3.0));
    assert_eq!(micro(&data, 2, 1, 6), (vec![1, 2, 3, 1, 2, 3], vec![2, 3, 1, 2, 3, 1]));
    let files = || std::fs::read_dir(&cache).unwrap().map(|f| f.unwrap().metadata().unwrap().modified().unwrap());
    let before: Vec<_> = files().collect();
    Dataset::open(&request).unwrap();
    assert_eq!((before.len(), before), (1, files().collect()));
}
