//! Links the system's oneDNN when the feature `onednn` asks for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DNNL_DIR");
    if std::env::var_os("CARGO_FEATURE_ONEDNN").is_some() {
        if let Ok(folder) = std::env::var("DNNL_DIR") {
            println!("cargo::rustc-link-search=native={folder}/lib");
        }
        println!("cargo::rustc-link-lib=dnnl");
        println!("cargo::rustc-link-lib=gomp");
    }
}
