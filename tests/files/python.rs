//! What unmodified Python tools and HDF5's own make of our files.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tawpipe::checkpoint::hf::{ExportOptions, HfFolder, Width, export};
use tempfile::TempDir;

use crate::common::{python, skip};
use crate::hf::parity;

/// Output of a command that must succeed.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    assert!(status.success(), "{command:?}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// Runs a script of tests/python and parses what it prints.
pub fn script(python: &str, name: &str, arguments: &[&str]) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let text = succeed(Command::new(python).arg(path).args(arguments));
    serde_json::from_str(&text).expect("a script prints one JSON object")
}

/// h5dump; where it is not installed, the test is skipped.
pub fn h5dump() -> Option<Command> {
    if Command::new("h5dump").arg("--version").output().is_ok() {
        return Some(Command::new("h5dump"));
    }
    skip("no h5dump", "`scripts/deps.sh` installs it (Debian: hdf5-tools)");
    None
}

/// transformers loads an exported folder, with every tensor in its place, to the same logits.
#[test]
fn transformers_loads_exports_with_the_same_logits() {
    let Some(python) = python("transformers, torch") else { return };
    let folder = TempDir::new().unwrap();
    for (width, tolerance) in [
        // The same weights: only the order of sums may differ between versions of PyTorch.
        (Width::F32, 1e-5),
        // bf16 rounds weights by up to 2^-9 relative; logits of order 1 follow.
        (Width::Bf16, 3e-2),
    ] {
        let reference = parity("b_gqa2");
        let source = HfFolder::open(&reference.join("init")).unwrap();
        let to = folder.path().join(width.torch_name());
        export(&source, &to, &ExportOptions { width, positions: 64, tokenizer: None }).unwrap();
        let seen = script(&python, "logits.py", &[to.to_str().unwrap(), reference.to_str().unwrap()]);
        let relative = seen["difference"].as_f64().unwrap() / seen["scale"].as_f64().unwrap();
        assert!(relative < tolerance, "{width:?}: {relative}");
        assert_eq!((seen["missing"].to_string(), seen["unexpected"].to_string()), ("[]".into(), "[]".into()));
        assert_eq!((seen["theta"].as_f64(), seen["tied"].as_bool()), (Some(10_000.0), Some(false)));
    }
}

/// h5py sees every tensor under its name with its numbers, and the attributes; h5dump reads the file too.
#[cfg(feature = "hdf5")]
#[test]
fn h5py_and_h5dump_read_checkpoints() {
    use crate::checkpoint::saved;
    use crate::ranks::{shape, whole};
    let folder = TempDir::new().unwrap();
    let shape = shape(false);
    let (path, parts) = saved(folder.path(), &shape, 5, 3);
    let path = path.to_str().unwrap();
    if let Some(mut h5dump) = h5dump() {
        let text = succeed(h5dump.args(["-d", "/model/model.norm.weight", path]));
        assert!(text.contains("H5T_IEEE_F32LE") && text.contains("SIMPLE { ( 24 ) / ( 24 ) }"), "{text}");
    }
    let Some(python) = python("h5py") else { return };
    let seen = script(&python, "read_checkpoint.py", &[path]);
    assert_eq!(seen["step"].as_u64(), Some(5));
    assert_eq!(seen["seed"].as_u64(), Some(u64::MAX - 1));
    assert_eq!(seen["deck"].as_str(), Some("[model]\ndim = 24 # é\n"));
    assert_eq!(seen["model"]["kv_heads"].as_u64(), Some(2));
    let groups = ["model", "optimizer/moment1", "optimizer/moment2"];
    let all = whole(&parts);
    assert_eq!(seen["datasets"].as_object().unwrap().len(), all.len());
    for ((name, which), values) in all {
        let dataset = &seen["datasets"][format!("{}/{name}", groups[which])];
        let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
        assert!((dataset["sum"].as_f64().unwrap() - sum).abs() < 1e-9, "{name}: {dataset}");
        assert_eq!(dataset["dtype"], "float32");
    }
    assert_eq!(seen["datasets"]["model/lm_head.weight"]["shape"], serde_json::json!([37, 24]));
}
