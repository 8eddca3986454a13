//! What the operating system says about this process and this machine.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Processor seconds that this process has used so far, over all its threads.
pub fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a place for its time.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// Bytes of memory of this machine, if it says.
pub fn memory_bytes() -> Option<f64> {
    // SAFETY: both calls only return a number.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    (pages > 0 && size > 0).then_some(pages as f64 * size as f64)
}

/// Numbers of the cores that this process is bound to, ascending.
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: a zeroed set is a valid argument; the first call only writes to it, CPU_ISSET only reads it below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return (0..online_cores()).collect();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
    }
}

/// How many cores several processes of one machine may use together. For each: the cores that it is bound to, and the threads
/// that may run at once (fewer where a control group, which they share, holds them back).
pub fn cores_together<'a>(processes: impl Iterator<Item = (&'a [usize], usize)> + Clone) -> usize {
    let bound: BTreeSet<usize> = processes.clone().flat_map(|(cores, _)| cores.iter().copied()).collect();
    let held = processes.filter(|(cores, threads)| *threads < cores.len()).map(|(_, threads)| threads);
    held.min().unwrap_or(bound.len()).min(bound.len())
}

/// Cores of this machine, whoever may use them.
pub fn online_cores() -> usize {
    // SAFETY: only returns a number.
    unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize
}

/// Bytes that this user can still write to the file system of a folder; `None` if it does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: zeroed numbers are valid; a text that ends with a zero, and a place for the result.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found) == 0).then(|| found.f_bavail as u64 * found.f_frsize as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes share the cores that they are bound to, and a limit on what runs at once.
    #[test]
    fn cores_are_shared() {
        let together = |processes: &[(&[usize], usize)]| cores_together(processes.iter().copied());
        assert_eq!(together(&[(&[0, 1], 2), (&[0, 1], 2)]), 2);
        assert_eq!(together(&[(&[0], 1), (&[1, 2], 2)]), 3);
        assert_eq!(together(&[(&[0, 1, 2, 3], 2), (&[0, 1, 2, 3], 2)]), 2);
    }
}
