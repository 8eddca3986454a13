//! Other world sizes, group shapes and model shapes: the same losses; two runs: the same bits.

use super::world::{data, deck, program, train};

fn text(model: &str) -> String {
    format!(
        r#"
        model = {{ dim = 32, heads = 4, kv_heads = 2, ffn = 48, {model} }}
        data = {{ tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 24 }}
        batch = {{ global = 14, micro = 2 }}
        optim = {{ lr = 3e-3, warmup = 2, schedule = "linear" }}
        run = {{ steps = 5, seed = 3 }}
        "#
    )
}

/// Each rank count, with groups, meets several models: 1, 5 and 13 blocks, tied and untied, a prime vocabulary.
#[test]
fn same_losses_in_every_world() {
    assert!(data("parity/a_mha4/tokens.bin").exists());
    let models = [
        "layers = 1, vocab = 257, tied = false",
        "layers = 5, vocab = 257, tied = true",
        "layers = 13, vocab = 256, tied = false",
    ];
    let worlds: [&[usize]; 6] = [&[2], &[1, 2], &[4], &[5], &[1, 2, 3], &[3, 3]];
    for model in models {
        let single = train(&deck(&text(model), &[1], &[]), |_| {});
        assert!(single.losses[4] < single.losses[0], "{model} does not learn: {:?}", single.losses);
        for groups in worlds {
            let ours = train(&deck(&text(model), groups, &[]), |_| {});
            for (a, b) in ours.losses.iter().zip(&single.losses) {
                assert!(
                    (a - b).abs() <= 2e-6 * b,
                    "{model}, groups {groups:?}: {:?}, {:?}",
                    ours.losses,
                    single.losses
                );
            }
        }
    }
}

/// The same deck on the same cluster gives the same bits, whatever the threads did in between.
#[test]
fn two_runs_agree_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let losses = |name: &str| {
        let path = format!("run.folder={:?}", folder.path().join(name));
        let deck = deck(&text("layers = 3, vocab = 256"), &[1, 3], &[&path, "data.valid=0.1"]);
        let history = program(&deck, false);
        let bits = |x: f64| x.to_bits();
        let steps: Vec<_> = history.steps.iter().map(|r| (bits(r.loss), bits(r.grad_norm))).collect();
        let valid: Vec<_> = history.validations.iter().map(|v| bits(v.valid_loss)).collect();
        assert_eq!((steps.len(), valid.len()), (5, 1));
        (steps, valid)
    };
    assert_eq!(losses("one"), losses("two"));
}
