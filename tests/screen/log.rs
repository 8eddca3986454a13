//! The first lines of a run's log.

use std::path::Path;
use std::process::Command;

#[cfg(feature = "mpi")]
use crate::common::mpirun;

const DECK: &str = "[model]\ndim = 32\nlayers = 2\nheads = 4\n[data]\ntext = \"text.txt\"\nseq = 8\n\
                    [batch]\nglobal = 4\n[run]\nsteps = 1\nfolder = \"run\"\n[system]\nname = \"fsdp\"\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deck.toml"), DECK).unwrap();
    std::fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(20)).unwrap();
    folder
}

/// Standard error of a command that must succeed.
fn log(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

/// Three lines say what runs, on what, and which deck; a system for several ranks on one is remarked on, with the command that
/// starts several.
#[test]
fn one_rank() {
    let folder = folder();
    let train = |set: &str, path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
        log(command.args(["train", "deck.toml", "--set", set]).current_dir(path))
    };
    let text = train("run.seed=1", folder.path());
    assert_eq!(lines(&text, &[concat!("tawpipe ", env!("CARGO_PKG_VERSION")), ": 1 rank"]).len(), 1, "{text}");
    assert_eq!(lines(&text, &["each rank computes with", "cores", "GB memory"]).len(), 1, "{text}");
    assert_eq!(
        lines(&text, &["deck.toml: ", "parameters, system fsdp, 32 tokens a step, into ", "/run"]).len(),
        1,
        "{text}"
    );
    assert_eq!(lines(&text, &["warn", "fsdp", "mpirun -n 2 tawpipe train deck.toml"]).len(), 1, "{text}");
    std::fs::remove_dir_all(folder.path().join("run")).unwrap();
    let text = train("system.name=single", folder.path());
    assert!(!text.contains("mpirun"), "{text}");
}

/// Rank 0 says it once, with groups and nodes.
#[test]
#[cfg(feature = "mpi")]
fn two_ranks_as_two_groups() {
    let folder = folder();
    let program = env!("CARGO_BIN_EXE_tawpipe");
    let line = [program, "train", "deck.toml", "--set", "cluster.ranks_per_group=1"];
    let text = log(mpirun(2).args(line).current_dir(folder.path()));
    assert_eq!(lines(&text, &["thread level serialized: 2 ranks in groups of 1 + 1 on 1 node"]).len(), 1, "{text}");
    assert!(!text.contains("mpirun -n"), "{text}");
}
