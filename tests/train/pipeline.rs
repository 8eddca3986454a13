//! Pipelines train to the losses of `single`.

use super::world::{Outcome, deck, program, train};

const SYSTEMS: [&str; 8] = ["gpipe", "1f1b", "1f1b-interleaved", "zb-h1", "zb-h2", "zb-1p", "zb-2p", "zb-v"];

/// Seven micro-batches, which neither 2 nor 3 nor 4 divides.
fn text(model: &str) -> String {
    format!(
        r#"
        model = {{ dim = 32, heads = 4, kv_heads = 2, ffn = 48, {model} }}
        data = {{ tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 24 }}
        batch = {{ global = 14, micro = 2 }}
        optim = {{ lr = 3e-3, warmup = 2, schedule = "linear" }}
        run = {{ steps = 4, seed = 3 }}
        "#
    )
}

fn agree(ours: &[f64], single: &[f64], what: &str) {
    assert_eq!(ours.len(), single.len(), "{what}");
    for (a, b) in ours.iter().zip(single) {
        assert!((a - b).abs() <= 2e-6 * b.abs(), "{what}: {ours:?}, {single:?}");
    }
}

/// Every pipeline on 1 to 4 ranks in several groups, with recomputation and without, tied and untied: each loss and each
/// gradient norm of a few steps.
#[test]
fn pipelines_train_as_single_does() {
    let models = [("layers = 6, vocab = 257, tied = true", "block"), ("layers = 7, vocab = 256, tied = false", "none")];
    for (model, recompute) in models {
        let recompute = format!("run.recompute={recompute}");
        let go = |groups: &[usize], system: &str, more: &str| -> Outcome {
            train(&deck(&text(model), groups, &[&recompute, &format!("system.name={system}"), more]), |_| {})
        };
        let single = go(&[1], "single", "run.steps=4");
        assert!(single.losses[3] < single.losses[0], "{model} does not learn: {:?}", single.losses);
        let worlds: [&[usize]; 4] = [&[1], &[2], &[1, 2], &[2, 2]];
        for system in SYSTEMS {
            let blocks = ["gpipe", "1f1b", "1f1b-interleaved"].contains(&system);
            for (index, groups) in worlds.into_iter().enumerate() {
                let more = if blocks && index % 2 == 0 { "system.blocking=true" } else { "run.steps=4" };
                let ours = go(groups, system, more);
                let what = format!("{system}, {more}, {model}, groups {groups:?}");
                agree(&ours.losses, &single.losses, &what);
                agree(&ours.norms, &single.norms, &what);
                for (name, norm) in &single.gradients {
                    agree(&[ours.gradients[name]], &[*norm], &format!("{what}: gradient of {name}"));
                }
            }
        }
    }
}

/// The whole program with a tied head and a validation
/// at the end: the validation loss is that of `single`.
#[test]
fn pipelines_validate_as_single_does() {
    let folder = tempfile::tempdir().unwrap();
    let valid = |system: &str, groups: &[usize]| -> f64 {
        let sets = [
            format!("run.folder={:?}", folder.path().join(system)),
            format!("system.name={system}"),
            "data.valid=0.1".to_string(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let history = program(&deck(&text("layers = 4, vocab = 256, tied = true"), groups, &sets), false);
        history.validations[0].valid_loss
    };
    let single = valid("single", &[1]);
    for system in ["1f1b", "1f1b-interleaved", "zb-2p", "zb-v"] {
        agree(&[valid(system, &[1, 2])], &[single], system);
    }
}
