//! The built program on processors that this machine is not: emulated ones of several instruction sets train the first steps
//! of a small model, in f32 and bf16, and find the losses of this processor, which tests/train compares with PyTorch's; and
//! oneDNN that may use fewer instructions than there are is left alone instead of failing.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// SSE4, AVX2, and all that the emulator knows.
const PROCESSORS: [&str; 3] = ["Nehalem", "Haswell", "max"];

/// Steps that are compared.
const STEPS: usize = 2;

/// A folder with a deck of one type. An emulated processor adds and multiplies some thousand times slower, so all is small.
fn deck(folder: &Path, dtype: &str) -> PathBuf {
    let tokens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/a_mha4/tokens.bin");
    let text = format!(
        r#"
        model = {{ dim = 32, layers = 2, heads = 4, kv_heads = 2, ffn = 48, vocab = 256 }}
        data = {{ tokens = "{}", token_type = "i32", order = "sequential", seq = 24 }}
        batch = {{ global = 2, micro = 1 }}
        optim = {{ lr = 1e-3, schedule = "constant" }}
        run = {{ steps = {STEPS}, dtype = "{dtype}", folder = "run", threads = 1, device = "cpu" }}
        "#,
        tokens.display()
    );
    let path = folder.join("deck.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Losses of the run that `command` starts, to which the arguments are added; and what it said.
fn losses(mut command: Command, dtype: &str) -> (Vec<f64>, String) {
    let folder = tempfile::tempdir().unwrap();
    let deck = deck(folder.path(), dtype);
    let output = command.arg("train").arg(deck).arg("--json").current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {:?}\n{said}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    let rows = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    (rows.filter_map(|row| row["loss"].as_f64()).collect(), said)
}

/// What this processor finds, as the program runs by default.
fn expected(dtype: &str) -> Vec<f64> {
    losses(Command::new(env!("CARGO_BIN_EXE_tawpipe")), dtype).0
}

/// Sums in another order move the last bits of f32, and bf16 has 8.
fn check(what: &str, dtype: &str, losses: &[f64]) {
    let tolerance = if dtype == "f32" { 2e-6 } else { 1e-3 };
    let expected = expected(dtype);
    assert_eq!((losses.len(), expected.len()), (STEPS, STEPS), "{what}");
    for (a, b) in losses.iter().zip(expected) {
        assert!(((a - b) / b).abs() <= tolerance, "{what}, {dtype}: loss {a} instead of {b}");
    }
}

/// Whatever an instruction set lacks, both types train to the reference's losses on it.
#[test]
fn every_instruction_set_trains_to_the_same_losses() {
    let there = Command::new("qemu-x86_64").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there || !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return common::skip("no qemu-x86_64", "`scripts/deps.sh test` installs it (Debian package qemu-user)");
    }
    std::thread::scope(|scope| {
        for dtype in ["f32", "bf16"] {
            scope.spawn(move || {
                for processor in PROCESSORS {
                    let mut command = Command::new("qemu-x86_64");
                    command.args(["-cpu", processor, env!("CARGO_BIN_EXE_tawpipe")]);
                    let (losses, _) = losses(command, dtype);
                    check(processor, dtype, &losses);
                }
            });
        }
    });
}

fn no_onednn() {
    common::skip(
        "no oneDNN that multiplies bf16 on this processor",
        "`scripts/deps.sh` installs it where the processor has AVX-512",
    );
}

/// A oneDNN that is told to use AVX2 only has no bf16 there: it is not used, whether found or named, and training goes on.
#[test]
fn onednn_without_bf16_is_not_used() {
    let Some(library) = tawpipe::device::cpu::library_path() else {
        return no_onednn();
    };
    for choice in ["", &library] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
        command.env("DNNL_MAX_CPU_ISA", "AVX2").env("TAWPIPE_ONEDNN", choice);
        let (losses, said) = losses(command, "bf16");
        check("AVX2", "bf16", &losses);
        assert!(choice.is_empty() || said.contains("is not used on this processor"), "{said}");
        assert!(!said.contains("multiplied by oneDNN"), "{said}");
    }
}

/// The environment chooses the library: `off`, or one by its path, which then is used also where the program has faster
/// code of its own; anything else is refused in one line.
#[test]
fn the_environment_chooses_the_library() {
    let with = |choice: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
        command.env("TAWPIPE_ONEDNN", choice);
        command
    };
    let (off, said) = losses(with("off"), "bf16");
    check("off", "bf16", &off);
    assert!(!said.contains("oneDNN"), "{said}");
    let mut nowhere = with("/nowhere/libdnnl.so");
    let output = nowhere.args(["train", "deck.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("TAWPIPE_ONEDNN: /nowhere/libdnnl.so") && said.contains("\"off\""), "{said}");
    let (Some(library), Some(name)) = (tawpipe::device::cpu::library_path(), tawpipe::device::cpu::library()) else {
        return no_onednn();
    };
    let (named, said) = losses(with(&library), "bf16");
    check("named", "bf16", &named);
    assert!(said.contains(&format!("bf16 matrices are multiplied by {name}")), "{said}");
}
