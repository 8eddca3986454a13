//! The example of docs/add-a-system.md is a file that is compiled and checked.

use super::{compare, parts, read};

/// What the document shows is the file, without its tests' bodies being hidden.
#[test]
fn the_example_is_the_file() {
    let shown =
        parts::replace(&read("docs/add-a-system.md"), "file", |name| Some(format!("```rust\n{}```\n", read(name))));
    assert!(shown.contains("impl System for Toy"));
    compare("docs/add-a-system.md", &shown);
}
