//! Documents that are partly written by the program: what they say is what it does.
//!
//! `UPDATE=1 cargo test --test docs` rewrites them.

mod example;
mod figures;
mod options;
mod parts;
mod systems;
mod toy;

use std::path::{Path, PathBuf};

/// A file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository as text; empty if there is none.
pub fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_default()
}

/// A file must read like this; with `UPDATE` it is made so.
pub fn compare(name: &str, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        std::fs::write(path(name), expected).unwrap();
    }
    // Not assert_eq: two whole files in a message help nobody.
    assert!(read(name) == expected, "{name} is out of date: run UPDATE=1 cargo test --test docs");
}
