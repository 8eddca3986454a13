//! The `tawpipe` program.

fn main() {}
