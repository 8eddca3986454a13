//! What the launcher and the operating system have given this process.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::FabricError;

/// Variables in which launchers tell how many ranks they started, those of the innermost launcher first.
const WORLD_SIZES: [&str; 5] =
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"];

/// How many ranks a launcher says that it started, the variable that says it, if one does.
fn launched(variable: &impl Fn(&str) -> Option<String>) -> Option<(&'static str, usize)> {
    WORLD_SIZES.iter().find_map(|&name| Some((name, variable(name)?.parse().ok()?)))
}

/// How many ranks the launcher says that it started; 1 if nobody says anything. Known before MPI is initialised.
pub fn launched_ranks() -> usize {
    launched(&|name: &str| std::env::var(name).ok()).map_or(1, |(_, ranks)| ranks)
}

/// Refuses a world of one rank that was meant to have more: each of N such programs would train alone and overwrite
/// the others' files. `variable` looks up the environment; a program without MPI is a world of one.
///
/// # Errors
/// [`FabricError::Singletons`], which says how to start the program.
pub fn refuse_singletons(size: usize, variable: impl Fn(&str) -> Option<String>) -> Result<(), FabricError> {
    match launched(&variable) {
        Some((name, ranks)) if size == 1 && ranks > 1 => Err(FabricError::Singletons { variable: name, ranks }),
        _ => Ok(()),
    }
}

/// Variables in which a process manager tells a rank who it is.
const MANAGERS: [&str; 5] = ["PMIX_RANK", "PMI_RANK", "PMI_FD", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"];

/// Refuses one of several tasks that `srun` started without a process manager, before MPI is initialised: some MPI
/// libraries would make it a world of its own, and others end the program with pages of text.
///
/// # Errors
/// [`FabricError::Singletons`].
#[cfg_attr(
    not(any(feature = "mpi", test)),
    allow(dead_code, reason = "only a build with MPI is ever started by srun as a rank")
)]
pub fn refuse_unmanaged(variable: impl Fn(&str) -> Option<String>) -> Result<(), FabricError> {
    const STEP: &str = "SLURM_STEP_NUM_TASKS";
    match variable(STEP).and_then(|text| text.parse().ok()) {
        Some(ranks) if ranks > 1 && MANAGERS.iter().all(|name| variable(name).is_none()) => {
            Err(FabricError::Singletons { variable: STEP, ranks })
        }
        _ => Ok(()),
    }
}

/// Whether a launcher has started this process as a rank. A batch script of Slurm is none.
pub fn is_launched() -> bool {
    // Asked once, before MPI starts: a library that starts alone sets the variables of its own launcher.
    static LAUNCHED: OnceLock<bool> = OnceLock::new();
    *LAUNCHED.get_or_init(|| {
        let mut names = MANAGERS.iter().chain(["SLURM_STEP_NUM_TASKS"].iter());
        names.any(|name| std::env::var_os(name).is_some())
    })
}

/// What the MPI library says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MpiLibrary {
    /// Name and version.
    pub name: String,
    /// Version of the standard.
    pub standard: String,
    /// The thread level that it has granted.
    pub threads: String,
}

/// The MPI library, while MPI runs; `None` otherwise, and in a program without MPI.
pub fn mpi_library() -> Option<MpiLibrary> {
    #[cfg(feature = "mpi")]
    return super::mpi::library();
    #[cfg(not(feature = "mpi"))]
    None
}

/// This machine's name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().into()
}

/// Ends the job on all ranks with this exit code; without MPI, this process. Any thread may call it.
pub fn abort(code: i32) -> ! {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    #[cfg(feature = "mpi")]
    super::mpi::abort(code);
    std::process::exit(code);
}

/// Ends this process at once, while another thread hangs inside the MPI library: what the library would do at the exit could
/// hang as well.
pub fn leave(code: i32) -> ! {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process and never returns.
    unsafe { libc::_exit(code) }
}

/// Logs a warning if the process may use fewer cores than its threads need: `threads` for compute, and one that
/// communicates.
pub fn warn_about_cores(threads: usize) {
    let cores = crate::device::allowed_cores().len();
    if cores < threads + 1 {
        log::warn!(
            "this rank may use {cores} core(s) but has {threads} compute thread(s) and one that communicates; give it \
             more with `mpirun --bind-to none` or `--map-by slot:PE={}` (srun: `--cpus-per-task={}`)",
            threads + 1,
            threads + 1,
        );
    }
}

/// Makes short sleeps of the calling thread end on time: the kernel may otherwise add 50 µs to each.
pub fn sleep_precisely() {
    #[cfg(target_os = "linux")]
    // SAFETY: changes a number of the calling thread; a failure leaves the default, which only costs time.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1000 as libc::c_ulong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One rank of a job of four is refused, whoever launched it; a world of one in a larger allocation, started by
    /// `mpirun -n 1`, is not.
    #[test]
    fn singletons() {
        let with = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string())
        };
        assert!(refuse_singletons(1, with(&[])).is_ok());
        assert!(refuse_singletons(4, with(&[("SLURM_NTASKS", "4")])).is_ok());
        assert!(refuse_singletons(1, with(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_NTASKS", "4")])).is_ok());
        for set in [&[("SLURM_NTASKS", "4")], &[("PMI_SIZE", "4")], &[("OMPI_COMM_WORLD_SIZE", "4")]] {
            let error = refuse_singletons(1, with(set)).unwrap_err().to_string();
            assert!(error.contains("srun --mpi=pmix") && error.contains("mpirun -n 4"), "{error}");
        }
    }

    /// A task of srun needs a process manager; a batch script and a single task do not.
    #[test]
    fn unmanaged_tasks() {
        let check = |set: &[(&str, &str)]| {
            refuse_unmanaged(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
        };
        assert!(check(&[("SLURM_NTASKS", "4")]).is_ok());
        assert!(check(&[("SLURM_STEP_NUM_TASKS", "1")]).is_ok());
        assert!(check(&[("SLURM_STEP_NUM_TASKS", "4"), ("PMIX_RANK", "0")]).is_ok());
        assert!(check(&[("SLURM_STEP_NUM_TASKS", "4")]).is_err());
    }
}
