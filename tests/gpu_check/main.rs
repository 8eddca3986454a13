//! The scripts that check a GPU, on the emulated one: what they say of a machine that lacks something, and how a library that came
//! in parts is put together.
#![cfg(all(feature = "cuda", feature = "mpi", target_os = "linux"))]

#[path = "../kernels/built.rs"]
#[allow(dead_code, reason = "the file has more than this test needs")]
mod built;
#[path = "../common/mod.rs"]
mod common;
mod machine;
mod plans;

use std::path::Path;
use std::process::{Command, Output};

use tawpipe::plan::systems::SYSTEMS;

use crate::machine::{emulated, said, script, verdict};

/// Runs these steps, tiny, on the emulated driver, with the programs that cargo has built.
fn check(out: &Path, only: &str) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_tawpipe")).parent().unwrap();
    emulated(programs, out).args(["--only", only]).output().expect("python3 starts")
}

/// What a machine has no tool for is not run, which is neither good nor failed; what runs is compared with one rank. A step
/// that is done is not run again.
#[test]
fn what_cannot_be_run_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = check(&out, "a-memcheck,d-torch,d-profile,c-mpi-2-ddp,c-nccl-2-tawpipe");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for step in ["a-memcheck-ops", "a-memcheck-attention", "d-torch-attention", "d-torch-rows", "d-profile-attention"] {
        assert_eq!(verdict(&out, step).0, "not run", "{step}");
    }
    assert!(verdict(&out, "d-torch-rows").1.contains("no PyTorch"));
    for step in ["c-mpi-2-ddp", "c-nccl-2-tawpipe"] {
        assert_eq!(verdict(&out, step), ("good".into(), String::new()), "{}", said(&output));
    }
    let summary = std::fs::read_to_string(out.join("summary.md")).unwrap();
    assert!(summary.contains("| (c) Several ranks on this GPU against one rank | 2 good |"), "{summary}");
    assert!(summary.contains("| a-memcheck-ops | not run | compute-sanitizer needs a GPU |"), "{summary}");

    let done = std::fs::metadata(out.join("c-mpi-2-ddp.json")).unwrap().modified().unwrap();
    check(&out, "c-mpi-2-ddp");
    assert_eq!(std::fs::metadata(out.join("c-mpi-2-ddp.json")).unwrap().modified().unwrap(), done);
}

/// Every system of the program has its steps, on 2 and on 4 ranks, over both fabrics.
#[test]
fn every_system_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let code = "import sys; sys.path.insert(0, sys.argv[1]); import host, steps, pathlib
all = steps.Steps(host.Host(sys.argv[2], '/nowhere/python', sys.argv[3]), pathlib.Path(sys.argv[4])).all()
print(*[step.name for step in all])";
    let programs = Path::new(env!("CARGO_BIN_EXE_tawpipe")).parent().unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", code])
        .arg(script().parent().unwrap())
        .arg(programs)
        .arg(built::emulated_driver())
        .arg(folder.path());
    let names = said(&command.output().unwrap());
    for entry in SYSTEMS.iter().filter(|entry| entry.name != "single") {
        for step in ["mpi-2", "mpi-4", "nccl-2", "nccl-4"] {
            let step = format!("c-{step}-{}", entry.name);
            assert!(names.split_whitespace().any(|name| name == step), "{step} is not in {names}");
        }
    }
}

/// A step that fails is told with its reason, in the summary too, and by the exit code: here a program that is not there.
#[test]
fn what_fails_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), "a-kernels");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(verdict(folder.path(), "a-kernels").0, "FAILED");
    let summary = std::fs::read_to_string(folder.path().join("summary.md")).unwrap();
    assert!(summary.contains("| a-kernels | FAILED | exit 127"), "{summary}");
}

/// A library in parts beside the bundle is put together once, before anything runs; if a part is missing or damaged, nothing
/// runs.
#[test]
fn parts_become_a_library_again() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("gpu-bundle");
    std::fs::create_dir_all(bundle.join("bin")).unwrap();
    std::fs::create_dir_all(bundle.join("benches/gpu")).unwrap();
    std::fs::write(bundle.join("benches/gpu/check.py"), "print('checks')").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check.sh");
    std::fs::copy(script, bundle.join("gpu-check.sh")).unwrap();
    let whole: Vec<u8> = (0..100_000u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
    let part = |number: usize| folder.path().join(format!("extra-libnccl.so.2.part-{number:02}"));
    for (number, bytes) in whole.chunks(150_000).enumerate() {
        std::fs::write(part(number), bytes).unwrap();
    }
    let sum =
        |file: &Path| Command::new("sha256sum").stdin(std::fs::File::open(file).unwrap()).output().unwrap().stdout;
    let all = folder.path().join("all");
    std::fs::write(&all, &whole).unwrap();
    std::fs::write(folder.path().join("extra-libnccl.so.2.sha256"), sum(&all)).unwrap();
    let run = || Command::new("sh").arg(bundle.join("gpu-check.sh")).output().unwrap();

    let last = std::fs::read(part(2)).unwrap();
    std::fs::remove_file(part(2)).unwrap();
    let output = run();
    assert!(!output.status.success() && said(&output).contains("a part is missing or damaged"), "{}", said(&output));
    assert!(!said(&output).contains("checks"));
    std::fs::write(part(2), last).unwrap();
    let output = run();
    assert!(output.status.success() && said(&output).contains("checks"), "{}", said(&output));
    assert!(std::fs::read(bundle.join("extra/libnccl.so.2")).unwrap() == whole);
}
