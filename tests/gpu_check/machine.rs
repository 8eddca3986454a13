//! What the scripts run on: the emulated driver, or a machine that is made up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::built;

/// The script that checks a GPU.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu/check.py")
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// The result of a step; nothing if it was not taken.
pub fn result(out: &Path, step: &str) -> Option<Value> {
    let text = std::fs::read_to_string(out.join(format!("{step}.json"))).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// Verdict and reason of a step that was taken.
pub fn verdict(out: &Path, step: &str) -> (String, String) {
    let step = result(out, step).unwrap_or_else(|| panic!("{step} was not taken"));
    let word = |key: &str| step[key].as_str().unwrap_or_default().to_string();
    (word("verdict"), word("why"))
}

/// The script on the emulated driver, with this program; PyTorch is not looked for.
pub fn emulated(bundle: &Path, out: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(script()).arg("--emulated").arg(built::emulated_driver()).arg("--bundle").arg(bundle);
    command.arg("--out").arg(out).args(["--python", "/nowhere/python"]).env("EMU_DEVICES", "1");
    command
}

fn executable(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Stands for the tests of the kernels: all pass.
const TESTS: &str = "echo 'test ops::norms ... ok'";
/// Stands for the timings of the kernels.
const TIMES: &str = r#"for kernel in copy matmul attention attention_backward embed adamw; do
    echo "{\"kernel\": \"$kernel\", \"sizes\": \"64\", \"bound\": \"bytes\", \"seconds\": 1e-3, \"tflops\": 1.0, \"gbps\": 1.0}"
done"#;

/// A bundle with this program, whose other programs only say that they are content; for the emulated driver.
pub fn bundle(folder: &Path) -> PathBuf {
    let bundle = folder.join("bundle");
    executable(&bundle.join("bin/kernels-tests"), TESTS);
    executable(&bundle.join("bin/gpu-kernels"), TIMES);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tawpipe"), bundle.join("bin/tawpipe")).unwrap();
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    std::os::unix::fs::symlink(parity, bundle.join("parity")).unwrap();
    bundle
}

/// A machine with a GPU, CUDA's tools and PyTorch, all of which are scripts of a line.
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Self {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        machine.tool(
            "nvidia-smi",
            "case $1 in *name*) echo 'NVIDIA H100 80GB HBM3';; *memory*) echo 81559;; *) echo 580;; esac",
        );
        machine.tool("nvcc", "echo 'release 13.0'");
        // Tools run what they are given, as the real ones do, and add what they found.
        machine.tool(
            "compute-sanitizer",
            "[ $1 = --tool ] && [ $3 = --error-exitcode ] && shift 4 && \"$@\" && echo '========= ERROR SUMMARY: 0 errors'",
        );
        machine.tool(
            "ncu",
            "if [ $1 = --import ]; then [ -e $2 ] && echo attention_flash_128; exit; fi\n\
             while [ $1 != --export ]; do shift; done\n\
             touch $2; shift 2; \"$@\"",
        );
        machine.tool(
            "python",
            "case $1 in -c) echo '2.11.0+cu130 /nowhere/torch';; *) for kernel in a b c d; do\n\
             echo \"{\\\"kernel\\\": \\\"$kernel\\\", \\\"sizes\\\": \\\"64\\\", \\\"seconds\\\": 1e-3, \\\"tokens_per_s\\\": 1000.0}\"\n\
             done;; esac",
        );
        machine.program("kernels-tests", TESTS);
        machine.program("gpu-kernels", TIMES);
        machine.program(
            "tawpipe",
            "for step in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do\n\
             echo '{\"loss\": 1.0, \"step_s\": 1.0, \"tokens_per_s\": 1000.0}'; done",
        );
        for config in ["a_mha4", "b_gqa2"] {
            let folder = machine.path().join("bundle/parity").join(config);
            std::fs::create_dir_all(&folder).unwrap();
            let losses = serde_json::json!({ "float32": { "step_loss": vec![1.0; 20] } });
            std::fs::write(folder.join("reference.json"), losses.to_string()).unwrap();
        }
        machine
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces a tool of the machine.
    pub fn tool(&self, name: &str, text: &str) {
        executable(&self.path().join("tools").join(name), text);
    }

    /// Replaces a program of the bundle.
    pub fn program(&self, name: &str, text: &str) {
        executable(&self.path().join("bundle/bin").join(name), text);
    }

    /// Runs the script there, with its results in the folder `out`.
    pub fn check(&self, args: &[&str]) -> Output {
        let path = format!("{}:{}", self.path().join("tools").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("python3");
        command.arg(script()).args(["--bundle", "bundle", "--out", "out", "--python"]);
        command.arg(self.path().join("tools/python")).args(args);
        command.current_dir(self.path()).env("PATH", path).output().expect("python3 starts")
    }

    pub fn out(&self) -> PathBuf {
        self.path().join("out")
    }
}
