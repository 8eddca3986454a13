//! The scripts that install and test: what they look for, and what they count.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// What test-summary.awk says of a record, and whether it ends well.
fn summary(record: &str, variables: &[(&str, &str)]) -> (bool, Vec<String>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), record).unwrap();
    let mut awk = Command::new("awk");
    awk.arg("-f").arg(root().join("scripts/test-summary.awk")).arg(file.path());
    let output = awk.env_remove("CI").env_remove("TAWPIPE_MAY_SKIP").envs(variables.iter().copied()).output().unwrap();
    (output.status.success(), said(&output).lines().map(String::from).collect())
}

const SKIPS: &str = "skipped\tno Slurm here\tinstall it\tslurm a\nskipped\tno Slurm here\tinstall it\tslurm b\n\
                     skipped\tno h5dump\tinstall hdf5-tools\tfiles c\nskipped\tno h5py\tinstall h5py\tfiles c\n";

/// Numbers of all programs are added; a test that skipped itself is not one that passed, and counts once.
#[test]
fn results_are_added_up() {
    let (well, lines) = summary(&format!("passed\t7\n{SKIPS}passed\t3\n"), &[]);
    assert!(well && lines.len() == 4, "{lines:?}");
    assert_eq!(lines[3], "7 passed, 0 failed, 3 skipped");
    for line in [
        "skipped: no Slurm here (2 tests); install it",
        "skipped: no h5dump (1 test); install hdf5-tools",
        "skipped: no h5py (0 tests); install h5py",
    ] {
        assert!(lines.iter().any(|said| said == line), "{line} is not in {lines:?}");
    }
    let (well, lines) = summary("passed\t7\nfailed\t2\tcli\nfailed\t1\tspmd ended without a result\n", &[]);
    assert!(!well);
    assert_eq!(lines.last().unwrap(), "7 passed, 3 failed, 0 skipped");
    assert!(lines.contains(&"failed: spmd ended without a result".to_string()), "{lines:?}");
    assert_eq!(summary("", &[]), (true, vec!["0 passed, 0 failed, 0 skipped".into()]));
}

/// In CI, what must run there has failed if it was skipped.
#[test]
fn continuous_integration_skips_little() {
    let record = format!("passed\t7\n{SKIPS}");
    let (well, lines) = summary(&record, &[("CI", "true")]);
    assert!(!well);
    assert_eq!(lines.last().unwrap(), "4 passed, 2 failed, 1 skipped");
    assert!(
        lines.contains(&"skipped, which in CI is a failure: no Slurm here (2 tests); install it".into()),
        "{lines:?}"
    );
    let allowed = summary(&record, &[("CI", "true"), ("TAWPIPE_MAY_SKIP", "Slurm|h5py")]);
    assert_eq!((allowed.0, allowed.1.last().unwrap().as_str()), (true, "4 passed, 0 failed, 3 skipped"));
}

/// Runs test.sh with a cargo that says this and ends with that code.
fn tested(says: &str, code: i32) -> (bool, String) {
    let folder = TempDir::new().unwrap();
    let cargo = folder.path().join("cargo");
    fs::write(&cargo, format!("#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut script = Command::new(root().join("scripts/test.sh"));
    let output = script.env("PATH", path).env_remove("TAWPIPE_TEST_RECORD").output().unwrap();
    (output.status.success(), said(&output).lines().last().unwrap_or_default().to_string())
}

/// A program of tests that ends without its result has failed, and so has a build.
#[test]
fn crashes_are_failures() {
    let good = "     Running unittests src/lib.rs (target/debug/deps/tawpipe-1)\n\
                test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
    let crash = "     Running tests/spmd/main.rs (target/debug/deps/spmd-1)\nspmd: watchdog";
    let bad = "     Running tests/cli.rs (target/debug/deps/cli-1)\n\
               test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
    assert_eq!(tested(good, 0), (true, "5 passed, 0 failed, 0 skipped".into()));
    assert_eq!(tested(&format!("{good}\n{crash}\n{bad}"), 101), (false, "8 passed, 3 failed, 0 skipped".into()));
    assert_eq!(tested(&format!("{good}\n{crash}"), 101), (false, "5 passed, 1 failed, 0 skipped".into()));
    assert_eq!(tested("error: could not compile `tawpipe`", 101), (false, "0 passed, 1 failed, 0 skipped".into()));
}
