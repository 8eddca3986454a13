//! Standard output and error that nobody reads, or that are full.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use super::{folder, tawpipe};

/// How a command ends that writes there.
fn ends(folder: &Path, args: &[&str], out: Stdio, err: Stdio) -> ExitStatus {
    tawpipe(folder, args).stdout(out).stderr(err).status().unwrap()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader is gone.
fn gone() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Standard error of a command in a file, and its exit code.
fn words(folder: &Path, args: &[&str], out: Stdio) -> (Option<i32>, String) {
    let file = folder.join("err");
    let status = ends(folder, args, out, File::create(&file).unwrap().into());
    (status.code(), std::fs::read_to_string(file).unwrap())
}

/// A training whose output nobody can take goes on to its end and warns once; the run folder is whole.
#[test]
#[cfg(feature = "hdf5")]
fn a_training_goes_on() {
    for out in [full, gone] {
        let folder = folder();
        let (code, err) = words(folder.path(), &["train", "deck.toml", "--json"], out());
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(err.matches("standard output cannot be written").count(), 1, "{err}");
        let journal = std::fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
        assert_eq!(journal.lines().filter(|line| line.contains("\"loss\"")).count(), 30);
        assert!(folder.path().join("run/checkpoints/step_30.h5").exists() && folder.path().join("run/DONE").exists());
    }
}

/// A training that can say nothing at all goes on, too.
#[test]
#[cfg(feature = "hdf5")]
fn a_training_needs_no_standard_error() {
    for err in [full, gone] {
        let folder = folder();
        let status = ends(folder.path(), &["train", "deck.toml", "--json"], gone(), err());
        assert_eq!(status.code(), Some(0));
        assert!(folder.path().join("run/DONE").exists());
        // A mistake still ends with its own code.
        assert_eq!(ends(folder.path(), &["train", "deck.toml"], gone(), err()).code(), Some(2));
    }
}

/// Every command that prints: 0 where the reader is gone, 1 and one line where the disk is full.
#[test]
#[cfg(feature = "hdf5")]
fn every_command_says_that_its_output_is_lost() {
    let folder = folder();
    let here = folder.path();
    assert_eq!(words(here, &["train", "deck.toml"], Stdio::null()).0, Some(0));
    let inputs = Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs");
    let laptop = inputs.join("clusters/laptop.toml").display().to_string();
    let hf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/b_gqa2/init").display().to_string();
    let commands: [&[&str]; 11] = [
        &["--help"],
        &["--version"],
        &["plan", "deck.toml"],
        &["plan", "deck.toml", "--all"],
        &["plan", "deck.toml", "--json"],
        &["plan", "deck.toml", "--recommend", "--ranks", "1", "--cluster", &laptop],
        &["generate", "run", "--tokens", "3"],
        &["report", "run"],
        &["inspect", "run"],
        &["tokenize", "text.txt", "--tokenizer", "bytes", "--out", "ids.bin"],
        &["inspect", &hf],
    ];
    for command in commands {
        let (code, err) = words(here, command, full());
        assert_eq!(code, Some(1), "{command:?}: {err}");
        let ours = err.lines().filter(|line| line.starts_with("tawpipe: standard output cannot be written: No space"));
        assert_eq!(ours.count(), 1, "{command:?}: {err}");
        let (code, err) = words(here, command, gone());
        assert_eq!(code, Some(0), "{command:?}: {err}");
        assert!(!err.contains("standard output") && !err.contains("panic"), "{command:?}: {err}");
    }
    for (command, out) in [(["export", "run", "--out", "hf"], full()), (["import", &hf, "--out", "model"], full())] {
        assert_eq!(words(here, &command, out).0, Some(1), "{command:?}");
    }
    assert!(here.join("hf/model.safetensors").exists() && here.join("model/step_0.h5").exists());
}
