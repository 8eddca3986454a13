//! The project's rules of style: a module of src/ imports only modules below it, and no file is too long.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the ground up; a module may import those before it.
const MODULES: &[&str] = &[
    "exit",
    "output",
    "paths",
    "units",
    "random",
    "model",
    "cluster",
    "plan",
    "simulate",
    "device",
    "nn",
    "fabric",
    "engine",
    "data",
    "checkpoint",
    "metrics",
    "results",
    "report",
    "deck",
    "experiment",
    "train",
    "generate",
    "bench",
    "doctor",
    "cli",
];

/// No file is longer than this.
const MOST_LINES: usize = 600;

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn all(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if root.exists() {
        sources(&root, &mut files);
    }
    files
}

/// Modules named by `crate::module` in a line of code; several behind `crate::{a, b::c}`.
fn imports(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap();
    code.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &code[at + found.len()..];
            let (body, many) = match rest.strip_prefix('{') {
                Some(body) => (body, true),
                None => (rest, false),
            };
            let name = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            if many {
                // Only the first names of a flat list matter; nested braces repeat their module's name before them.
                body.split(',').map(name).collect::<Vec<_>>()
            } else {
                vec![name(rest)]
            }
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// A module that imported a higher one could make a cycle of modules that depend on each other.
#[test]
fn modules_import_only_modules_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let level = |module: &str| MODULES.iter().position(|m| *m == module);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in all("src") {
        let inside = path.strip_prefix(&root).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let here = level(&module).unwrap_or_else(|| panic!("module {module} is not in the list: add it to MODULES"));
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for name in imports(line) {
                seen += 1;
                if level(&name).is_some_and(|there| there > here) {
                    wrong.push(format!("{}:{}: {module} imports {name}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(seen > 20, "the scan found only {seen} imports: it no longer reads the code");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A file does one thing and can be read in one sitting.
#[test]
fn files_are_short() {
    let long: Vec<String> = ["src", "tests", "benches"]
        .into_iter()
        .flat_map(all)
        .filter_map(|path| {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            (lines > MOST_LINES).then(|| format!("{} has {lines} lines", path.display()))
        })
        .collect();
    assert!(long.is_empty(), "above {MOST_LINES} lines:\n{}", long.join("\n"));
}

/// What is ignored is started by another test: a test that cannot run here calls `common::skip`, which is counted.
#[test]
fn only_parts_of_other_tests_are_ignored() {
    for path in ["src", "tests"].into_iter().flat_map(all) {
        let text = fs::read_to_string(&path).unwrap();
        let ignored = text.match_indices(concat!("#[", "ignore"));
        for (at, found) in ignored {
            assert!(text[at + found.len()..].starts_with(" = \"started by "), "{}: an ignored test", path.display());
        }
    }
}

/// The scanner itself sees plain, listed and qualified imports, and skips comments.
#[test]
fn the_scan_reads_imports() {
    assert_eq!(imports("use crate::plan::Job;"), ["plan"]);
    assert_eq!(imports("use crate::{model, plan::Job};"), ["model", "plan"]);
    assert_eq!(imports("let x = crate::deck::read(); // crate::cli"), ["deck"]);
}
