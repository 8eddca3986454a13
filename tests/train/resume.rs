//! Stopping and continuing, also on other ranks.
#![cfg(feature = "hdf5")]

use std::path::Path;

use tawpipe::deck::{CostSource, Deck};
use tawpipe::metrics::History;

use super::world::{deck, program};

const TEXT: &str = r#"
    model = { dim = 32, layers = 5, heads = 4, kv_heads = 2, ffn = 48, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 24 }
    batch = { global = 12, micro = 2 }
    optim = { lr = 3e-3, schedule = "constant" }
    run = { steps = 9, seed = 3, checkpoint_every = 3, keep = 2 }
"#;

fn go(folder: &Path, groups: &[usize], steps: u64, resume: bool) -> History {
    let sets = [format!("run.folder={folder:?}"), format!("run.steps={steps}")];
    program(&deck(TEXT, groups, &[&sets[0], &sets[1]]), resume)
}

fn losses(history: &History) -> Vec<f64> {
    history.steps.iter().map(|record| record.loss).collect()
}

/// Interrupted and continued on the same ranks: not one bit differs from the run that was not.
#[test]
fn continues_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let whole = go(&folder.path().join("whole"), &[2, 2], 9, false);
    let part = folder.path().join("part");
    go(&part, &[2, 2], 4, false);
    assert!(part.join("DONE").exists());
    let both = go(&part, &[2, 2], 9, true);
    let bits = |history: &History| losses(history).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(&both), bits(&whole));
    assert_eq!(both.steps.iter().map(|record| record.step).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
}

/// `run.checkpoint = false`: the run ends as any other, and has written no checkpoint; a deck that also says how often to write one
/// contradicts itself.
#[test]
fn a_run_may_write_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let sets = [&format!("run.folder={run:?}"), "run.checkpoint=false", "run.checkpoint_every=0", "run.steps=2"];
    let history = program(&deck(TEXT, &[2], &sets), false);
    assert_eq!(history.steps.len(), 2);
    assert!(run.join("DONE").exists());
    assert_eq!(std::fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count), 0);

    let error = Deck::parse(TEXT, Path::new("deck.toml"), &["run.checkpoint=false".into()]).unwrap_err().to_string();
    assert!(error.contains("run.checkpoint = false excludes run.checkpoint_every = 3"), "{error}");
}

/// What `tawpipe` chooses is written into the run's deck, and stays when the run goes on with less memory, or is given another
/// default; an option that is set wins over it.
#[test]
fn a_choice_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let part = folder.path().join("part");
    let train = |steps: u64, more: &[&str]| {
        let own = [format!("run.folder={part:?}"), format!("run.steps={steps}")];
        let sets: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        program(&deck(TEXT, &[2, 2], &sets), steps > 1);
        let text = std::fs::read_to_string(part.join("deck.toml")).unwrap();
        let system = text.parse::<toml::Table>().unwrap()["system"].clone();
        ["hop", "weight_cache", "grad_sync"].map(|key| system[key].as_str().unwrap().to_string())
    };
    assert_eq!(train(1, &[]), ["direct", "group", "iteration"]);
    let least = {
        let job = deck(TEXT, &[2, 2], &["system.auto=false"]);
        let job = job.job(job.model.shape().unwrap(), super::world::groups(&job)).unwrap();
        tawpipe::plan::systems::schedule(&job).unwrap().peak()
    };
    let tight = format!("cluster.memory={}", least + 10_000_000);
    assert_eq!(train(2, &[&tight]), ["direct", "group", "iteration"]);
    assert_eq!(train(3, &["system.weight_cache=none"]), ["direct", "none", "iteration"]);
    assert_eq!(train(4, &[]), ["direct", "none", "iteration"], "as the run did before");
    // A new run within exactly the memory that the smallest way needs takes that.
    let exact = [format!("cluster.memory={least}"), format!("run.folder={:?}", folder.path().join("new"))];
    program(&deck(TEXT, &[2, 2], &[&exact[0], &exact[1], "run.steps=1"]), false);
    let text = std::fs::read_to_string(folder.path().join("new/deck.toml")).unwrap();
    assert!(text.contains("weight_cache = \"none\"") && text.contains("grad_sync = \"round\""), "{text}");
}

/// Four ranks, then two, then six, in other groups: the losses of one undisturbed run to 2e-6.
#[test]
fn continues_on_other_worlds() {
    let folder = tempfile::tempdir().unwrap();
    let whole = losses(&go(&folder.path().join("whole"), &[1], 9, false));
    let part = folder.path().join("part");
    go(&part, &[2, 2], 3, false);
    go(&part, &[2], 6, true);
    let moved = losses(&go(&part, &[1, 2, 3], 9, true));
    assert_eq!(moved.len(), 9);
    for (a, b) in moved.iter().zip(&whole) {
        assert!((a - b).abs() <= 2e-6 * b, "{moved:?}, {whole:?}");
    }
    // Older checkpoints than `keep` are gone.
    let mut left: Vec<_> =
        std::fs::read_dir(part.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["step_6.h5", "step_9.h5"]);
}

/// What one system wrote another continues from, whatever each keeps where: whole shards, pieces, stripes, stages, copies.
#[test]
fn continues_under_other_systems() {
    let folder = tempfile::tempdir().unwrap();
    let whole = losses(&go(&folder.path().join("whole"), &[1], 9, false));
    let part = folder.path().join("part");
    let mut done = Vec::new();
    let parts: [(u64, &[usize], &[&str]); 8] = [
        (1, &[2, 2], &["system.name=fsdp"]),
        (2, &[3], &["system.name=1f1b"]),
        (3, &[2, 2], &["system.name=tawpipe", "system.stripe=true"]),
        (4, &[2, 1], &["system.name=ddp", "system.zero1=true"]),
        (5, &[2], &["system.name=zb-v"]),
        (6, &[1, 2], &["system.name=weipipe"]),
        (7, &[2, 2], &["system.name=hsdp"]),
        (9, &[2], &["system.name=ddp"]),
    ];
    for (steps, groups, system) in parts {
        let own = [format!("run.folder={part:?}"), format!("run.steps={steps}")];
        let sets: Vec<&str> = own.iter().map(String::as_str).chain(system.iter().copied()).collect();
        done = losses(&program(&deck(TEXT, groups, &sets), steps > 1));
    }
    assert_eq!(done.len(), 9);
    for (a, b) in done.iter().zip(&whole) {
        assert!((a - b).abs() <= 2e-6 * b, "{done:?}, {whole:?}");
    }
}

/// A damaged newest checkpoint is passed over: the run goes on from the one before, and the journal is cut there.
#[test]
fn passes_over_a_damaged_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = go(&folder.path().join("whole"), &[1, 1], 9, false);
    let part = folder.path().join("part");
    go(&part, &[1, 1], 6, false);
    let newest = part.join("checkpoints/step_6.h5");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&newest, bytes).unwrap();
    assert_eq!(losses(&go(&part, &[1, 1], 9, true)), losses(&whole));
}

/// Measured costs are written into the run's deck as numbers, and a continued run plans by the same numbers, not by new ones.
#[test]
fn costs_are_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let go = |steps: u64, resume| {
        let sets = [format!("run.folder={:?}", folder.path().join("run")), format!("run.steps={steps}")];
        program(&deck(TEXT, &[1, 1], &[&sets[0], &sets[1], "cluster.costs=measure"]), resume);
        let written = Deck::read(&folder.path().join("run/deck.toml"), &[]).unwrap();
        match written.cluster.costs {
            CostSource::Given(costs) => costs,
            other => panic!("{other:?}"),
        }
    };
    let costs = go(3, false);
    assert!(costs.valid() && costs.hop > 0.0 && costs.head.total() > 0.0, "{costs:?}");
    assert_eq!(go(4, true), costs);
}

/// A plan that needs more memory than the deck allows is refused before anything runs, with both numbers.
#[test]
fn too_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let set = format!("run.folder={:?}", folder.path().join("run"));
    let deck = deck(TEXT, &[1], &[&set, "cluster.memory='0.25 MiB'"]);
    let refused = std::panic::catch_unwind(|| program(&deck, false)).unwrap_err();
    let text = refused.downcast_ref::<String>().unwrap();
    assert!(text.contains("cluster.memory allows 262 kB (256 KiB)") && text.contains("the plan needs"), "{text}");
    assert!(!folder.path().join("run").exists());
}
