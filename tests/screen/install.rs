//! `make install`: the program, its kernels, man pages and completions.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Every command that `--help` lists.
fn commands() -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_tawpipe")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let name =
        |line: &str| line.strip_prefix("  ").and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_string();
    let names: Vec<String> = list.map(name).filter(|name| !name.is_empty() && name != "help").collect();
    assert!(names.len() >= 10 && names.contains(&"doctor".to_string()), "{names:?}");
    names
}

/// Files below a folder, relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path)
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_path_buf())
            }
        }
    }
    found.sort();
    found
}

/// `make TARGET` with this test's program and some kernels, into `root`.
fn make(target: &str, root: &Path, kernels: &Path) {
    let output = Command::new("make")
        .args(["--no-print-directory", target, "PREFIX=/opt/tawpipe"])
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("TAWPIPE={}", env!("CARGO_BIN_EXE_tawpipe")))
        .arg(format!("KERNELS={}", kernels.display()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A staged installation has all parts, with a page and completions for every command, and goes away again.
#[test]
fn a_staged_installation() {
    let root = tempfile::tempdir().unwrap();
    let kernels = tempfile::tempdir().unwrap();
    std::fs::write(kernels.path().join("norm.fatbin"), "kernels").unwrap();
    make("install", root.path(), kernels.path());
    let prefix = root.path().join("opt/tawpipe");
    let read = |path: &str| std::fs::read_to_string(prefix.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(read("lib/tawpipe/kernels/norm.fatbin"), "kernels");
    let completions = [
        "bash-completion/completions/tawpipe",
        "zsh/site-functions/_tawpipe",
        "fish/vendor_completions.d/tawpipe.fish",
    ];
    for command in commands() {
        let page = read(&format!("share/man/man1/tawpipe-{command}.1"));
        // roff writes a hyphen as `\-`.
        assert!(page.contains(&format!("tawpipe\\-{command}")), "{command}:\n{page}");
        for file in completions {
            assert!(read(&format!("share/{file}")).contains(&command), "{file} lacks {command}");
        }
    }
    let page = read("share/man/man1/tawpipe-train.1");
    assert!(page.contains("\\-\\-resume") && page.contains("run.folder"), "{page}");
    assert!(read("share/man/man1/tawpipe.1").contains("Exit codes"));
    // What is hidden stays so.
    assert!(!files(&prefix).iter().any(|path| path.to_string_lossy().contains("__")), "{:?}", files(&prefix));

    let program = Command::new(prefix.join("bin/tawpipe")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(program.stdout).unwrap().trim(), concat!("tawpipe ", env!("CARGO_PKG_VERSION")));
    let other = prefix.join("share/man/man1/other.1");
    std::fs::write(&other, "").unwrap();
    make("uninstall", root.path(), kernels.path());
    assert_eq!(files(root.path()), [Path::new("opt/tawpipe/share/man/man1/other.1")]);
}
