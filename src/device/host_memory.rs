//! How much memory this machine has, and how much of it this process may use.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Memory of the machine that this process runs on. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMemory {
    /// All memory of the machine.
    pub total: u64,
    /// What the kernel could give to new programs without swapping.
    pub available: u64,
    /// The tightest limit of the control groups that this process is in; all processes of such a group share it.
    pub cgroup: Option<CgroupLimit>,
    /// The limit of this process alone (`ulimit -v` or `ulimit -d`).
    pub ulimit: Option<u64>,
}

/// A control group's limit. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimit {
    /// What its processes may use together.
    pub limit: u64,
    /// What they use now, without cached files that the kernel would drop.
    pub used: u64,
}

impl HostMemory {
    /// Asks the kernel; `None` where it has no /proc.
    pub fn look() -> Option<Self> {
        let ulimit = [libc::RLIMIT_AS, libc::RLIMIT_DATA].into_iter().filter_map(limit_of_process).min();
        Some(HostMemory { ulimit, ..Self::below(Path::new("/"))? })
    }

    /// Bytes that all processes of this machine that belong to this job can still allocate together.
    pub fn usable(&self) -> u64 {
        let cgroup = self.cgroup.map_or(u64::MAX, |cgroup| cgroup.limit.saturating_sub(cgroup.used));
        self.available.min(cgroup)
    }

    /// As [`HostMemory::look`], from the files below `root`.
    fn below(root: &Path) -> Option<Self> {
        let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
        let kilobytes = |key: &str| number_behind(&meminfo, key).map(|kilobytes| kilobytes * 1024);
        let total = kilobytes("MemTotal:")?;
        // Kernels before 3.14 do not estimate what is available.
        let available = kilobytes("MemAvailable:").or_else(|| kilobytes("MemFree:")).unwrap_or(total);
        Some(HostMemory { total, available, cgroup: cgroup(root, total), ulimit: None })
    }
}

/// The number behind a key at the start of a line.
fn number_behind(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

/// A limit of this process, if there is one.
fn limit_of_process(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid resource and a place for its limits.
    let code = unsafe { libc::getrlimit(resource, &mut limit) };
    (code == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The tightest limit of this process's control groups, of version 1 or 2. A limit above the machine's memory is none.
fn cgroup(root: &Path, total: u64) -> Option<CgroupLimit> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut tightest: Option<CgroupLimit> = None;
    for line in text.lines() {
        // Such as `4:memory:/job` (version 1) or `0::/job` (version 2).
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, files) = match controllers {
            "" => ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file"]),
            list if list.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
            }
            _ => continue,
        };
        let mount = root.join(mount);
        // A container may see its own group as the root of the mount, under a path of the host's: every ancestor counts.
        for folder in Path::new(path.trim_start_matches('/')).ancestors().map(|folder| mount.join(folder)) {
            if let Some(found) = limit_of_group(&folder, files)
                && found.limit < tightest.map_or(total, |tightest| tightest.limit)
            {
                tightest = Some(found);
            }
        }
    }
    tightest
}

fn limit_of_group(folder: &Path, [limit, usage, cached]: [&str; 3]) -> Option<CgroupLimit> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = number_behind(&stat, &format!("{cached} ")).unwrap_or(0);
    // `max`, which is no number, is no limit.
    Some(CgroupLimit { limit: number(limit)?, used: number(usage)?.saturating_sub(cached) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\n");

    /// Version 2: the tightest of a group and its ancestors counts, less what is in use and no cache.
    #[test]
    fn cgroups_of_version_2() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/slurm/job_7/step_0\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.max", "512000\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.current", "300000\n"),
            ("sys/fs/cgroup/slurm/job_7/memory.stat", "anon 200000\nfile 100000\ninactive_file 90000\n"),
            ("sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n"),
            ("sys/fs/cgroup/slurm/job_7/step_0/memory.current", "300000\n"),
        ]);
        let found = HostMemory::below(root.path()).unwrap();
        let cgroup = Some(CgroupLimit { limit: 512_000, used: 210_000 });
        assert_eq!(found, HostMemory { total: 1_024_000, available: 614_400, cgroup, ulimit: None });
        assert_eq!(found.usable(), 302_000);
    }

    /// Version 1: a container sees its own limit at the root of the mount, under a path that it cannot see; a limit beyond
    /// the machine is none.
    #[test]
    fn cgroups_of_version_1() {
        let files = |limit| {
            root(&[
                MEMINFO,
                ("proc/self/cgroup", "9:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n"),
            ])
        };
        let found = HostMemory::below(files("2000\n").path()).unwrap();
        assert_eq!((found.cgroup, found.usable()), (Some(CgroupLimit { limit: 2000, used: 1000 }), 1000));
        let found = HostMemory::below(files("9223372036854771712\n").path()).unwrap();
        assert_eq!((found.cgroup, found.usable()), (None, 614_400));
    }

    /// This machine answers.
    #[test]
    fn this_machine() {
        let found = HostMemory::look().unwrap();
        assert!(found.available <= found.total && found.usable() > 0, "{found:?}");
    }
}
