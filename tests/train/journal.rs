//! The numbers of a row of the journal are those that its documentation says.
#![cfg(feature = "hdf5")]

use tawpipe::metrics::Record;
use tawpipe::train::learning_rate;

use super::world::{deck, groups, program};

/// Validations and checkpoints come after every so many steps, and after the last one.
#[test]
fn validations_and_checkpoints_are_regular() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let path = format!("run.folder={run:?}");
    let sets = [path.as_str(), "run.validate_every=2", "run.checkpoint_every=3", "data.valid=0.01"];
    let history = program(&deck(TEXT, &[1], &sets), false);
    let steps: Vec<u64> = history.validations.iter().map(|validation| validation.step).collect();
    assert_eq!(steps, [2, 4, 5]);
    let files = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["step_3.h5", "step_5.h5"]);
}

/// The loss of a validation is the mean over all its tokens, also where the last batch is not full: 12 sequences give the same
/// with batches of 8 and of 4. The learning rate is so small that no weight changes.
#[test]
fn validation_is_a_mean_over_tokens() {
    let loss = |global: usize| {
        let folder = tempfile::tempdir().unwrap();
        let sets = [
            format!("run.folder={:?}", folder.path().join("run")),
            format!("batch.global={global}"),
            // 96 tokens and the target of the last one, of 10241.
            format!("data.valid={}", 97.5 / 10241.0),
            "optim.lr=1e-30".into(),
            "run.steps=1".into(),
        ];
        let sets = sets.each_ref().map(String::as_str);
        let validations = program(&deck(TEXT, &[2], &sets), false).validations;
        assert_eq!(validations.len(), 1);
        validations[0].valid_loss
    };
    let (ragged, full) = (loss(8), loss(4));
    assert!((ragged - full).abs() < 1e-6 * full && full > 1.0, "{ragged} and {full}");
}

const TEXT: &str = r#"
    model = { dim = 16, layers = 4, heads = 2, ffn = 24, vocab = 256 }
    data = { tokens = "tests/data/parity/a_mha4/tokens.bin", token_type = "i32", seq = 8 }
    batch = { global = 8, micro = 1 }
    optim = { lr = 3e-3, schedule = "cosine", warmup = 2 }
    run = { steps = 5, seed = 5, checkpoint_every = 0 }
"#;

/// Speed is tokens over time, of all ranks and of one; model FLOPs utilisation follows from it, with the same peak in every
/// row; the learning rate is that of the step; the memory is that of one rank, not a sum over ranks.
#[test]
fn rows_say_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("run.folder={:?}", folder.path().join("run"));
    let deck = deck(TEXT, &[2, 2], &[&path]);
    let rows: Vec<Record> = program(&deck, false).steps;
    assert_eq!(rows.len(), 5);
    let near =
        |found: f64, wanted: f64| assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{found} instead of {wanted}");
    let job = deck.job(deck.model.shape().unwrap(), groups(&deck)).unwrap();
    let peak = |row: &Record, causal| row.tokens_per_s * job.shape.flops_per_token(8, causal);
    for (number, row) in (1..).zip(&rows) {
        assert_eq!((row.step, row.tokens), (number, number * 64));
        near(row.tokens_per_s, 64.0 / row.step_s);
        near(row.tokens_per_s_rank, row.tokens_per_s / 4.0);
        near(row.lr, learning_rate(&deck.optim, number - 1, 5));
        near(peak(row, true) / row.mfu, peak(&rows[0], true) / rows[0].mfu);
        near(peak(row, false) / row.mfu_full, peak(row, true) / row.mfu);
        assert!(row.mfu > 0.0 && row.exposed_s >= 0.0 && row.exposed_s <= row.step_s, "{row:?}");
        assert!(row.bytes_intra > 0 && row.bytes_inter > 0, "{row:?}");
    }
    // All ranks are threads of this process, so that each has the memory of all; a sum would be four times as much.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let now = line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024;
    let last = rows[4].memory_peak;
    assert!(last <= now && last > now / 4, "{last} bytes in the journal, {now} now");
}
