//! The emulator finds what a GPU would only sometimes show.

use crate::emulator::Emulator;
use tawpipe::device::cuda::{Arg, Launch};

use crate::support::{Buffer, Random};

/// What a reader finds who comes too early or just in time.
const UNORDERED: &[&str] = &["race", "which nobody wrote"];

/// Each racy kernel with words of which its complaint must hold some.
const RACY: &[(&str, &[&str])] = &[
    ("missing_barrier", UNORDERED),
    ("missing_second_barrier", UNORDERED),
    ("missing_syncwarp", UNORDERED),
    ("missing_copy_wait", &["under way"]),
    ("missing_barrier_after_copy", UNORDERED),
    ("early_copy", &["race", "under way"]),
    ("divergent_barrier", &["nobody can go on"]),
    ("divergent_shuffle", &["nobody can go on"]),
    ("overlapping_blocks", &["another block"]),
    ("plain_among_atomics", &["race"]),
    ("in_place", UNORDERED),
    ("out_of_range", &["beyond the end of an argument"]),
    ("uninitialised", &["which nobody wrote"]),
    ("misaligned", &["no multiple of 16"]),
    ("shared_too_small", &["of shared memory"]),
];

/// Every kernel in kernels/emu/racy is caught, in every order of threads.
#[test]
fn defects_are_found() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emu/racy");
    let committed = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(committed, RACY.len(), "each racy kernel is in the table");
    for (name, words) in RACY {
        for seed in 0..20 {
            let (x, out) = (Random::new(seed).buffer(64, tawpipe::model::Dtype::F32), Buffer::f32(&[0.0; 64]));
            let mut args = vec![x.view().into()];
            if *name != "in_place" {
                args.push(out.view().into());
            }
            let grid = [if *name == "overlapping_blocks" { 2 } else { 1 }, 1, 1];
            let shared = if *name == "shared_too_small" { 128 } else { 0 };
            let launch = Launch { kernel: format!("racy_{name}"), grid, block: 64, shared, args };
            let complaint = Emulator::new(seed).run(&launch).expect_err(name);
            assert!(words.iter().any(|words| complaint.contains(words)), "{name}: {complaint}");
        }
    }
}

/// A launch that does not fit its kernel is refused.
#[test]
fn wrong_launches_are_refused() {
    let out = Buffer::f32(&[1.0; 64]);
    let good = Launch {
        kernel: "clear".into(),
        grid: [1, 1, 1],
        block: 256,
        shared: 0,
        args: vec![out.view().into(), Arg::I64(256)],
    };
    let emulator = Emulator::new(1);
    emulator.run(&good).unwrap();
    let mistakes = [
        (Launch { kernel: "clean".into(), ..good.clone() }, "no such kernel"),
        (Launch { block: 128, ..good.clone() }, "another number of threads"),
        (Launch { shared: 1 << 20, ..good.clone() }, "more shared memory"),
        (Launch { grid: [1, 65536, 1], ..good.clone() }, "at most 65535"),
        (Launch { grid: [2, 1, 1], args: vec![out.view().into(), Arg::I64(4100)], ..good }, "beyond the end"),
    ];
    for (launch, words) in mistakes {
        let complaint = emulator.run(&launch).expect_err(words);
        assert!(complaint.contains(words), "{complaint}");
    }
}
