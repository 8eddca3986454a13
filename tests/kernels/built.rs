//! What kernels/ builds for tests: found by make, built when something changed. Needs make, g++ and python3 alone, so that
//! other tests may include this file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Builds a goal of kernels/Makefile; returns the folder of what it makes for the emulator.
fn built(goal: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    std::fs::create_dir_all(&out).expect("a folder of the build can be made");
    // Two makes in one folder would disturb each other: another test program's is waited for.
    let turn = std::fs::File::create(out.join("turn")).and_then(|turn| turn.lock().map(|()| turn));
    let _turn = turn.expect("the folder can be locked");
    let made = Command::new("make")
        .args(["--no-print-directory", "-j2", "-C"])
        .arg(folder)
        .arg(goal)
        .arg(format!("OUT={}", out.display()))
        .env_remove("MAKEFLAGS")
        .output()
        .expect("make can be run");
    assert!(made.status.success(), "the kernels do not compile:\n{}", String::from_utf8_lossy(&made.stderr));
    out.join("emu")
}

/// The library of kernels that the emulator runs, watched for races.
pub fn emulator() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| built("emu")).join("libkernels.so")
}

/// The folder of the emulated driver: with it as `LD_LIBRARY_PATH`, and its `modules` as `TAWPIPE_KERNELS`, a program sees
/// GPUs. See kernels/README.md for the variables that change them.
pub fn emulated_driver() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| built("driver")).join("driver")
}
