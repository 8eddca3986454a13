//! The command line and the deck: what is accepted, and how bad input is refused.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tawpipe::data::{Order, Valid};
use tawpipe::deck::{self, Deck, Memory, Schedule, Seconds};
use tawpipe::metrics::{Record, Row, Validation};
use tawpipe::plan::systems::SystemOptions;
use tempfile::TempDir;

/// A complete deck that nothing is wrong with.
const DECK: &str = r#"
[model]
dim = 32
layers = 2
heads = 4

[data]
text = "text.txt"
seq = 8

[batch]
global = 4
micro = 2

[run]
steps = 10

[system]
name = "tawpipe"
"#;

/// A folder with `deck.toml` and `text.txt`.
fn folder(deck: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deck.toml"), deck).unwrap();
    std::fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(20)).unwrap();
    folder
}

fn tawpipe(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("tawpipe").unwrap();
    command.current_dir(folder).args(args).timeout(std::time::Duration::from_secs(60));
    command
}

/// Runs and expects exit code 2, nothing on standard output, and one line on standard error with all the words.
fn refused(folder: &Path, args: &[&str], words: &[&str]) {
    let output = tawpipe(folder, args).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: no {word:?} in: {err}");
    }
}

/// `DECK` with one line replaced or added.
fn with(old: &str, new: &str) -> String {
    assert!(DECK.contains(old));
    DECK.replacen(old, new, 1)
}

/// Defaults are filled in, paths start at the deck, and the saved deck reads back as the same.
#[test]
fn decks_are_resolved_and_round_trip() {
    let folder = folder(DECK);
    let sets = [
        "optim.lr=2",
        "run.wall_time=01:30:00",
        "optim.schedule=wsd",
        "data.valid=../other.txt",
        "cluster.memory=1.5 GiB",
        "run.folder=..",
    ];
    let deck = Deck::read(&folder.path().join("deck.toml"), &sets.map(String::from)).unwrap();
    let shape = deck.model.shape().unwrap();
    assert_eq!((shape.kv_heads, shape.head_dim, shape.ffn, shape.vocab), (4, 8, 96, 256));
    let home = folder.path().canonicalize().unwrap();
    assert_eq!(deck.data.text, Some(home.join("text.txt")));
    assert_eq!(deck.data.valid, Valid::File(home.parent().unwrap().join("other.txt")));
    assert_eq!((deck.optim.lr, deck.optim.schedule, deck.data.order), (2.0, Schedule::Wsd, Order::Random));
    assert_eq!(deck.run.wall_time, Some(Seconds(5400.0)));
    assert_eq!(deck.cluster.memory, Some(Memory(3 << 29)));
    // As text, because paths with and without a slash at their end are equal.
    assert_eq!(deck.run.folder.as_ref().unwrap().as_os_str(), home.parent().unwrap().as_os_str());
    assert!(matches!(deck.system, SystemOptions::Tawpipe(_)));

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("deck.toml");
    std::fs::write(&copy, deck.to_toml()).unwrap();
    assert_eq!(Deck { file: deck.file.clone(), ..Deck::read(&copy, &[]).unwrap() }, deck);
}

/// Groups come from the deck as one size or as a list, and must add up.
#[test]
fn groups_must_add_up() {
    let folder = folder(DECK);
    let groups = |set: &str, ranks| {
        let deck = Deck::read(&folder.path().join("deck.toml"), &[format!("cluster.ranks_per_group={set}")]).unwrap();
        deck.groups(ranks).map(|groups| groups.unwrap().sizes()).map_err(|error| error.to_string())
    };
    assert_eq!(groups("2", 5).unwrap(), [2, 2, 1]);
    assert_eq!(groups("[1, 2, 3]", 6).unwrap(), [1, 2, 3]);
    assert!(groups("[1, 2, 3]", 5).unwrap_err().contains("6 ranks, but there are 5"));
}

/// Every kind of mistake in a deck: exit code 2 and one line that names file, key, and what is accepted.
#[test]
fn bad_decks_are_refused() {
    let cases: &[(String, &[&str])] = &[
        (with("dim = 32", "dmi = 32"), &["deck.toml", "unknown key model.dmi", "did you mean model.dim?"]),
        (with("[batch]", "[bacth]"), &["deck.toml", "unknown section bacth", "did you mean batch?"]),
        (with("steps = 10", "steps = \"ten\""), &["deck.toml", "run.steps = \"ten\"", "a whole number"]),
        (with("steps = 10", "steps = -1"), &["run.steps = -1", "a whole number"]),
        (with("steps = 10", "dtype = \"f16\""), &["run.dtype = \"f16\"", "\"f32\" or \"bf16\""]),
        (with("seq = 8", "order = \"shuffled\""), &["data.order", "\"sequential\" or \"random\""]),
        (with("seq = 8", "valid = 1.5"), &["data.valid = 1.5", "a fraction from 0 to below 1"]),
        (with("seq = 8", "valid = 1.0"), &["data.valid = 1", "a fraction from 0 to below 1"]),
        (with("heads = 4", "heads = 5"), &["model.dim = 32 is no multiple of model.heads = 5"]),
        (with("heads = 4", "heads = 4\nkv_heads = 3"), &["model.heads = 4 is no multiple of model.kv_heads = 3"]),
        (with("heads = 4", "heads = 4\nhead_dim = 7"), &["model.head_dim = 7 is odd"]),
        (with("layers = 2", "layers = 0"), &["model.layers = 0", "a whole number from 1 to 10000"]),
        (with("layers = 2", ""), &["model.layers is required"]),
        (with("dim = 32", "dim = 32\nfrom = \"hf\""), &["model.from", "remove model.dim"]),
        (with("text = \"text.txt\"", ""), &["data.text", "data.tokens", "required"]),
        (with("text = ", "tokens = \"t\"\ntext = "), &["data.text and data.tokens exclude each other"]),
        (with("global = 4", "global = 5"), &["batch.global = 5 is no multiple of batch.micro = 2"]),
        (with("steps = 10", "steps = 10\n[optim]\nlr = -1.0"), &["optim.lr = -1 must be above 0"]),
        (
            with("steps = 10", "steps = 10\n[optim]\nlr = 0.01\nmin_lr = 0.02"),
            &["optim.min_lr = 0.02", "from 0 to optim.lr"],
        ),
        (with("\"tawpipe\"", "\"tawpip\""), &["system.name = \"tawpip\"", "single", "tawpipe"]),
        (with("\"tawpipe\"", "\"tawpipe\"\nstager = \"none\""), &["system.stager", "did you mean system.stagger?"]),
        (with("[batch]", "[cluster]\nmemory = \"lots\"\n[batch]"), &["cluster.memory = \"lots\"", "24 GiB"]),
        (with("[batch]", "[cluster]\ncosts = \"guess\"\n[batch]"), &["cluster.costs = \"guess\"", "measure"]),
        (with("[batch]", "[batch"), &["deck.toml, line 11"]),
    ];
    for (deck, words) in cases {
        let folder = folder(deck);
        refused(folder.path(), &["plan", "deck.toml"], words);
    }
    let folder = folder(DECK);
    refused(folder.path(), &["plan", "missing.toml"], &["missing.toml", "No such file"]);
}

/// Bad data is found before anything is written: exit code 2, one line, no run folder.
#[test]
fn bad_data_is_refused_by_train() {
    let cases: [(String, &[&str]); 6] = [
        (with("text.txt", "missing.txt"), &["missing.txt", "No such file"]),
        (with("text.txt", "empty.txt"), &["empty.txt", "the file is empty"]),
        (with("seq = 8", "seq = 8000"), &["text.txt", "data.seq = 8000 needs 8001 tokens, but there are 620"]),
        (with("heads = 4", "heads = 4\nvocab = 100"), &["text.txt", "has id 110, but the vocabulary is 0 to 99"]),
        (with("text = \"text.txt\"", "tokens = \"odd.bin\""), &["odd.bin", "7 bytes are no multiple"]),
        (with("seq = 8", "seq = 8\ntokenizer = \"deck.toml\""), &["deck.toml", "no tokenizer.json"]),
    ];
    for (deck, words) in &cases {
        let folder = folder(deck);
        std::fs::write(folder.path().join("empty.txt"), "").unwrap();
        std::fs::write(folder.path().join("odd.bin"), [0; 7]).unwrap();
        refused(folder.path(), &["train", "deck.toml", "--set", "run.folder=run"], words);
        assert!(!folder.path().join("run").exists(), "{words:?}: a run folder was made");
    }
}

/// On several ranks an error is said once, by whichever rank, before (deck) and after (data) MPI starts.
#[test]
#[cfg(feature = "mpi")]
fn an_error_of_all_ranks_is_said_once() {
    let folder = folder(DECK);
    for (set, words) in [("optim.lrr=1", "did you mean optim.lr?"), ("data.text=nowhere.txt", "nowhere.txt")] {
        let output = common::mpirun(3)
            .args([env!("CARGO_BIN_EXE_tawpipe"), "train", "deck.toml", "--set", set])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("tawpipe: ")).collect();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(ours.len() == 1 && ours[0].contains(words), "{text}");
        assert!(!folder.path().join("runs").exists());
    }
}

/// A few steps from deck to text: the journal goes to standard output as JSON, the run folder is complete, a second run
/// does not overwrite it, and its checkpoint speaks.
#[test]
#[cfg(feature = "hdf5")]
fn a_run_trains_generates_and_reports() {
    let folder = folder(&with("seq = 8", "seq = 8\nvalid = 0.2"));
    let args =
        ["train", "deck.toml", "--json", "--set", "run.folder=run", "--set", "run.steps=3", "--set", "run.trace=2"];
    let output = tawpipe(folder.path(), &args).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    let steps: Vec<u64> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|record| record.get("loss").is_some())
        .map(|record| record["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3], "{out}");
    for file in ["deck.toml", "metrics.jsonl", "metrics.h5", "checkpoints/step_3.h5", "DONE"] {
        assert!(folder.path().join("run").join(file).exists(), "no {file}");
    }
    let trace = std::fs::read_to_string(folder.path().join("run/trace.json")).unwrap();
    let events: Vec<serde_json::Value> = serde_json::from_str(&trace).unwrap();
    for name in ["forward of block 1, micro-batch 0", "backward of block 0, micro-batch 1", "update of shard 0"] {
        assert!(events.iter().any(|event| event["name"] == name && event["dur"].as_f64() > Some(0.0)), "no {name}");
    }
    let drawing = std::fs::read_to_string(folder.path().join("run/trace.svg")).unwrap();
    for words in ["tawpipe on 1 rank", "<title>forward of block 1, micro-batch 0: ", "time, "] {
        assert!(drawing.contains(words), "no {words:?} in the drawing");
    }
    refused(folder.path(), &args, &["run", "--resume"]);
    let generate = ["generate", "run", "--prompt", "In the", "--tokens", "5"];
    let output = tawpipe(folder.path(), &generate).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.starts_with("In the"), "{text}");
    tawpipe(folder.path(), &["report", "run"]).assert().success();
    assert!(folder.path().join("run/loss.svg").exists());
}

/// A mistyped `--set` names itself, not the file, and the nearest key.
#[test]
fn set_suggests_the_nearest_key() {
    let folder = folder(DECK);
    let cases: [(&str, &[&str]); 4] = [
        ("optim.lrr=1e-3", &["--set optim.lrr=1e-3", "did you mean optim.lr?"]),
        ("optimm.lr=1e-3", &["--set optimm.lr=1e-3", "did you mean optim?"]),
        ("optim.lr=fast", &["--set optim.lr=fast", "a number"]),
        ("lr", &["--set lr", "section.key=value"]),
    ];
    for (set, words) in cases {
        refused(folder.path(), &["plan", "deck.toml", "--set", set], words);
    }
}

/// `plan` proves a plan and prints its tables without MPI; groups can be tried on the command line.
#[test]
fn plan_prints_memory_and_bytes() {
    let folder = folder(DECK);
    let output = tawpipe(folder.path(), &["plan", "deck.toml", "--groups", "2,2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in ["tawpipe on 4 ranks in groups of 2 + 2", "The plan is right.", "rank 3", "master", "between groups"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    refused(folder.path(), &["plan", "deck.toml", "--groups", "2,2", "--ranks", "5"], &["4 ranks, but there are 5"]);
}

/// The path of a shipped machine.
fn machine(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs/clusters").join(name).display().to_string()
}

/// With a machine `plan` predicts times and says what fits; it needs no data.
#[test]
fn plan_predicts_times() {
    let folder = folder(&with("text.txt", "nowhere.txt"));
    let laptop = machine("laptop.toml");
    let plan = |more: &[&str]| {
        let args = [&["plan", "deck.toml", "--cluster", &laptop], more].concat();
        let output = tawpipe(folder.path(), &args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = plan(&[]);
    for words in ["4 ranks in groups of 2 + 2", "| step ", "tokens/s a rank", "allowed", "| fits"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    // Of this machine the peak is known.
    let args = ["plan", "deck.toml", "--cluster", &machine("paper-3x8-10gbe.toml"), "--ranks", "4"];
    let output = tawpipe(folder.path(), &args).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("MFU (causal attention), %"));
    let number: serde_json::Value = serde_json::from_str(&plan(&["--json"])).unwrap();
    assert_eq!(
        (&number["right"], &number["fits"], &number["groups"]),
        (&true.into(), &true.into(), &[2, 2][..].into())
    );
    assert!(number["step"].as_f64() > Some(0.0) && number["tokens_per_s"].as_f64() > Some(0.0), "{number}");
    assert_eq!(number["memory"].as_array().unwrap().len(), 4);
}

/// `--all` has a line for every system of the table: its numbers, or why it cannot run this.
#[test]
fn plan_compares_all_systems() {
    let folder = folder(DECK);
    for cluster in [&[][..], &["--cluster", &machine("laptop.toml")]] {
        let args = [&["plan", "deck.toml", "--groups", "2,2", "--all"], cluster].concat();
        let output = tawpipe(folder.path(), &args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for entry in tawpipe::plan::systems::SYSTEMS.iter() {
            let name = entry.name;
            let row = text.lines().filter(|line| line.starts_with(&format!("| {name} "))).count();
            let refused = text.lines().filter(|line| line.starts_with("Cannot run this: "));
            let refused = refused.filter(|line| line.split([' ', ',']).any(|word| word == name)).count();
            assert_eq!(row + refused, 1, "{name} in:\n{text}");
        }
        assert_eq!(text.matches("| tawpipe, preset paper ").count(), 1, "{text}");
        assert_eq!(text.matches("annot run this").count(), 1, "{text}");
        assert!(text.contains("single (it runs on one rank, not on 4"), "{text}");
        let output = tawpipe(folder.path(), &[&args[..], &["--json"]].concat()).output().unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(all.len(), tawpipe::plan::systems::SYSTEMS.len() + 1, "with the published tawpipe");
    }
}

/// `--recommend` names a winner with its keys, says why in a sentence, and keeps to the memory that is allowed.
#[test]
fn plan_recommends() {
    let folder = folder(DECK);
    let laptop = machine("laptop.toml");
    let args = ["plan", "deck.toml", "--cluster", &laptop, "--ranks", "2", "--recommend"];
    let output = tawpipe(folder.path(), &args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in ["[system]\nname = ", "[batch]\nmicro = ", "recompute = ", " step |"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    let output = tawpipe(folder.path(), &[&args[..], &["--json"]].concat()).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps: Vec<f64> = found["ranked"].as_array().unwrap().iter().map(|c| c["step_s"].as_f64().unwrap()).collect();
    assert!(steps.len() > 1 && steps[1..].is_sorted(), "{steps:?}");
    refused(folder.path(), &[&args[..], &["--set", "cluster.memory=1000"]].concat(), &["tawpipe: "]);
    tawpipe(folder.path(), &["plan", "deck.toml", "--recommend"]).assert().code(2);
}

/// A plan is drawn, and written as a trace in which every message that leaves arrives.
#[test]
fn plan_draws_and_traces() {
    let folder = folder(DECK);
    let args = ["plan", "deck.toml", "--groups", "2,1", "--draw", "a.svg", "--lanes", "--trace", "a.json"];
    let output = tawpipe(folder.path(), &args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let svg = std::fs::read_to_string(folder.path().join("a.svg")).unwrap();
    for words in ["tawpipe on 3 ranks in groups of 2 + 1", "group 1", "weight hop", "time, forwards of a block"] {
        assert!(svg.contains(words), "no {words:?} in the drawing");
    }
    let text = std::fs::read_to_string(folder.path().join("a.json")).unwrap();
    let events: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let ends = |phase: &str| {
        let mut ids: Vec<&str> =
            events.iter().filter(|e| e["ph"] == phase).map(|e| e["id"].as_str().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    assert!(!ends("s").is_empty());
    assert_eq!(ends("s"), ends("f"));
    // A forward of a block is drawn as a millisecond.
    let block = events.iter().find(|e| e["name"] == "forward of block 1, micro-batch 1").unwrap();
    assert_eq!((&block["dur"], &block["pid"], &block["args"]["unit"]), (&1000.0.into(), &1.into(), &"block 1".into()));
}

/// What cannot be asked of `plan` is refused in one line.
#[test]
fn bad_questions_are_refused() {
    let folder = folder(DECK);
    let laptop = machine("laptop.toml");
    std::fs::write(folder.path().join("odd.toml"), "name = \"odd\"\nspeed = 3\n").unwrap();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--cluster", "missing.toml"], &["missing.toml", "No such file"]),
        (&["--cluster", "odd.toml"], &["odd.toml", "line 2", "unknown field `speed`"]),
        (&["--cluster", &laptop, "--ranks", "5"], &["5 ranks are asked for", "laptop", "has 4"]),
        (&["--groups", "2,2", "--ranks", "5"], &["4 ranks, but there are 5"]),
        (&["--lanes"], &["--draw"]),
        (&["--all", "--draw", "a.svg"], &["--draw and --trace show one plan"]),
    ];
    for (args, words) in cases {
        refused(folder.path(), &[&["plan", "deck.toml"], args].concat(), words);
    }
    assert!(!folder.path().join("a.svg").exists());
}

/// Every deck under inputs/ can be planned.
#[test]
fn shipped_decks_are_right() {
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs");
    let files = std::fs::read_dir(inputs).unwrap().map(|entry| entry.unwrap().path());
    let decks: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    assert!(!decks.is_empty());
    for deck in decks {
        tawpipe(Path::new("/"), &["plan", deck.to_str().unwrap()]).assert().success();
    }
}

/// The help names every exit code; a usage error is bad input, too.
#[test]
fn help_documents_exit_codes() {
    let output = tawpipe(Path::new("/"), &["--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for exit in tawpipe::exit::Exit::ALL {
        assert!(text.contains(&format!("{}  {}", exit.code(), exit.meaning())), "{text}");
    }
    tawpipe(Path::new("/"), &["plan"]).assert().code(2);
    tawpipe(Path::new("/"), &["pln"]).assert().code(2);
}

/// A text becomes a token file.
#[test]
fn tokenize_writes_ids() {
    let folder = folder(DECK);
    let args = ["tokenize", "text.txt", "--tokenizer", "bytes", "--out", "ids.bin", "--token-type", "u16"];
    tawpipe(folder.path(), &args).assert().success();
    assert_eq!(std::fs::read(folder.path().join("ids.bin")).unwrap()[..4], [b'I', 0, b'n', 0]);
    let args = ["tokenize", "text.txt", "--tokenizer", "deck.toml", "--out", "ids.bin"];
    refused(folder.path(), &args, &["deck.toml", "no tokenizer.json"]);
}

/// `docs/deck.md` is what the sections say; `UPDATE=1 cargo test --test cli deck_reference` rewrites it.
#[test]
fn deck_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deck.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, deck::docs::markdown()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), deck::docs::markdown(), "run it with UPDATE=1");
}

/// A run folder is summarised in a table and drawn; medians leave out the first step; baselines stand in the plot.
#[test]
fn report_reads_a_run() {
    let folder = folder(&with("seq = 8", "seq = 8\nvalid = 0.2"));
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let deck = Deck::read(&folder.path().join("deck.toml"), &[]).unwrap();
    std::fs::write(run.join("deck.toml"), deck.to_toml()).unwrap();
    let mut journal = String::new();
    for step in 1..=5u64 {
        let record = Record {
            step,
            loss: 6.0 - step as f64,
            tokens_per_s: 1000.0 * step as f64,
            exposed_s: 0.1,
            step_s: 0.4,
            bytes_inter: 1_500_000,
            ..Record::default()
        };
        journal += &(record.json() + "\n");
    }
    let valid = Validation { step: 5, valid_loss: std::f64::consts::LN_2, bits_per_byte: 1.0, ..Validation::default() };
    journal += &(valid.json() + "\n{\"step\": 6, \"lo");
    std::fs::write(run.join("metrics.jsonl"), journal).unwrap();
    let output = tawpipe(folder.path(), &["report", "run"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in ["tawpipe", "1.0000", "0.6931", "1.000", "4000", "1.50", "25.0", "Witten-Bell, 3 bytes", "loss.svg"] {
        assert!(text.contains(words), "no {words:?} in:\n{text}");
    }
    let svg = std::fs::read_to_string(run.join("loss.svg")).unwrap();
    for words in ["bits per byte", "step", "training", "validation", "Witten-Bell, 4 bytes of context"] {
        assert!(svg.contains(words), "no {words:?} in the drawing");
    }
    refused(folder.path(), &["report", "elsewhere"], &["elsewhere: cannot read", "No such file"]);
}

/// A Hugging Face folder becomes a checkpoint and a folder again, with the same numbers; `inspect` reads all three;
/// nothing is overwritten.
#[test]
#[cfg(feature = "hdf5")]
fn models_are_imported_and_exported() {
    use tawpipe::checkpoint::{open, tensors};
    let folder = tempfile::tempdir().unwrap();
    let hf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/b_gqa2/init");
    let hf = hf.to_str().unwrap();
    tawpipe(folder.path(), &["import", hf, "--out", "model"]).assert().success();
    tawpipe(folder.path(), &["export", "model/step_0.h5", "--out", "hf"]).assert().success();
    let (before, after) = (open(Path::new(hf)).unwrap(), open(&folder.path().join("hf")).unwrap());
    assert_eq!(before.shape(), after.shape());
    for param in tensors(before.shape()) {
        let read = |source: &dyn tawpipe::checkpoint::Source| {
            let mut values = vec![0.0; param.len()];
            source.read(&param.name, 0, &mut values).unwrap();
            values
        };
        assert_eq!(read(&*before), read(&*after), "{}", param.name);
    }
    for file in [hf, "model/step_0.h5", "hf"] {
        tawpipe(folder.path(), &["inspect", file]).assert().success();
    }
    refused(folder.path(), &["import", hf, "--out", "model"], &["step_0.h5", "nothing was written"]);
    refused(folder.path(), &["export", "model/step_0.h5", "--out", "hf"], &["hf", "nothing was written"]);
    refused(folder.path(), &["inspect", "missing.h5"], &["missing.h5", "No such file"]);
}
