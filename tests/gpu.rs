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
        // The kernels' tests have the other pairs.
        for recompute in if dtype == "bf16" { &["none", "block"][..] } else { &["block"] } {
            let other = of("cuda", recompute, &[&format!("run.recompute={recompute}")]);
            assert_eq!(column(&other, "loss"), column(&gpu, "loss"), "{dtype}, {recompute}");
        }
        if dtype == "f32" {
            continue; // there are no atomics in f32
        }
        let any = of("cuda", "any-order", &["run.deterministic=false"]);
        for (any, gpu) in column(&any, "loss").iter().zip(column(&gpu, "loss")) {
            assert!((any - gpu).abs() <= tolerance * gpu.abs(), "{dtype}, sums in any order: {any} instead of {gpu}");
        }
    }
}

/// What a CPU leaves out a GPU leaves out too: the same rows say so, and the losses behind them agree. A model that its first
/// update has ruined ends the run at the second step, with the same words and no checkpoint.
#[test]
fn a_gpu_leaves_out_the_same_updates() {
    let folder = tempfile::tempdir().unwrap();
    for (dtype, head_dim, tolerance) in [("f32", 24, 1e-3), ("bf16", 64, 5e-2)] {
        let deck = deck(folder.path(), dtype, head_dim);
        // A rate at which the norm falls and rises again.
        let rate = ["optim.lr=2e-2", "optim.schedule=constant", "run.steps=7"];
        let spike = "run.spike={ window = 2, z = 1e-6 }";
        let of = |device: &str| {
            let set = format!("run.device={device}");
            train(&deck, &format!("{dtype}-spike-{device}"), &[&[&set, spike][..], &rate].concat(), None)
        };
        let (cpu, gpu) = (of("cpu"), of("cuda"));
        let skipped = |rows: &[Value]| -> Vec<bool> { rows.iter().map(|row| row["skipped"] == true).collect() };
        assert!(skipped(&cpu)[2..].contains(&true) && skipped(&cpu)[2..].contains(&false), "{cpu:?}");
        assert_eq!(skipped(&cpu), skipped(&gpu), "{dtype}");
        for (cpu, gpu) in column(&cpu, "loss").iter().zip(column(&gpu, "loss")) {
            assert!((cpu - gpu).abs() <= tolerance * cpu.abs(), "{dtype}: {gpu} instead of {cpu}");
        }
        for device in ["cpu", "cuda"] {
            let run = folder.path().join(format!("{dtype}-ruin-{device}"));
            let mut command = tawpipe();
            command.arg("train").arg(&deck);
            let sets = ["optim.lr=1e12".to_string(), format!("run.device={device}"), format!("run.folder={run:?}")];
            sets.iter().for_each(|set| _ = command.args(["--set", set]));
            let output = command.output().unwrap();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{dtype}, {device}: {text}");
            let line =
                text.lines().find(|line| line.starts_with("tawpipe: step 2: the ")).unwrap_or_else(|| panic!("{text}"));
            assert!(line.contains("NaN") && line.contains("its update was not applied"), "{line}");
            assert_eq!(std::fs::read_dir(run.join("checkpoints")).unwrap().count(), 0);
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

/// A plan that fits into `cluster.memory` by itself, but not beside what a GPU keeps, is refused before it runs, by `train` and by
/// `plan`; what they count beside it is no less than what the GPU then holds.
#[test]
fn memory_beside_the_plan_counts() {
    let folder = tempfile::tempdir().unwrap();
    let deck = deck(folder.path(), "bf16", 64);
    let run = |sets: &[String]| {
        let mut command = tawpipe();
        command.args(["train", "--dry-run"]).arg(&deck);
        sets.iter().for_each(|set| _ = command.arg("--set").arg(set));
        command.output().unwrap()
    };
    let planned = |device: &str, memory: usize| -> Value {
        let sets = [format!("run.device={device}"), format!("cluster.memory={memory}")];
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let output = tawpipe().args(["plan", "--json"]).arg(&deck).args(sets).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    };
    let peak = planned("cpu", 1 << 40)["memory_peak"].as_u64().unwrap() as usize;
    let beside = (1 << 40) - planned("cuda", 1 << 40)["memory_limit"].as_u64().unwrap() as usize;
    let limit =
        |device: &str, memory: usize| run(&[format!("run.device={device}"), format!("cluster.memory={memory}")]);
    assert_eq!(limit("cpu", peak).status.code(), Some(0));
    assert_eq!(limit("cuda", peak + beside).status.code(), Some(0));
    for memory in [peak, peak + beside - 1] {
        let refused = limit("cuda", memory);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        let line = said(&refused);
        assert!(line.contains("and the GPU 67.1 MB (64.0 MiB) beside it, but cluster.memory allows"), "{line}");
        assert_eq!(planned("cuda", memory)["fits"], false);
    }
    assert_eq!(planned("cuda", peak + beside)["fits"], true);
    // What the GPU holds, as the program itself lists it.
    let held = said(&limit("cuda", peak + beside));
    let held = held.lines().find(|line| line.contains("GPU memory of rank 0")).unwrap_or_else(|| panic!("{held}"));
    let all = held.rsplit('(').next().and_then(|all| all.strip_suffix(" MiB)")).unwrap_or_else(|| panic!("{held}"));
    let all: f64 = all.parse().unwrap();
    // Three digits are shown.
    assert!(all * f64::from(1 << 20) <= 1.005 * (peak + beside) as f64, "{held}");
}

/// What a trained model writes on a GPU is what it writes on the CPU.
#[test]
fn a_gpu_generates_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    let deck = deck(folder.path(), "f32", 24);
    train(&deck, "run", &["run.device=cuda", "run.steps=2"], None);
    let report = folder.path().join("report");
    let write = |change: &dyn Fn(&mut Command)| {
        let mut command = tawpipe();
        command.arg("generate").arg(folder.path().join("run")).env("EMU_REPORT", &report);
        change(command.args(["--prompt", "16 25 36", "--tokens", "12", "--temperature", "1"]));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let gpu = write(&|_| ());
    assert!(gpu.starts_with("16 25 36") && gpu.len() >= "16 25 36".len() + 12, "{gpu}");
    let counted =
        || std::fs::read_dir(folder.path()).unwrap().flatten().filter(|f| f.path().file_stem() == report.file_name());
    assert_eq!(counted().count(), 1, "the driver was used");
    assert_eq!(gpu, write(&|command| _ = command.env_remove("LD_LIBRARY_PATH")));
    assert_eq!(counted().count(), 1, "no driver was there");
}

/// What `bench --calibrate` measures on a GPU is a description of it, with rates of both types at the widths asked for.
#[test]
fn a_gpu_can_be_calibrated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("here.toml");
    let mut command = tawpipe();
    command.args(["bench", "--device", "cuda", "--widths", "64", "--seq", "32", "--calibrate"]).arg(&file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let description = tawpipe::cluster::Description::read(&file).unwrap();
    let device = description.device();
    assert_eq!(device.memory, 8192.0 * f64::from(1 << 20), "the emulated GPU's");
    let measured: Vec<_> = device.rates.iter().map(|rates| (rates.dtype, rates.dim)).collect();
    let wanted = [tawpipe::model::Dtype::F32, tawpipe::model::Dtype::Bf16].map(|dtype| (Some(dtype), 64.0));
    assert_eq!(measured, wanted);
    assert!(device.rates.iter().all(|rates| rates.forward > 0.0 && rates.attention_backward > 0.0), "{device:?}");
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
