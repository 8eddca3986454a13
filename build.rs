//! Takes the GPU's kernels into the program where `make kernels` has compiled them.

use std::env;
use std::fmt::Write;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TAWPIPE_KERNELS");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        embed_kernels();
    }
}

/// Writes a list of the fatbins in TAWPIPE_KERNELS, which may be none: then the program looks for them when it runs.
fn embed_kernels() {
    let mut list = String::from("&[\n");
    let folder = env::var_os("TAWPIPE_KERNELS").map(PathBuf::from);
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let mut paths: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "fatbin"));
    paths.sort();
    for path in paths {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(list, "    ({name:?}, include_bytes!({path:?})),").expect("text grows");
    }
    list.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write")).join("fatbins.rs");
    std::fs::write(out, list).expect("the build's own folder can be written to");
}
