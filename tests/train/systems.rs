//! Every system of the table trains the same model to the same losses.

use std::path::Path;

use tawpipe::metrics::History;
use tawpipe::plan::systems::{SYSTEMS, schedule};

use super::world::{deck, program, train};

/// A model that every system can cut up to six ways, and micro-batches for all of them.
const TEXT: &str = r#"
    model = { dim = 16, layers = 12, heads = 2, kv_heads = 1, ffn = 24, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 8 }
    batch = { global = 12, micro = 1 }
    optim = { lr = 3e-3, schedule = "constant" }
    run = { steps = 20, seed = 5 }
"#;

/// Keys of the model's plain variant.
const PLAIN: &[&str] = &["model.tied=false", "run.recompute=none"];

/// And of the other.
const TIED: &[&str] = &["model.tied=true", "run.recompute=block"];

/// 2, 4 and 6 ranks in groups that are equal, as some systems ask.
const RUNS: [(&[usize], &[&str]); 5] =
    [(&[1, 1], PLAIN), (&[2, 2], PLAIN), (&[3, 3], PLAIN), (&[1, 1], TIED), (&[2, 2, 2], TIED)];

fn near(ours: &[f64], single: &[f64]) -> Result<(), String> {
    let same = ours.len() == single.len() && ours.iter().zip(single).all(|(a, b)| ((a - b) / b).abs() <= 2e-6);
    if same { Ok(()) } else { Err(format!("losses {ours:?} instead of {single:?}")) }
}

/// The losses of a run of the whole program.
fn losses(folder: &Path, groups: &[usize], sets: &[&str]) -> Vec<f64> {
    let folder = format!("run.folder={folder:?}");
    let history: History = program(&deck(TEXT, groups, &[sets, &[&folder]].concat()), false);
    history.steps.iter().map(|record| record.loss).collect()
}

/// Why a system cannot run here, if it cannot: its own words.
fn refusal(groups: &[usize], sets: &[&str]) -> Option<String> {
    let deck = deck(TEXT, groups, sets);
    let job = deck.job(deck.model.shape().unwrap(), super::world::groups(&deck)).unwrap();
    schedule(&job).err().map(|refusal| refusal.to_string())
}

/// Every system with its default options: 20 steps in f32 at 2, 4 and 6 ranks give `single`'s losses to 2e-6, also with
/// recomputation and a tied head. A system sits out only where it refuses, and every one makes all runs but one at least.
#[test]
fn every_system_trains_like_single() {
    let folder = tempfile::tempdir().unwrap();
    let single = [PLAIN, TIED].map(|variant| {
        let losses = losses(&folder.path().join(variant[0]), &[1], variant);
        assert!(losses[19] < losses[0], "does not learn: {losses:?}");
        (variant, losses)
    });
    for entry in SYSTEMS.iter().filter(|entry| entry.name != "single") {
        let name = format!("system.name={}", entry.name);
        let mut ran = 0;
        for (number, (groups, variant)) in RUNS.into_iter().enumerate() {
            let sets = [variant, &[&name[..]][..]].concat();
            if let Some(why) = refusal(groups, &sets) {
                println!("{}, {groups:?}, {variant:?}: {why}", entry.name);
                continue;
            }
            let ours = losses(&folder.path().join(format!("{} {number}", entry.name)), groups, &sets);
            let (_, single) = single.iter().find(|(other, _)| *other == variant).expect("both variants");
            near(&ours, single).unwrap_or_else(|e| panic!("{}, {groups:?}, {variant:?}: {e}", entry.name));
            ran += 1;
        }
        assert!(ran + 1 >= RUNS.len(), "{} ran {ran} times only", entry.name);
    }
}

/// Options change memory and messages, but no loss and no gradient: each on ranks of which some have less to do.
#[test]
fn options_change_no_loss() {
    let options: [&[&str]; 8] = [
        &["system.name=ddp", "system.zero1=true"],
        &["system.name=ddp", "system.blocks_per_shard=5"],
        &["system.name=fsdp", "system.sync=iteration", "system.prefetch=3"],
        &["system.name=fsdp", "system.reshard_after_forward=false"],
        &["system.name=fsdp", "system.blocks_per_shard=5"],
        &["system.name=hsdp", "system.sync=round"],
        &["system.name=hsdp", "system.reshard_after_forward=false", "system.prefetch=2"],
        &["system.name=hsdp", "system.blocks_per_shard=4"],
    ];
    let common = ["run.steps=4", "batch.global=9", "model.layers=6"];
    let single = train(&deck(TEXT, &[1], &common), |_| {});
    for sets in options {
        let uneven: &[usize] = if sets[0].ends_with("hsdp") { &[2, 2] } else { &[1, 3] };
        for groups in [uneven, &[1, 1]] {
            let ours = train(&deck(TEXT, groups, &[sets, &common].concat()), |_| {});
            near(&ours.losses, &single.losses).unwrap_or_else(|e| panic!("{sets:?}, {groups:?}: {e}"));
            assert!(ours.gradients.keys().eq(single.gradients.keys()), "{sets:?}: {:?}", ours.gradients.keys());
            for (name, norm) in &single.gradients {
                let ours = ours.gradients[name];
                assert!((ours - norm).abs() <= 2e-6 * norm, "{sets:?}, {groups:?}: {name} {ours} instead of {norm}");
            }
        }
    }
}
