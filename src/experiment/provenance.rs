//! By what and where an experiment is run.

use std::path::Path;
use std::process::Command;

use crate::results::{Machine, Provenance};

/// What is known now; `date` and `torch` are filled in for each record.
pub fn provenance() -> Provenance {
    Provenance {
        command: spell(std::env::args()),
        date: now(),
        version: version(),
        torch: None,
        machine: Machine {
            processor: line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: line("/proc/meminfo", "MemTotal")
                .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            kernel: first_line(Command::new("uname").args(["-s", "-r", "-m"])).unwrap_or_default(),
            mpi: first_line(Command::new(super::launch::mpirun()).arg("--version")).unwrap_or_default(),
        },
    }
}

/// A command line for others to read: paths inside the working folder relative to it, of others the last name.
pub fn spell(words: impl Iterator<Item = String>) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let word = |word: String| {
        let path = Path::new(&word);
        let word = match path.strip_prefix(&here) {
            Ok(inside) => inside.to_string_lossy().into_owned(),
            Err(_) if path.is_absolute() => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Err(_) => word,
        };
        let plain = word.chars().all(|c| c.is_alphanumeric() || "-_./=:,+%".contains(c));
        if plain { word } else { format!("'{word}'") }
    };
    words.map(word).collect::<Vec<_>>().join(" ")
}

/// The time, RFC 3339, to the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// This program's version, with the commit where the program lies in a git repository, and `-dirty` if anything but the
/// documentation, which holds results, has changed since.
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let git = |words: &[&str]| {
        let root = super::launch::repository()?;
        first_line(Command::new("git").arg("-C").arg(root).args(words))
    };
    let Some(commit) = git(&["describe", "--always", "--abbrev=10"]) else { return version.into() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs"]);
    let dirty = if changed.is_some_and(|line| !line.is_empty()) { "-dirty" } else { "" };
    format!("{version} ({commit}{dirty})")
}

/// What stands behind `key:` in a file of /proc.
fn line(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_string())
}
