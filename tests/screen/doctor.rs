//! `tawpipe doctor`, alone and on several ranks, also where something is broken.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

#[cfg(feature = "mpi")]
use crate::common::mpirun;

/// Every topic, in order, of a program with all features.
const TOPICS: [&str; 17] = [
    "MPI",
    "ranks",
    "cores",
    "memory",
    "HDF5",
    "oneDNN",
    "GPU driver",
    "GPU kernels",
    "cuBLASLt",
    "NCCL",
    "Slurm",
    "PMIx",
    "run folders",
    "token cache",
    "temporary files",
    "GPUs",
    "",
];

/// The program in a folder that can be written to.
fn doctor(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
    command.arg("doctor").args(args).current_dir(folder);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8_lossy(&stderr).into_owned())
}

/// The line of a topic.
fn line<'a>(text: &'a str, topic: &str) -> &'a str {
    let of = |line: &&str| line.get(11..).is_some_and(|rest| rest.starts_with(&format!("{topic:<15}  ")));
    text.lines().find(of).unwrap_or_else(|| panic!("no line about {topic} in:\n{text}"))
}

/// Alone it examines everything, one line each, and leaves nothing behind; `--json` says the same.
#[test]
fn alone() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, err) = run(&mut doctor(folder.path(), &[]));
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out.lines().count(), if cfg!(feature = "cuda") { 16 } else { 12 }, "{out}");
    let (_, json, _) = run(&mut doctor(folder.path(), &["--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["format"], "tawpipe doctor 1");
    for finding in json["findings"].as_array().unwrap() {
        let (topic, verdict) = (finding["topic"].as_str().unwrap(), finding["verdict"].as_str().unwrap());
        assert!(TOPICS.contains(&topic), "{topic}");
        let line = line(&out, topic);
        assert!(line.starts_with(verdict) && line.contains(finding["says"].as_str().unwrap()), "{line}\n{finding}");
    }
    #[cfg(feature = "mpi")]
    assert!(line(&out, "MPI").contains("thread level") && line(&out, "ranks").contains("one"), "{out}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// On several ranks rank 0 prints for all, and says where they differ.
#[test]
#[cfg(feature = "mpi")]
fn ranks_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_tawpipe");
    // Open MPI and MPICH number ranks in variables of different names.
    let script =
        r#"[ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" != 2 ] || export TAWPIPE_CACHE=/proc/none; exec "$0" doctor"#;
    let (code, out, err) = run(mpirun(3).args(["sh", "-c", script, program]).current_dir(folder.path()));
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(line(&out, "ranks").contains("3 on 1 node(s), in groups of 3"), "{out}");
    let cache = line(&out, "token cache");
    assert!(cache.starts_with("attention") && cache.contains("ranks 0 and 1: "), "{cache}");
    assert!(
        cache.contains("rank 2: /proc/none cannot be written to") && cache.contains("set TAWPIPE_CACHE"),
        "{cache}"
    );
    assert_eq!(out.lines().filter(|line| line.contains("HDF5")).count(), 1, "{out}");
}

/// MPI that takes too long is told with all the rest, alone and under a launcher, and nothing hangs.
#[test]
#[cfg(feature = "mpi")]
fn mpi_that_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let alone = run(&mut doctor(folder.path(), &["--wait", "0.001"]));
    let program = env!("CARGO_BIN_EXE_tawpipe");
    let launched = run(mpirun(1).args([program, "doctor", "--wait", "0.001"]).current_dir(folder.path()));
    for (code, out, err) in [alone, launched] {
        assert_eq!(code, Some(2), "{out}{err}");
        assert!(line(&out, "MPI").starts_with("broken"), "{out}");
        assert!(line(&out, "MPI").contains("within 0.001 s"), "{out}");
        assert!(line(&out, "run folders").starts_with("fine"), "{out}");
    }
}

/// MPI that ends the process that starts it: the library's own words, and all the rest.
#[test]
#[cfg(feature = "mpi")]
fn mpi_that_aborts() {
    let folder = tempfile::tempdir().unwrap();
    let (_, healthy, _) = run(&mut doctor(folder.path(), &[]));
    // Only Open MPI can be told to find no way to send messages.
    let (code, out, err) = run(doctor(folder.path(), &[]).env("OMPI_MCA_pml", "none"));
    if line(&healthy, "MPI").contains("Open MPI") {
        assert_eq!(code, Some(2), "{out}{err}");
        assert!(line(&out, "MPI").starts_with("broken     MPI              it does not start: exit status"), "{out}");
        line(&out, "memory");
    } else {
        assert_eq!(code, Some(0), "{out}{err}");
    }
}

/// Tasks of srun that MPI knows nothing of, and a folder that cannot be written to, are broken.
#[test]
fn what_training_needs_and_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    if cfg!(feature = "mpi") {
        let mut command = doctor(folder.path(), &[]);
        let (code, out, err) = run(command.env("SLURM_STEP_NUM_TASKS", "4").env("SLURM_PROCID", "0"));
        assert_eq!(code, Some(2), "{out}{err}");
        assert!(line(&out, "MPI").contains("srun --mpi=pmix"), "{out}");
        let (code, out, _) = run(command.env("SLURM_PROCID", "1"));
        assert_eq!((code, out.as_str()), (Some(2), ""), "only rank 0 speaks");
    }
    let (code, out, err) = run(&mut doctor(Path::new("/proc"), &[]));
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(
        line(&out, "run folders").starts_with("broken     run folders      /proc/runs cannot be written to"),
        "{out}"
    );
}
