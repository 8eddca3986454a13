//! Numbers out of range, and memory that is not there: refused before anything is allocated.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{folder, refused, run, tawpipe};

/// A number that is too large is refused by whoever reads it, with the key and its range.
#[test]
fn numbers_have_ranges() {
    let folder = folder();
    let cases: &[(&str, &[&str])] = &[
        ("run.wall_time=1e20", &["run.wall_time", "at most 1e9"]),
        ("run.timeout=1e20", &["run.timeout", "at most 1e9"]),
        ("run.threads=10000", &["run.threads = 10000", "from 1 to 1024"]),
        ("run.threads=0", &["run.threads = 0", "from 1 to 1024"]),
        ("run.steps=0", &["run.steps = 0", "from 1 to"]),
        ("run.steps=9223372036854775807", &["run.steps", "from 1 to 1000000000000"]),
        ("run.keep=0", &["run.keep = 0"]),
        ("model.dim=1000000000000", &["model.dim", "from 1 to 1048576"]),
        ("model.layers=100000000", &["model.layers", "from 1 to 10000"]),
        ("model.vocab=9000000000000000000", &["model.vocab", "from 1 to 2147483647"]),
        ("model.ffn=99999999999", &["model.ffn"]),
        ("data.seq=9223372036854775807", &["data.seq", "from 1 to 16777216"]),
        ("batch.global=4294967296", &["batch.global", "from 1 to 1048576"]),
        ("batch.micro=0", &["batch.micro = 0"]),
        ("cluster.ranks_per_group=9999999", &["cluster.ranks_per_group", "from 1 to 65536"]),
        ("cluster.ranks_per_group=[65536, 65536]", &["cluster.ranks_per_group", "no more together"]),
        ("cluster.memory=1e30 GB", &["cluster.memory"]),
        ("optim.lr=1e300", &["optim.lr", "at most 1e30"]),
        ("optim.clip=1e300", &["optim.clip", "to 1e30"]),
        ("system.blocks_per_shard=9000000000000000000", &["system.blocks_per_shard", "from 0 to 1048576"]),
    ];
    for (set, words) in cases {
        for command in ["plan", "train"] {
            refused(tawpipe(folder.path(), &[command, "deck.toml"]).args(["--set", set]), words);
        }
    }
}

/// Sizes that are fine alone, but whose products are not.
#[test]
fn products_have_bounds() {
    let folder = folder();
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &["model.dim=1048576", "model.ffn=16777216", "model.layers=10000", "model.head_dim=64"],
            &["parameters", "at most"],
        ),
        (&["data.seq=16777216", "batch.global=1048576", "batch.micro=1048576", "model.dim=16384"], &["activations"]),
        (&["model.layers=10000", "batch.global=1048576", "batch.micro=1"], &["model.layers x", "at most"]),
        (&["run.steps=1000000000000", "data.seq=16777216", "batch.global=4"], &["run.steps x batch.global x data.seq"]),
    ];
    for (sets, words) in cases {
        let mut command = tawpipe(folder.path(), &["plan", "deck.toml"]);
        sets.iter().for_each(|set| _ = command.args(["--set", set]));
        let start = Instant::now();
        refused(&mut command, words);
        assert!(start.elapsed() < Duration::from_secs(10), "{sets:?} took {:?}", start.elapsed());
    }
}

/// Numbers of options and of a cluster.
#[test]
fn options_and_clusters_have_ranges() {
    let folder = folder();
    let machine = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/inputs/clusters/laptop.toml")).unwrap();
    let with = |old: &str, new: &str| {
        assert!(machine.contains(old), "{machine}");
        std::fs::write(folder.path().join("machine.toml"), machine.replacen(old, new, 1)).unwrap();
    };
    let count = machine.lines().find(|line| line.starts_with("count = ")).unwrap();
    with(count, "count = 9000000000000000000");
    refused(
        &mut tawpipe(folder.path(), &["plan", "deck.toml", "--cluster", "machine.toml"]),
        &["machine.toml", "65536 ranks"],
    );
    let latency = machine.lines().find(|line| line.starts_with("latency = ")).unwrap();
    with(latency, "latency = 1e300");
    refused(&mut tawpipe(folder.path(), &["plan", "deck.toml", "--cluster", "machine.toml"]), &["latency", "1e24"]);
    for args in [
        &["plan", "deck.toml", "--ranks", "4000000000"][..],
        &["plan", "deck.toml", "--groups", "1,4000000000"],
        &["generate", "run", "--tokens", "9000000000000000000"],
        &["generate", "run", "--temperature", "nan"],
        &["generate", "run", "--temperature", "1e30"],
        &["experiment", "e.toml", "--limit", "1e300"],
        &["experiment", "e.toml", "--limit", "nan"],
    ] {
        let (code, _, err) = run(&mut tawpipe(folder.path(), args));
        assert!(code == Some(2) && err.contains(args[args.len() - 2]), "{args:?}: {code:?} {err}");
    }
}

/// A shell's limit on the address space, in KiB.
fn limited(folder: &std::path::Path, kib: u64, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tawpipe")]);
    command.args(args).current_dir(folder).env("RUST_BACKTRACE", "0");
    command
}

/// A model that is larger than the machine, or than what the shell allows, is refused before its memory is allocated, in
/// one line that says how much is needed, how much there is, and who sets the bound.
#[test]
#[cfg(target_os = "linux")]
fn memory_that_is_not_there() {
    let folder = folder();
    let sets = ["--set", "model.layers=32", "--set", "model.heads=32", "--set"];
    let large = [&["train", "deck.toml", "--dry-run"][..], &sets, &["model.dim=4096"]].concat();
    let start = Instant::now();
    refused(&mut limited(folder.path(), 8_000_000, &large), &["needs 96.", "GiB of memory", "left"]);
    // Some 10 TB: more than any machine that tests run on.
    let larger = [&["train", "deck.toml"][..], &sets, &["model.dim=65536"]].concat();
    refused(&mut tawpipe(folder.path(), &larger), &["needs ", "GiB of memory", "left", "recompute"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(!folder.path().join("run").exists());
    // The shell's limit is named where it is what binds.
    let middle = [&["train", "deck.toml", "--dry-run"][..], &["--set", "model.dim=1024", "--set", "model.layers=24"]];
    refused(&mut limited(folder.path(), 4_000_000, &middle.concat()), &["ulimit -v has"]);
    // What fits still runs.
    let (code, _, err) = run(&mut limited(folder.path(), 8_000_000, &["train", "deck.toml", "--set", "run.steps=1"]));
    assert_eq!(code, Some(0), "{err}");
}

/// Memory that cannot be had after all: one line and code 1, no abort.
#[test]
#[cfg(target_os = "linux")]
fn an_allocation_that_fails_is_one_line() {
    let folder = folder();
    // A file of which the reader wants a copy that is larger than the limit.
    let file = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(3 << 30).unwrap();
    let args = ["tokenize", "text.txt", "--tokenizer", "tokenizer.json", "--out", "ids"];
    let (code, out, err) = run(&mut limited(folder.path(), 2_000_000, &args));
    assert!(matches!(code, Some(1 | 2)), "{code:?} {out} {err}");
    assert!(err.lines().count() == 1 && err.contains("memory"), "{err}");
}

/// A run shorter than its warm-up, or than the step that is traced, is remarked on and goes.
#[test]
#[cfg(feature = "hdf5")]
fn a_short_run_is_remarked_on() {
    let folder = folder();
    let args = ["train", "deck.toml", "--set", "run.steps=2", "--set", "optim.warmup=40", "--set", "run.trace=9"];
    let (code, _, err) = run(&mut tawpipe(folder.path(), &args));
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("optim.warmup = 40 is longer than run.steps = 2; the learning rate never reaches"), "{err}");
    assert!(err.contains("run.trace = 9 is beyond run.steps = 2"), "{err}");
    let journal = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let lr = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["lr"].as_f64();
    let rates: Vec<f64> = journal.lines().filter_map(lr).collect();
    assert_eq!(rates, [1e-3 / 40.0, 2e-3 / 40.0]);
}

/// The shipped deck as a smoke test of ten steps.
#[test]
fn the_shipped_deck_takes_few_steps() {
    let deck = concat!(env!("CARGO_MANIFEST_DIR"), "/inputs/kjv.toml");
    let folder = folder();
    let text = format!("data.text={}", folder.path().join("text.txt").display());
    let args = ["train", deck, "--dry-run", "--set", "run.steps=10", "--set", &text, "--set", "data.seq=8"];
    let (code, _, err) = run(tawpipe(folder.path(), &args).args(["--set", "run.device=cpu"]));
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("optim.warmup = 40 is longer than run.steps = 10"), "{err}");
    // It is meant for several ranks, and nobody has started them.
    assert!(err.contains("but this is one; start them with: mpirun -n 4 tawpipe train"), "{err}");
}

/// One process that nobody launched says how to start the ranks that a deck wants; `single` wants none.
#[test]
fn several_ranks_want_a_launcher() {
    let folder = folder();
    let run = |set: &str| run(&mut tawpipe(folder.path(), &["train", "deck.toml", "--dry-run", "--set", set]));
    for (set, words) in [
        (
            "system.name=fsdp",
            "system \"fsdp\" is meant for several ranks, but this is one; start them with: mpirun -n 2",
        ),
        ("cluster.ranks_per_group=2", "cluster.ranks_per_group is meant for several ranks, but this is one"),
    ] {
        let (code, _, err) = run(set);
        assert!(code == Some(0) && err.matches(words).count() == 1, "{set}: {err}");
    }
    let (code, _, err) = run("cluster.ranks_per_group=[1, 2]");
    assert!(code == Some(2) && err.contains("start them with: mpirun -n 3 tawpipe train deck.toml"), "{err}");
    let (code, _, err) = run("system.name=single");
    assert!(code == Some(0) && !err.contains("mpirun"), "{err}");
}
