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

/// A machine for deps.sh: its programs are a folder, and its apt-get only says what it was asked to install.
struct Machine(TempDir);

impl Machine {
    /// With everything that a build needs but libclang, and Rust of a version, if any.
    fn new(rust: Option<&str>) -> Self {
        let machine = Machine(TempDir::new().unwrap());
        for tool in ["sed", "sort", "cut", "dirname", "cat", "sh"] {
            std::os::unix::fs::symlink(format!("/usr/bin/{tool}"), machine.0.path().join(tool)).unwrap();
        }
        for tool in ["cc", "c++", "pkg-config", "mpicc", "mpirun", "h5cc", "h5dump", "bible"] {
            machine.program(tool, "exit 0");
        }
        machine.program("id", "echo 0");
        machine.program("apt-get", "echo \"apt-get $*\"; [ \"$1\" = update ] || echo \"$*\" >>\"${0%/*}/installed\"");
        if let Some(version) = rust {
            machine.program("cargo", "exit 0");
            machine.program("rustc", &format!("echo 'rustc {version} (hash date)'"));
        }
        machine
    }

    fn program(&self, name: &str, body: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn library(&self, name: &str) {
        let folder = self.0.path().join("usr/lib/llvm-14/lib");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "").unwrap();
    }

    /// Runs deps.sh: its exit code, what it says, and what it installed.
    fn deps(&self) -> (Option<i32>, String, String) {
        let mut deps = Command::new("/bin/sh");
        deps.arg(root().join("scripts/deps.sh")).env("PATH", self.0.path()).env("DEPS_USR", self.0.path().join("usr"));
        for name in ["MPICC", "HDF5_DIR", "LIBCLANG_PATH", "DATA"] {
            deps.env_remove(name);
        }
        let output = deps.output().unwrap();
        let installed = fs::read_to_string(self.0.path().join("installed")).unwrap_or_default();
        (output.status.code(), said(&output), installed)
    }
}

/// libclang is what bindgen would take for it: neither LLVM's libclang-cpp nor a runtime library of its sanitizers.
#[test]
fn libclang_is_looked_for_as_bindgen_does() {
    for (library, enough) in [
        ("libclang-cpp.so.14", false),
        ("libclang_rt.asan-x86_64.so", false),
        ("libclang.so", true),
        ("libclang.so.1", true),
        ("libclang-14.so.1", true),
    ] {
        let machine = Machine::new(Some("1.99.0"));
        machine.library(library);
        let (code, said, installed) = machine.deps();
        assert_eq!((code, installed.contains("libclang-dev")), (Some(0), !enough), "{library}: {said}");
    }
}

/// Where there is no Rust, Debian's recent one is installed; an old one, or an old archive, gets one line that names the needed
/// version and how to get it.
#[test]
fn an_old_rust_is_told_what_is_needed() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let needed = cargo.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    let told = |(code, said, installed): (Option<i32>, String, String), found: &str| {
        assert_eq!((code, installed.as_str()), (Some(1), ""), "{said}");
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("Rust")).collect();
        let words = [found, needed, "rustup", "cargo-web and rustc-web"];
        assert!(ours.len() == 1 && words.iter().all(|word| ours[0].contains(word)), "{said}");
    };
    told(Machine::new(Some("1.80.1")).deps(), "Rust 1.80.1");
    told(Machine::new(Some("1.9.0")).deps(), "Rust 1.9.0");

    let offered = |version: &str| {
        let machine = Machine::new(None);
        machine.library("libclang.so");
        machine.program("apt-cache", &format!("echo 'Package: cargo-web'; echo 'Version: {version}+dfsg1-1~deb12u2'"));
        machine
    };
    told(offered("1.85.0").deps(), "Rust is missing");
    let machine = offered("1.96.0");
    // What is installed appears.
    let rust = "printf '#!/bin/sh\\necho rustc 1.96.0 x\\n' >\"${0%/*}/rustc\"; cp \"${0%/*}/rustc\" \"${0%/*}/cargo\"; \
                chmod +x \"${0%/*}/rustc\" \"${0%/*}/cargo\"; echo \"$*\" >>\"${0%/*}/installed\"";
    for tool in ["cp", "chmod"] {
        std::os::unix::fs::symlink(format!("/usr/bin/{tool}"), machine.0.path().join(tool)).unwrap();
    }
    machine.program("apt-get", rust);
    let (code, said, installed) = machine.deps();
    assert!(code == Some(0) && installed.contains("cargo-web rustc-web"), "{said}");
    assert!(Machine::new(Some(&format!("{needed}.0"))).deps().1.contains("libclang-dev"), "new enough, and goes on");
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

/// No example of a virtual cluster wants latency, for which many kernels have no module.
#[test]
fn examples_need_no_netem() {
    let folder = |name: &str| fs::read_dir(root().join(name)).unwrap().map(|entry| entry.unwrap().path());
    let files = folder("docs").chain(folder("inputs/experiments"));
    let mut seen = 0;
    for file in files.chain([root().join("README.md"), root().join("jobs/README.md")]).filter(|file| file.is_file()) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let examples = text.lines().filter(|line| line.contains("virtual-cluster up") || line.contains("rate = \""));
        for line in examples {
            seen += 1;
            let code = line.split('#').next().unwrap();
            assert!(!code.contains("latency"), "{}: {line}", file.display());
        }
    }
    assert!(seen > 5, "only {seen} examples found");
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
