//! The numbers of a row of the journal are those that its documentation says.
#![cfg(feature = "hdf5")]

use tawpipe::metrics::Record;
use tawpipe::train::learning_rate;

use super::world::{deck, groups, program};

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
