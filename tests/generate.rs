//! What `generate` makes of each kind of folder, and bits per byte, which depend on the same tokenizer.
#![cfg(feature = "hdf5")]

use std::path::Path;

use assert_cmd::Command;
use tawpipe::checkpoint::hf::HfFolder;
use tawpipe::data::{Tokenizer, TokenizerChoice};
use tawpipe::device::Cpu;
use tawpipe::generate::{Sampler, Window, generate};
use tempfile::TempDir;

/// Whole words, split at spaces; 12 ids.
const WORDS: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "in": 1, "the": 2, "beginning": 3,
        "was": 4, "word": 5, "and": 6, "with": 7, "God": 8, ".": 9, ",": 10, "same": 11}}}"#;

const DECK: &str = r#"
[model]
dim = 32
layers = 2
heads = 4

[data]
text = "text.txt"
tokenizer = "tokenizer.json"
seq = 8
valid = 0.25

[batch]
global = 4

[run]
steps = 3
device = "cpu"
folder = "run"

[system]
name = "single"
"#;

fn folder(deck: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "in the beginning was the word , and the word was with God . the same was in the beginning .\n".repeat(9);
    for (name, text) in [("deck.toml", deck), ("tokenizer.json", WORDS), ("text.txt", &text)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// Exit code, standard output and standard error.
fn tawpipe(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("tawpipe").unwrap();
    command.current_dir(folder).env("TAWPIPE_CACHE", folder.join("cache"));
    let output = command.args(args).timeout(std::time::Duration::from_secs(120)).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn done(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = tawpipe(folder, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

/// Bad input: one line on standard error with all the words.
fn refused(folder: &Path, args: &[&str], words: &[&str]) {
    let (code, out, err) = tawpipe(folder, args);
    assert_eq!((code, out.as_str(), err.lines().count()), (2, "", 1), "{args:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: no {word:?} in: {err}");
    }
}

/// A run folder, its folder of checkpoints, one of its checkpoints and its export are the same model, with the same tokenizer
/// and the same window; what is not known is asked for.
#[test]
fn every_kind_of_folder_speaks_alike() {
    let folder = folder(DECK);
    let at = folder.path();
    done(at, &["train", "deck.toml"]);
    done(at, &["export", "run", "--out", "hf"]);
    // More tokens than the window holds.
    let generate = |model| ["generate", model, "--prompt", "in the", "--temperature", "0", "--tokens", "20"];
    let said = done(at, &generate("run"));
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((words.len(), &words[..2]), (22, &["in", "the"][..]), "{said}");
    assert!(words.iter().all(|word| WORDS.contains(&format!("\"{word}\""))), "{said}");
    std::fs::copy(at.join("run/checkpoints/step_3.h5"), at.join("step_3.h5")).unwrap();
    for model in ["run/checkpoints", "run/checkpoints/step_3.h5", "step_3.h5", "hf"] {
        assert_eq!(done(at, &generate(model)), said, "{model}");
    }
    std::fs::rename(at.join("tokenizer.json"), at.join("moved.json")).unwrap();
    std::fs::remove_file(at.join("run/tokenizer.json")).unwrap();
    refused(at, &generate("run"), &["tokenizer.json", "--tokenizer"]);
    let elsewhere = [&generate("run")[..], &["--tokenizer", "moved.json"]].concat();
    assert_eq!(done(at, &elsewhere), said);
    refused(at, &["generate", "hf", "--prompt", ""], &["--prompt is empty"]);
    refused(at, &["generate", "hf", "--tokenizer", "bytes"], &["--prompt holds token 73", "knows only 12"]);
    std::fs::remove_dir_all(at.join("run/checkpoints")).unwrap();
    refused(at, &generate("run"), &["run", "without a checkpoint"]);
    refused(at, &generate("nowhere"), &["nowhere", "does not exist"]);
    refused(at, &generate("moved.json"), &["moved.json"]);
    let (code, _, err) = tawpipe(at, &["generate", "hf", "--temperature=-1"]);
    assert!(code == 2 && err.contains("accepted: numbers from 0 on"), "{err}");
}

/// Each new token is the likeliest one after as many tokens as the window holds, and what is likely depends on all of them.
#[test]
fn the_window_slides_by_one_token() {
    let folder = tempfile::tempdir().unwrap();
    let words: Vec<String> = (0..256).map(|id| format!("\"w{id}\": {id}")).collect();
    let json = folder.path().join("tokenizer.json");
    let vocab = r#""[UNK]": 0, "in": 1, "the": 2, "beginning": 3,"#;
    let rest = WORDS.split_once(vocab).unwrap().0.replace("[UNK]", "w0");
    std::fs::write(&json, format!("{rest}{}}}}}}}", words.join(", "))).unwrap();
    let tokenizer = Tokenizer::load(&TokenizerChoice::File(json)).unwrap();

    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/b_gqa2/final");
    let mut window = Window::new(&HfFolder::open(&model).unwrap(), 6, Cpu::new(1)).unwrap();
    let mut logits = |context: &[u32]| window.logits(context).unwrap().to_vec();
    let plain = logits(&[1, 2, 3]);
    for other in [&[1, 2, 4][..], &[1, 5, 3], &[6, 2, 3], &[7, 1, 2, 3]] {
        assert_ne!(plain, logits(other), "{other:?}");
    }
    let said = generate(&mut window, &tokenizer, &mut Sampler::new(0.0, 0), "w1 w2 w3 w4", 40).unwrap();
    let ids: Vec<u32> = said.split(' ').map(|word| word[1..].parse().unwrap()).collect();
    assert_eq!((ids.len(), &ids[..4]), (44, &[1, 2, 3, 4][..]));
    let mut likeliest = |context: &[u32]| {
        let logits = window.logits(context).unwrap();
        (0..256).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap()
    };
    let mut shorter = 0;
    for at in 4..ids.len() {
        let from = at.saturating_sub(6);
        assert_eq!(ids[at], likeliest(&ids[from..at]), "token {at} of {said}");
        shorter += usize::from(ids[at] != likeliest(&ids[from + 1..at]));
    }
    assert!(shorter > 0, "no token depends on the length of the window: {said}");
}

/// Ids that no text was made of have no tokenizer: the user must name one, unless they can be bytes.
#[test]
fn models_of_token_ids_ask_for_a_tokenizer() {
    let deck = DECK.replace("text = \"text.txt\"\ntokenizer = \"tokenizer.json\"", "tokens = \"ids.bin\"");
    for (vocab, known) in [(256, true), (300, false)] {
        let folder = folder(&deck.replace("heads = 4", &format!("heads = 4\nvocab = {vocab}")));
        let at = folder.path();
        std::fs::write(at.join("ids.bin"), b"i\0n\0 \0t\0h\0e\0".repeat(20)).unwrap();
        done(at, &["train", "deck.toml"]);
        let generate = ["generate", "run/checkpoints/step_3.h5", "--prompt", "in", "--tokens", "5"];
        if known {
            assert!(done(at, &generate).starts_with("in"));
        } else {
            refused(at, &generate, &["step_3.h5", "its 300 ids", "--tokenizer"]);
        }
    }
}

/// A prompt whose tokens the model does not have is refused, from the first such id on.
#[test]
fn tokens_that_the_model_has_not_are_refused() {
    let folder = folder(DECK);
    let at = folder.path();
    done(at, &["train", "deck.toml", "--set", "run.steps=1"]);
    let larger = WORDS.replace("\"same\": 11", "\"same\": 11, \"zebra\": 12");
    std::fs::write(at.join("larger.json"), larger).unwrap();
    let generate = |prompt| ["generate", "run", "--tokenizer", "larger.json", "--prompt", prompt, "--tokens", "2"];
    assert!(done(at, &generate("the same")).starts_with("the same"));
    refused(at, &generate("the zebra"), &["token 12", "the model knows only 12"]);
}

/// A run is complete without the tokenizer it was started with, which it keeps a copy of: it goes on, generates and is
/// exported, also from another place.
#[test]
fn a_run_keeps_its_tokenizer() {
    let folder = folder(DECK);
    let at = folder.path();
    done(at, &["train", "deck.toml", "--set", "run.steps=2"]);
    std::fs::remove_file(at.join("tokenizer.json")).unwrap();
    done(at, &["train", "deck.toml", "--resume"]);
    let generate =
        |run: &str| done(at, &["generate", run, "--prompt", "in the", "--tokens", "3", "--temperature", "0"]);
    let words = generate("run");
    std::fs::rename(at.join("run"), at.join("moved")).unwrap();
    assert_eq!(generate("moved"), words);
    done(at, &["export", "moved", "--out", "out"]);
    assert_eq!(std::fs::read_to_string(at.join("out/tokenizer.json")).unwrap(), WORDS);
    // Without the copy it cannot go on, and an export says that it lacks the tokenizer.
    std::fs::remove_file(at.join("moved/tokenizer.json")).unwrap();
    refused(at, &["train", "deck.toml", "--resume", "--set", "run.folder=moved"], &["tokenizer.json"]);
    let (code, _, said) = tawpipe(at, &["export", "moved", "--out", "bare"]);
    assert!(code == 0 && said.contains("exported without it") && !at.join("bare/tokenizer.json").exists(), "{said}");
}

/// Bits per byte are the loss in bits, times the tokens and through the bytes of the text that validates.
#[test]
fn bits_per_byte_count_the_bytes() {
    let bytes = DECK.replace("tokenizer = \"tokenizer.json\"\n", "");
    let other = "the word was the beginning , and the beginning was with God .\n".repeat(5);
    let count = |text: &str| (text.split_whitespace().count() as f64, text.len() as f64);
    let file = "valid = \"valid.txt\"";
    for (deck, tokens, of) in [
        (bytes.clone(), 1.0, 1.0),
        (bytes.replace("valid = 0.25", file), 1.0, 1.0),
        (DECK.replace("valid = 0.25", file), count(&other).0, count(&other).1),
        (DECK.to_string(), 21.0, 92.0),
    ] {
        let folder = folder(&deck);
        std::fs::write(folder.path().join("valid.txt"), &other).unwrap();
        done(folder.path(), &["train", "deck.toml"]);
        let journal = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
        let rows = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let row = rows.rev().find(|row| row.get("valid_loss").is_some()).unwrap();
        let (loss, bits) = (row["valid_loss"].as_f64().unwrap(), row["bits_per_byte"].as_f64().unwrap());
        let wanted = loss * std::f64::consts::LOG2_E * tokens / of;
        assert!((bits - wanted).abs() < 1e-12 * wanted, "{bits}, not {wanted}:\n{deck}");
    }
}
