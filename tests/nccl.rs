//! Several ranks on emulated GPUs: the whole program under mpirun, its messages through NCCL and through the hosts' memory.
//! Driver and NCCL are kernels/emu/driver; everything above is what runs on real ones.
#![cfg(all(feature = "cuda", feature = "mpi", target_os = "linux"))]

mod common;

#[path = "kernels/built.rs"]
#[allow(dead_code, reason = "the file has more than this test needs")]
mod built;

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use tawpipe::plan::systems::SYSTEMS;

/// Enough blocks for the stages of every system on four ranks.
const DECK: &str = r#"
    model = { dim = 16, layers = 6, heads = 2, kv_heads = 1, ffn = 24 }
    data = { text = "text", seq = 12 }
    batch = { global = 8, micro = 1 }
    optim = { lr = 3e-3 }
    run = { steps = 2, device = "cuda" }
    cluster = { ranks_per_group = 2 }
    system = { name = "tawpipe" }
"#;

/// A folder with the deck and its text.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|i| format!("{} ", i * i % 97)).collect();
    std::fs::write(folder.path().join("text"), text).unwrap();
    std::fs::write(folder.path().join("deck.toml"), DECK).unwrap();
    folder
}

/// Trains on so many ranks, which mpirun ends if they wait for each other.
fn launch(folder: &Path, ranks: usize, run: &str, sets: &[&str], variables: &[(&str, &str)]) -> Output {
    let driver = built::emulated_driver();
    let old = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let mut command = common::mpirun(ranks);
    command
        .env("LD_LIBRARY_PATH", format!("{}:{old}", driver.display()))
        .env("TAWPIPE_KERNELS", driver.join("modules"))
        .env("EMU_DEVICES", "4")
        .envs(variables.iter().copied())
        .args([env!("CARGO_BIN_EXE_tawpipe"), "train"])
        .arg(folder.join("deck.toml"))
        .arg("--json");
    let run = format!("run.folder={}", folder.join(run).display());
    sets.iter().chain(&[run.as_str()]).for_each(|set| _ = command.arg("--set").arg(set));
    command.output().expect("mpirun starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A column of the steps' records of a run that ends well, in which the emulated driver has nothing to complain of.
fn column(output: &Output, key: &str) -> Vec<f64> {
    assert!(output.status.success(), "{}", said(output));
    assert!(!said(output).contains("emulated GPU"), "{}", said(output));
    let records = String::from_utf8_lossy(&output.stdout);
    let values = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[key].as_f64().unwrap());
    values.collect()
}

/// Every system on four GPUs in two groups gives the CPU's losses, through NCCL and through the hosts' memory; it also ends
/// where the GPU carries out messages one at a time in the order of their launch, and counts the same bytes in all cases.
#[test]
fn every_system_trains_on_gpus_as_on_the_cpu() {
    let folder = folder();
    let cpu =
        launch(folder.path(), 1, "cpu", &["run.device=cpu", "system.name=single", "cluster.ranks_per_group=1"], &[]);
    let cpu = column(&cpu, "loss");
    for entry in SYSTEMS.iter().filter(|entry| entry.name != "single") {
        let system = format!("system.name={}", entry.name);
        let of = |fabric: &str, variables: &[(&str, &str)]| {
            let sets = [system.as_str(), &format!("run.fabric={fabric}")];
            launch(folder.path(), 4, &format!("{} {fabric} {}", entry.name, variables.len()), &sets, variables)
        };
        let runs = [of("mpi", &[]), of("nccl", &[]), of("nccl", &[("EMU_NCCL_SERIAL", "1")])];
        for (output, how) in runs.iter().zip(["mpi", "nccl", "nccl, one at a time"]) {
            for (ours, cpu) in column(output, "loss").iter().zip(&cpu) {
                assert!((ours - cpu).abs() <= 1e-6 * cpu, "{}, {how}: {ours} instead of {cpu}", entry.name);
            }
        }
        let bytes = |output| ["bytes_intra", "bytes_inter"].map(|key| column(output, key));
        assert_eq!(bytes(&runs[0]), bytes(&runs[1]), "{}", entry.name);
    }
}

/// Several ranks share a GPU where the deck allows it: through the hosts' memory with any NCCL, through NCCL from the version
/// on that can. An older one is refused in one line with exit code 2, and so is a machine without NCCL.
#[test]
fn ranks_share_a_gpu() {
    let folder = folder();
    let one = ("EMU_DEVICES", "1");
    let of = |run: &str, sets: &[&str], variables: &[(&str, &str)]| launch(folder.path(), 2, run, sets, variables);
    let share = "gpu.share=true";
    let auto = of("auto", &[share], &[one]);
    assert!(said(&auto).contains("several ranks use one GPU"), "{}", said(&auto));
    let nccl = of("nccl", &[share, "run.fabric=nccl"], &[one]);
    assert_eq!(column(&auto, "loss"), column(&nccl, "loss"));
    let old = of("old", &[share, "run.fabric=nccl"], &[one, ("EMU_NCCL_VERSION", "22703")]);
    assert_eq!(old.status.code(), Some(2), "{}", said(&old));
    assert!(said(&old).contains("NCCL 2.27.3 does not allow: it needs 2.30.0"), "{}", said(&old));
}

/// A GPU with an NCCL that does not keep the order of communicators is made to by the plan's order.
#[test]
fn an_old_nccl_is_kept_in_order() {
    let folder = folder();
    let of = |run: &str, variables: &[(&str, &str)]| launch(folder.path(), 4, run, &["run.fabric=nccl"], variables);
    let old = of("old", &[("EMU_NCCL_VERSION", "22005"), ("EMU_NCCL_SERIAL", "1")]);
    assert_eq!(column(&old, "loss"), column(&of("new", &[]), "loss"));
}

/// A rank that never comes to where NCCL's communicators are made, or that hangs in NCCL's own first call, is named by the others
/// soon after the time that the deck gives, and the job ends.
#[test]
fn a_rank_that_is_missing_at_nccls_start_is_named() {
    let folder = folder();
    let sets = ["run.fabric=nccl", "run.timeout=3"];
    // One of the driver's last calls before that place; then NCCL's.
    for hang in ["cuMemHostAlloc:1:2", "ncclCommInitRankConfig:1:2"] {
        let start = Instant::now();
        let output = launch(folder.path(), 4, &hang.replace(':', "-"), &sets, &[("EMU_HANG", hang)]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let said = said(&output);
        let named = ["rank 2 did not come within 3s to make", "rank 2 has not answered for"];
        assert!(said.lines().any(|line| named.iter().any(|words| line.contains(*words))), "{hang}: {said}");
        assert!(start.elapsed() < Duration::from_secs(60), "{said}");
    }
}

/// A collective that never ends is told with op, shard and peers within the time that the deck gives, and ends the job.
#[test]
fn a_collective_that_never_ends_is_named() {
    let folder = folder();
    let start = Instant::now();
    let sets = ["run.fabric=nccl", "run.timeout=3"];
    let output = launch(folder.path(), 4, "stalls", &sets, &[("EMU_NCCL_STALL", "9:1")]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let said = said(&output);
    let line = said.lines().find(|line| line.contains("no progress for 3 s")).unwrap_or_else(|| panic!("{said}"));
    let parts = [" op ", "of shard", "waits for rank", "to take part"];
    assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    assert!(start.elapsed() < Duration::from_secs(60), "{said}");
}
