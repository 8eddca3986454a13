//! What people bring and ask for, as the program meets it: numbers, paths, folders, and output that nobody reads.

mod folders;
mod numbers;
mod output;
mod paths;

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const DECK: &str = r#"
model = { dim = 32, layers = 2, heads = 4 }
data = { text = "text.txt", seq = 8 }
batch = { global = 4, micro = 2 }
run = { steps = 30, folder = "run", device = "cpu" }
"#;

/// A folder with a deck and its text.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deck.toml"), DECK).unwrap();
    std::fs::write(folder.path().join("text.txt"), "In the beginning was the Word.\n".repeat(20)).unwrap();
    folder
}

fn tawpipe(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tawpipe"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Expects exit code 2 and one line on standard error with all the words.
fn refused(command: &mut Command, words: &[&str]) {
    let (code, out, err) = run(command);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{command:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{command:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{command:?}: no {word:?} in: {err}");
    }
}
