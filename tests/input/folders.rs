//! `report` on many folders at once.

use std::fs;
use std::path::Path;

use super::{folder, refused, run, tawpipe};

/// A run of a few steps, taken for several: their folders are copies under other names.
#[cfg(feature = "hdf5")]
fn runs(folder: &Path, names: &[&str]) {
    let (code, _, err) =
        run(&mut tawpipe(folder, &["train", "deck.toml", "--set", "run.steps=2", "--set", "run.folder=one"]));
    assert_eq!(code, Some(0), "{err}");
    for name in names {
        fs::create_dir_all(folder.join(name)).unwrap();
        for file in ["deck.toml", "metrics.jsonl"] {
            fs::copy(folder.join("one").join(file), folder.join(name).join(file)).unwrap();
        }
    }
}

/// What can be used is reported on; what cannot is named with the reason, and the exit code says so.
#[test]
#[cfg(feature = "hdf5")]
fn report_passes_over_what_it_cannot_use() {
    let folder = folder();
    runs(folder.path(), &["runs/a", "runs/b", "runs/torn"]);
    fs::write(folder.path().join("runs/torn/deck.toml"), "[model").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    let args = ["report", "runs/a", "runs/torn", "empty", "nowhere", "runs/b"];
    let (code, out, err) = run(&mut tawpipe(folder.path(), &args));
    assert_eq!(code, Some(1), "{err}");
    assert!(out.contains("| a ") && out.contains("| b ") && folder.path().join("runs/b/loss.svg").exists(), "{out}");
    for word in ["runs/torn", "empty: no run folder", "nowhere"] {
        assert!(err.lines().filter(|line| line.contains("passed over") && line.contains(word)).count() == 1, "{err}");
    }
    // A folder of runs stands for them.
    let (code, out, err) = run(&mut tawpipe(folder.path(), &["report", "runs"]));
    assert!(code == Some(1) && out.contains("| a ") && out.contains("| b ") && err.contains("runs/torn"), "{out}{err}");
    fs::remove_dir_all(folder.path().join("runs/torn")).unwrap();
    let (code, out, err) = run(&mut tawpipe(folder.path(), &["report", "runs", "one"]));
    assert!(code == Some(0) && out.contains("| one ") && !err.contains("passed over"), "{out}{err}");
    // Where nothing can be used, that is bad input.
    refused(&mut tawpipe(folder.path(), &["report", "nowhere"]), &["nowhere", "No such file"]);
    assert_eq!(run(&mut tawpipe(folder.path(), &["report", "empty", "nowhere"])).0, Some(2));
}
