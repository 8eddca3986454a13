//! The emulated driver does what a real one would, and tells of misuse: what other tests of the GPU rest on.

use std::process::Command;

use crate::built::emulated_driver;

mod api;
mod messages;
mod products;
mod streams;

/// The tests of all operations pass on the CUDA device itself, with its streams, modules and matrix products, over the
/// emulated driver; it has nothing to complain of.
#[test]
fn the_cuda_device_runs_on_it() {
    let driver = emulated_driver();
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["ops::", "attention::", "units::"])
        .envs([("LD_LIBRARY_PATH", driver.clone()), ("TAWPIPE_KERNELS", driver.join("modules"))])
        .env("TAWPIPE_TEST_GPU", "1")
        .output()
        .unwrap();
    let (output, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && output.contains("test result: ok."), "{output}\n{errors}");
    let passed = output.lines().filter(|line| line.starts_with("test ") && line.ends_with("ok")).count();
    assert!(passed >= 8, "the tests of operations were not found:\n{output}");
    assert!(!errors.contains("emulated GPU"), "{errors}");
}
