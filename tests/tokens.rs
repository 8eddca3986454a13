//! What people bring: tokenizers, their ids of long texts, and the cache of them.

use std::path::{Path, PathBuf};

use tawpipe::data::{DataError, Dataset, Order, Request, Source, TokenType, Tokenizer, TokenizerChoice, Tokens, Valid};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, PaddingParams, PaddingStrategy, Tokenizer as HuggingFace, TokenizerBuilder, TruncationParams,
};

/// Lines of about 50 bytes that do not repeat.
fn lines(count: usize) -> String {
    (0..count).map(|i| format!("{i}: In the beginning was the wörd number {}.\n", i * 7919 % 1000)).collect()
}

/// A BPE tokenizer of 400 ids, trained on such lines.
fn bpe(normalizer: Option<NormalizerWrapper>, split: Option<PreTokenizerWrapper>) -> HuggingFace {
    let alphabet = if let Some(PreTokenizerWrapper::ByteLevel(_)) = split { ByteLevel::alphabet() } else { [].into() };
    let mut trainer = BpeTrainer::builder()
        .vocab_size(400)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<end of text>", true)])
        .initial_alphabet(alphabet.into_iter().collect())
        .build();
    let mut tokenizer = TokenizerBuilder::<BPE, _, _, ByteLevel, ByteFallback>::default()
        .with_model(BPE::default())
        .with_normalizer(normalizer)
        .with_pre_tokenizer(split)
        .build()
        .unwrap();
    tokenizer.train(&mut trainer, lines(300).split_inclusive('\n')).unwrap();
    tokenizer.into()
}

/// Saves a tokenizer, as it is for others and as this program reads it.
fn saved(folder: &Path, tokenizer: &HuggingFace) -> (PathBuf, Tokenizer) {
    let path = folder.join("tokenizer.json");
    tokenizer.save(&path, false).unwrap();
    let loaded = Tokenizer::load(&TokenizerChoice::File(path.clone())).unwrap();
    (path, loaded)
}

/// Ids of a text file through a token file.
fn through_a_file(folder: &Path, tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let (input, output) = (folder.join("text.txt"), folder.join("tokens.bin"));
    std::fs::write(&input, text).unwrap();
    let count = tokenizer.encode_file(&input, &output, TokenType::U32).unwrap();
    let tokens = Tokens::open(&output, TokenType::U32).unwrap();
    let mut ids = vec![0; tokens.len()];
    tokens.fill(0, &mut ids);
    assert_eq!(count, ids.len());
    ids.into_iter().map(|id| id as u32).collect()
}

/// A text of any length has the ids that it has when it is encoded at once, on one long line too; src/data/tokenizer.rs
/// tries more kinds of tokenizers.
#[test]
fn long_texts_have_the_ids_of_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(26_000).replace('\n', " ");
    assert!(text.len() > 1 << 20);
    let normalizer = Sequence::new(vec![Prepend::new("▁".into()).into(), Replace::new(" ", "▁").unwrap().into()]);
    let theirs = bpe(Some(normalizer.into()), None);
    let (_, ours) = saved(folder.path(), &theirs);
    let wanted = theirs.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
    let found = through_a_file(folder.path(), &ours, &text);
    let same = wanted.iter().zip(&found).take_while(|(one, other)| one == other).count();
    assert_eq!((same, found.len()), (wanted.len(), wanted.len()), "alike up to token {same}");
}

/// Truncation and padding, which a tokenizer.json keeps from the last batch of short texts, do not touch a corpus, and
/// neither does dropout.
#[test]
fn what_was_set_for_batches_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(3000);
    let theirs = bpe(None, Some(ByteLevel::default().into()));
    let wanted = theirs.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
    let mut short = theirs.clone();
    short.with_truncation(Some(TruncationParams { max_length: 16, ..Default::default() })).unwrap();
    let mut filled = theirs.clone();
    let strategy = PaddingStrategy::Fixed(1 << 20);
    filled.with_padding(Some(PaddingParams { strategy, pad_to_multiple_of: Some(64), ..Default::default() }));
    let json = theirs.to_string(false).unwrap();
    assert!(json.contains(r#""dropout":null"#));
    let dropping: HuggingFace = json.replace(r#""dropout":null"#, r#""dropout":0.5"#).parse().unwrap();
    for theirs in [short, filled, dropping] {
        let (_, ours) = saved(folder.path(), &theirs);
        assert!(ours.encode(&text).unwrap() == wanted);
        assert!(through_a_file(folder.path(), &ours, &text) == wanted);
    }
}

/// The vocabulary reaches to the largest id, also where ids in between stand for nothing.
#[test]
fn gaps_in_a_vocabulary_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let json = r#"{"version": "1.0", "added_tokens": [{"id": 90, "content": "<pad>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "in": 1, "the": 70, "<pad>": 90}, "unk_token": "[UNK]"}}"#;
    std::fs::write(&path, json).unwrap();
    let tokenizer = Tokenizer::load(&TokenizerChoice::File(path.clone())).unwrap();
    assert_eq!((tokenizer.vocab(), tokenizer.unused()), (91, 87));
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "in the beginning").unwrap();
    assert_eq!(tokenizer.encode("in the").unwrap(), [1, 70]);
    let without = json.replace(r#", "<pad>": 90"#, "").replace(r#""id": 90"#, r#""id": 3"#);
    std::fs::write(&path, without).unwrap();
    let tokenizer = Tokenizer::load(&TokenizerChoice::File(path)).unwrap();
    assert_eq!(tokenizer.vocab(), 71);
}

/// A file of the cache is used if it is what was written there, and else made again: cut, changed, or of another text.
#[test]
fn a_damaged_cache_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    // SAFETY: no other test of this binary reads the environment.
    unsafe { std::env::set_var("TAWPIPE_CACHE", &cache) };
    let (json, tokenizer) = saved(folder.path(), &bpe(None, Some(ByteLevel::default().into())));
    let text = |name: &str, lines: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, lines).unwrap();
        path
    };
    let (one, other) = (text("one.txt", lines(200)), text("other.txt", lines(100)));
    let ids = |path: &Path| {
        let tokens = tokenizer.open(path).unwrap();
        let mut ids = vec![0; tokens.len()];
        tokens.fill(0, &mut ids);
        ids
    };
    let wanted: Vec<i32> = tokenizer.encode(&lines(200)).unwrap().into_iter().map(|id| id as i32).collect();
    assert_eq!(ids(&one), wanted);
    let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&file).unwrap();
    ids(&other);
    let files = || std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let others = std::fs::read(files().find(|path| *path != file).unwrap()).unwrap();

    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let mut zeros = whole.clone();
    let half = zeros.len() / 2;
    zeros[half..].fill(0);
    for damaged in [whole[..whole.len() / 2].to_vec(), vec![], whole[2..].to_vec(), flipped, zeros, others] {
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(ids(&one), wanted);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
    // A sound file is left alone.
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(ids(&one), wanted);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);

    // The bytes a token stands for are those of the text, whatever the cache holds behind the ids.
    let request = Request {
        source: Source::Text(one.clone()),
        tokenizer: TokenizerChoice::File(json),
        valid: Valid::Fraction(0.0),
        order: Order::Sequential,
        seed: 1,
        seq: 8,
        global: 1,
        micro: 1,
        vocab: 400,
    };
    let data = Dataset::open(&request).unwrap();
    let bytes = std::fs::metadata(&one).unwrap().len() as f64;
    assert_eq!(data.bytes_per_token(), Some(bytes / wanted.len() as f64));
    let error = Dataset::open(&Request { vocab: 4, ..request }).unwrap_err();
    assert!(matches!(error, DataError::Vocabulary { .. }), "{error}");
}

/// A request for raw ids.
fn raw(path: &Path, kind: TokenType, valid: Valid) -> Request {
    Request {
        source: Source::Tokens(path.to_path_buf(), kind),
        tokenizer: TokenizerChoice::Bytes,
        valid,
        order: Order::Sequential,
        seed: 1,
        seq: 8,
        global: 1,
        micro: 1,
        vocab: 1 << 16,
    }
}

/// Files that say what they are, and are no raw ids, are refused with their format and what to do, to train and to validate.
#[test]
fn known_formats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let sound = path("sound.bin");
    std::fs::write(&sound, (0..400u16).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let llm_c = |magic: u32| [magic.to_le_bytes(), 1u32.to_le_bytes(), 500u32.to_le_bytes()].concat();
    let npy = b"\x93NUMPY\x01\x00v\x00{'descr': '<u2', 'fortran_order': False, 'shape': (401,), }";
    for (name, head, said) in [
        ("ids.npy", npy.to_vec(), "a NumPy array (.npy)"),
        ("ids.npz", b"PK\x03\x04\x2d\x00".to_vec(), "a zip archive (.npz"),
        ("train.bin", llm_c(20_240_520), "tail -c +1025 writes them, data.token_type is \"u16\""),
        ("train.bin", llm_c(20_240_801), "tail -c +1025 writes them, data.token_type is \"u32\""),
        ("data.idx", b"MMIDIDX\x00\x00\x01".to_vec(), "the index of a Megatron dataset; "),
        ("data.idx", b"TNTIDX\x00\x00".to_vec(), "the index of a fairseq dataset"),
        ("chunk.bin", b"LITPKDS\x01".to_vec(), "a packed dataset of LitGPT"),
        ("ids.h5", b"\x89HDF\r\n\x1a\n".to_vec(), "an HDF5 file"),
        ("ids.parquet", b"PAR1\x15\x04".to_vec(), "a Parquet file"),
        ("ids.arrow", b"ARROW1\x00\x00".to_vec(), "an Arrow file"),
        ("ids.bin.zst", b"\x28\xb5\x2f\xfd\x04".to_vec(), "compressed (zstd)"),
        ("ids.bin.xz", b"\xfd7zXZ\x00\x00".to_vec(), "compressed (xz)"),
        ("ids.bin.gz", b"\x1f\x8b\x08\x08\x11\x22\x33\x44".to_vec(), "compressed (gzip)"),
        ("ids.bin.bz2", b"BZh91AY&SY".to_vec(), "compressed (bzip2)"),
    ] {
        // An odd number of bytes: the format is named, not the number.
        let bytes = [head, vec![7; 1001]].concat();
        std::fs::write(path(name), bytes).unwrap();
        let none = Valid::Fraction(0.0);
        for request in [
            raw(&path(name), TokenType::U16, none.clone()),
            raw(&path(name), TokenType::U32, none),
            raw(&sound, TokenType::U16, Valid::File(path(name))),
        ] {
            let error = Dataset::open(&request).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, DataError::Format { .. }), "{name}: {text}");
            assert!(text.contains(name) && text.contains(said) && !text.contains('\n'), "{text}\nnot\n{said}");
        }
        std::fs::remove_file(path(name)).unwrap();
    }
}

/// Megatron's .bin is raw ids: read if the .idx beside it agrees on their type.
#[test]
fn a_megatron_index_gives_the_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.bin");
    std::fs::write(&path, (0..400u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let open = |kind| Dataset::open(&raw(&path, kind, Valid::Fraction(0.0))).map_err(|error| error.to_string());
    let index = |code: u8| {
        let head = [&b"MMIDIDX\x00\x00"[..], &1u64.to_le_bytes(), &[code], &[0; 40]].concat();
        std::fs::write(path.with_extension("idx"), head).unwrap();
    };
    assert!(open(TokenType::U16).is_ok());
    index(4);
    assert_eq!(open(TokenType::I32).unwrap().train_tokens(), 400);
    assert!(open(TokenType::U32).is_ok());
    let text = open(TokenType::U16).unwrap_err();
    assert!(text.contains("corpus.bin") && text.contains("data.token_type is \"i32\", not \"u16\""), "{text}");
    index(5);
    assert!(open(TokenType::U32).unwrap_err().contains("a type that is not supported"));
    // A file of this name that is no index of Megatron's says nothing.
    std::fs::write(path.with_extension("idx"), [5; 60]).unwrap();
    assert!(open(TokenType::U32).is_ok());
}

/// Ids that look like those of another type are remarked on; ids that only begin with zeros, or are few, are not.
#[test]
fn ids_of_another_type_are_remarked_on() {
    let folder = tempfile::tempdir().unwrap();
    let remarks = |name: &str, bytes: Vec<u8>, kind| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let ids = Dataset::open(&raw(&path, kind, Valid::Fraction(0.0))).unwrap();
        let sound = folder.path().join("sound.bin");
        std::fs::write(&sound, (0..900u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
        if kind == TokenType::U32 {
            // The same in the file that validates.
            let other = Dataset::open(&raw(&sound, kind, Valid::File(path))).unwrap();
            assert_eq!(other.remarks(), ids.remarks());
        }
        ids.remarks().join(";")
    };
    let ids: Vec<u32> = (0..3000u32).map(|i| i * 7919 % 50_000).collect();
    let u32s: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let u16s = |to_bytes: fn(u16) -> [u8; 2]| ids.iter().flat_map(|id| to_bytes(*id as u16)).collect::<Vec<u8>>();
    let i64s: Vec<u8> = ids.iter().flat_map(|id| u64::from(*id).to_le_bytes()).collect();
    for (name, bytes, kind, said) in [
        ("a.bin", u32s.clone(), TokenType::U16, "all ids but each 2nd are 0, as if ids of 4 bytes were read as u16"),
        ("b.bin", i64s.clone(), TokenType::U16, "all ids but each 4th are 0, as if ids of 8 bytes were read as u16"),
        ("c.bin", i64s, TokenType::U32, "all ids but each 2nd are 0, as if ids of 8 bytes were read as u32"),
        (
            "d.bin",
            ids[..200].iter().flat_map(|id| (*id as u16 & 255).to_be_bytes()).collect(),
            TokenType::U16,
            "big-endian",
        ),
        ("e.bin", "In the beginning was the Word. ".repeat(40).into_bytes(), TokenType::U16, "looks like text"),
    ] {
        let found = remarks(name, bytes, kind);
        assert!(found.contains(name) && found.contains(said), "{found}\nnot\n{said}");
    }
    assert_eq!(remarks("f.bin", u16s(u16::to_le_bytes), TokenType::U16), "");
    assert_eq!(remarks("g.bin", u32s, TokenType::U32), "");
    assert_eq!(remarks("h.bin", [vec![0; 400], u16s(u16::to_le_bytes)].concat(), TokenType::U16), "");
    assert_eq!(remarks("i.bin", [[1, 0, 0, 0].repeat(10), vec![0; 400]].concat(), TokenType::U16), "");
}
