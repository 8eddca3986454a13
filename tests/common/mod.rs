//! What several test programs share: how a test says that it cannot run on this machine.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Variable that names the file in which scripts/test.sh wants to know of tests that could not run.
const RECORD: &str = "TAWPIPE_TEST_RECORD";

/// Says that the calling test, or a part of it, cannot run here: what is missing, and how to get it. Call this on the test's
/// own thread, then return. `make test` counts the test as skipped, not as passed.
pub fn skip(reason: &str, how: &str) {
    println!("skipped: {reason}; {how}");
    let Some(record) = std::env::var_os(RECORD) else { return };
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy();
    // Cargo's names end in a hash.
    let program = program.rsplit_once('-').map_or(&*program, |(name, _)| name);
    let line = format!("skipped\t{reason}\t{how}\t{program} {}\n", test());
    // One write in append mode: tests of other threads and processes write too.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&record);
    file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap_or_else(|error| panic!("{record:?}: {error}"));
}

/// The running test. The main thread runs tests one after another and is not named after them: then every call counts.
fn test() -> String {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    match std::thread::current().name() {
        Some(name) if name != "main" => name.into(),
        _ => format!("test {}", CALLS.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Whether a line of shell ends well.
fn works(line: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

/// Where a program is, also among those of the administrator.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether jobs/virtual-cluster can run here, with Slurm if that is wanted; if not, the test is skipped.
pub fn virtual_cluster(slurm: bool) -> bool {
    let install = "`scripts/deps.sh test` installs it";
    let mut tools = vec!["python3", "ip", "tc", "nsenter"];
    if slurm {
        tools.extend(["munged", "slurmctld", "slurmd", "sbatch"]);
    }
    let kind = if slurm { "Slurm on a virtual cluster" } else { "a virtual cluster" };
    if !works("[ $(id -u) = 0 ]") {
        skip(&format!("{kind} needs root"), "run `make test` as root");
    } else if let Some(tool) = tools.into_iter().find(|tool| program(tool).is_none()) {
        skip(&format!("{kind} needs {tool}"), install);
    } else if !works("unshare --net --uts --mount --pid --fork true") {
        skip(&format!("{kind} needs namespaces, which are denied here"), "a container needs --privileged");
    } else {
        return true;
    }
    false
}

/// mpirun with so many ranks on this machine: for root, with more ranks than cores, and ended by itself if ranks wait for
/// each other.
pub fn mpirun(ranks: usize) -> Command {
    let mut command = Command::new(std::env::var("MPIRUN").unwrap_or("mpirun".into()));
    command
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        // Open MPI 4, and 5.
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        // Open MPI and MPICH obey the same variable.
        .env("MPIEXEC_TIMEOUT", "120")
        .args(["-n", &ranks.to_string(), "--bind-to", "none"]);
    command
}

/// A Python that has these modules: that of `TAWPIPE_PYTHON`, or python3; if it has not, the test is skipped.
pub fn python(modules: &str) -> Option<String> {
    // The Makefile sets it to nothing where no Python has h5py.
    let named = std::env::var("TAWPIPE_PYTHON").ok().filter(|name| !name.is_empty());
    let python = named.unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if has.is_ok_and(|done| done.status.success()) {
        return Some(python);
    }
    let how = match modules {
        "h5py" => "`scripts/deps.sh test` installs it".into(),
        _ => format!("`pip install {}`; TAWPIPE_PYTHON names a Python that has it", modules.replace(',', "")),
    };
    skip(&format!("no Python with {modules}"), &how);
    None
}

/// Mounts a small file system in memory; if that is denied, the test is skipped.
pub fn mount_small(folder: &Path, size: &str) -> bool {
    let options = format!("size={size}");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).output();
    let mounted = mount.is_ok_and(|done| done.status.success());
    if !mounted {
        skip("mounting a small file system needs root", "run `make test` as root");
    }
    mounted
}
