//! The whole program on an emulated GPU: its driver, cuBLASLt and kernels are kernels/emu, everything above is what runs on
//! a real one. See kernels/README.md for what the emulation can tell.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "kernels/built.rs"]
#[allow(dead_code, reason = "the file has more than this test needs")]
mod built;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A model of two blocks with grouped queries, an accumulation of three micro-batches, clipping and validation.
fn deck(folder: &Path, dtype: &str, head_dim: usize) -> std::path::PathBuf {
    let text: String = (0..4000).map(|i| format!("{} ", i * i % 97)).collect();
    std::fs::write(folder.join("text"), text).unwrap();
    let path = folder.join(format!("{dtype}.toml"));
    let deck = format!(
        "[model]\ndim = 64\nlayers = 2\nheads = 2\nkv_heads = 1\nhead_dim = {head_dim}\nffn = 96\n\
         [data]\ntext = \"text\"\nseq = 40\nvalid = 0.02\n\
         [batch]\nglobal = 6\nmicro = 2\n\
         [optim]\nlr = 3e-3\nclip = 0.8\n\
         [run]\nsteps = 5\ndtype = \"{dtype}\"\n\
         [system]\nname = \"single\"\n"
    );
    std::fs::write(&path, deck).unwrap();
    path
}

/// The program, with emulated GPUs in sight.
fn tawpipe() -> Command {
    let driver = built::emulated_driver();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
    let old = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    command.env("LD_LIBRARY_PATH", format!("{}:{old}", driver.display()));
    command.env("TAWPIPE_KERNELS", driver.join("modules")).env("RUST_LOG", "info");
    for (name, value) in [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")] {
        command.env(name, value);
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Trains and gives each step's record.
fn train(deck: &Path, run: &str, sets: &[&str], report: Option<&Path>) -> Vec<Value> {
    let folder = deck.parent().unwrap().join(run);
    let mut command = tawpipe();
    command.arg("train").arg(deck).arg("--json").arg("--set").arg(format!("run.folder={}", folder.display()));
    sets.iter().for_each(|set| _ = command.arg("--set").arg(set));
    report.iter().for_each(|file| _ = command.env("EMU_REPORT", file));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn column(records: &[Value], key: &str) -> Vec<f64> {
    records.iter().map(|record| record[key].as_f64().unwrap()).collect()
}

/// Losses and gradient norms of a GPU are those of the CPU: in f32 but for the order of sums, in bf16 but for its rounding;
/// whatever is kept for backward and whatever computed again, the same bits.
#[test]
fn a_gpu_trains_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    for (dtype, head_dim, tolerance) in [("f32", 24, 1e-5), ("bf16", 64, 1.5e-2)] {
        let deck = deck(folder.path(), dtype, head_dim);
        let of = |device: &str, run: &str, more: &[&str]| {
            let device = format!("run.device={device}");
            train(&deck, &format!("{dtype}-{run}"), &[&[device.as_str()], more].concat(), None)
        };
        let (cpu, gpu) = (of("cpu", "cpu", &[]), of("cuda", "gpu", &[]));
        for key in ["loss", "grad_norm"] {
            for (cpu, gpu) in column(&cpu, key).iter().zip(column(&gpu, key)) {
                assert!((cpu - gpu).abs() <= tolerance * cpu.abs(), "{dtype} {key}: {gpu} instead of {cpu}");
            }
        }
        assert!(column(&gpu, "loss")[4] < column(&gpu, "loss")[0], "it learns");
        for recompute in ["none", "block"] {
            let other = of("cuda", recompute, &[&format!("run.recompute={recompute}")]);
            assert_eq!(column(&other, "loss"), column(&gpu, "loss"), "{dtype}, {recompute}");
        }
        let any = of("cuda", "any-order", &["run.deterministic=false"]);
        for (any, gpu) in column(&any, "loss").iter().zip(column(&gpu, "loss")) {
            assert!((any - gpu).abs() <= tolerance * gpu.abs(), "{dtype}, sums in any order: {any} instead of {gpu}");
        }
    }
}

/// Calls of the driver's functions in one more step: no memory is allocated, pinned or freed, nothing is made or destroyed,
/// no copy waits for pageable memory, and the host waits only between steps.
#[test]
fn a_step_allocates_nothing_and_waits_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let deck = deck(folder.path(), "bf16", 64);
    let calls = |steps: usize| -> BTreeMap<String, i64> {
        let report = folder.path().join(format!("report-{steps}"));
        let sets = ["run.device=cuda".to_string(), format!("run.steps={steps}")];
        train(&deck, &format!("run-{steps}"), &sets.each_ref().map(|set| set.as_str()), Some(&report));
        serde_json::from_slice(&std::fs::read(report.with_extension("0")).unwrap()).unwrap()
    };
    let (few, many) = (calls(2), calls(5));
    let step: BTreeMap<&str, i64> =
        many.iter().map(|(name, count)| (name.as_str(), count - few.get(name).unwrap_or(&0))).collect();
    assert!(step["cuLaunchKernel"] > 0 && step["cublasLtMatmul"] > 0, "{step:?}");
    // A step's numbers go in and come out between steps: two copies before, one behind, each waited for; and the end.
    assert_eq!((step["cuStreamSynchronize"], step["copies of pageable memory"]), (3 * 4, 3 * 3), "{step:?}");
    // Tokens of three micro-batches come from pinned memory, and no step finds the copies of the one before under way.
    assert_eq!(step["cuMemcpyAsync"], 3 * (3 + 3), "{step:?}");
    let steady =
        ["Synchronize", "Alloc", "Free", "Create", "Destroy", "Load", "Retain", "Heuristic", "HostRegister", "Get"];
    for (name, count) in step.iter().filter(|(name, _)| **name != "cuStreamSynchronize") {
        assert!(*count == 0 || !steady.iter().any(|what| name.contains(what)), "{name}: {count}");
    }
}

/// What was asked for and cannot be had is told in one line with exit code 2; `auto` computes on the CPU instead.
#[test]
fn a_missing_gpu_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let deck = deck(folder.path(), "f32", 32);
    let run = |change: &dyn Fn(&mut Command), device: &str| {
        let mut command = tawpipe();
        change(&mut command);
        command.arg("train").arg(&deck).args(["--dry-run", "--set"]).arg(format!("run.device={device}"));
        command.output().unwrap()
    };
    let none = |command: &mut Command| _ = command.env_remove("LD_LIBRARY_PATH");
    let kernels = |command: &mut Command| _ = command.env("TAWPIPE_KERNELS", folder.path());
    for (change, words) in [
        (&none as &dyn Fn(&mut Command), "libcuda.so.1"),
        (&kernels, "holds no *.fatbin; `make kernels` compiles them"),
    ] {
        let output = run(change, "cuda");
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).lines().any(|line| line.contains("run.device = \"cuda\"") && line.contains(words)));
        assert!(run(change, "auto").status.success());
    }
    let warned = said(&run(&kernels, "auto"));
    assert!(warned.contains("all ranks compute on the CPU"), "{warned}");
    let used = said(&run(&|_| (), "auto"));
    assert!(used.contains("GPU of rank 0: Emulated GPU, sm_90"), "{used}");
}
