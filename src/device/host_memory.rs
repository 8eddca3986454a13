//! How much memory this machine has, and how much of it this process may still take: what is free, and what control groups and
//! limits of the shell allow.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Memory of the machine that this process runs on. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// All memory of the machine.
    pub total: u64,
    /// What the kernel could give to new programs without swapping.
    pub available: u64,
    /// Swap space that is free.
    pub swap: u64,
    /// Of the control groups that this process is in, the one with the least left. All processes of a group share its limit.
    pub cgroup: Option<Limit>,
    /// The limits of this process alone: `ulimit -v` and `ulimit -d`.
    pub ulimits: Vec<Limit>,
}

/// A limit on memory. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Who sets it, such as `ulimit -v`.
    pub name: &'static str,
    /// What may be used in all.
    pub limit: u64,
    /// What is left below it, free swap included where it may be used.
    pub left: u64,
}

/// How much can still be taken, and what sets this bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Bytes that are left below it.
    pub bytes: u64,
    /// Who sets it, such as `the cgroup's memory limit`.
    pub name: String,
    /// Whether all processes of the node share it; else every process has its own.
    pub shared: bool,
}

impl HostMemory {
    /// Asks the kernel; `None` where it has no /proc.
    pub fn look() -> Option<Self> {
        let (proc, cgroups) = (Path::new("/proc"), Path::new("/sys/fs/cgroup"));
        Some(HostMemory { ulimits: ulimits(proc), ..Self::of_machine(proc, cgroups)? })
    }

    /// Bytes that all processes of this machine that belong to this job can still allocate together without swapping.
    pub fn usable(&self) -> u64 {
        self.available.min(self.cgroup.as_ref().map_or(u64::MAX, |group| group.left))
    }

    /// Everything that bounds what this process can still allocate.
    pub fn bounds(&self) -> Vec<Bound> {
        let machine = Limit {
            name: "the machine (MemAvailable and free swap)",
            limit: self.total,
            left: self.available + self.swap,
        };
        let bound = |limit: &Limit, shared| Bound { bytes: limit.left, name: limit.name.to_string(), shared };
        let shared = [&machine].into_iter().chain(&self.cgroup).map(|limit| bound(limit, true));
        shared.chain(self.ulimits.iter().map(|limit| bound(limit, false))).collect()
    }

    /// As [`HostMemory::look`] without the limits of the process, from the kernel's files below these folders.
    fn of_machine(proc: &Path, cgroups: &Path) -> Option<Self> {
        let table = table(&proc.join("meminfo"));
        let total = kib(&table, "MemTotal")?;
        // Kernels before 3.14 do not estimate what is available.
        let available = kib(&table, "MemAvailable").or_else(|| kib(&table, "MemFree")).unwrap_or(total);
        let swap = kib(&table, "SwapFree").unwrap_or(0);
        let groups = groups(proc, cgroups).into_iter().filter_map(|group| group.limit(swap));
        // A limit above the machine's memory is none.
        let cgroup = groups.filter(|group| group.limit < total).min_by_key(|group| group.left);
        Some(HostMemory { total, available, swap, cgroup, ulimits: Vec::new() })
    }
}

/// A folder of a control group, of version 1 or 2.
struct Group {
    folder: PathBuf,
    old: bool,
}

/// This process's control groups, each with those around it. In a container the path may be that of the host: then those that
/// do not exist are none, and the root of the mount is the container's own group.
fn groups(proc: &Path, cgroups: &Path) -> Vec<Group> {
    let text = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        // Such as `4:memory:/job` (version 1) or `0::/job` (version 2).
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let old = controllers.split(',').any(|name| name == "memory");
        if !old && !controllers.is_empty() {
            continue;
        }
        let mount = if old { cgroups.join("memory") } else { cgroups.to_path_buf() };
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        found.extend(above.map(|folder| Group { folder: mount.join(folder), old }));
    }
    found
}

impl Group {
    /// Its limit, with this much free swap. Pages of files that the kernel can drop are not counted as used.
    fn limit(&self, swap: u64) -> Option<Limit> {
        let [most, used, dropped] = match self.old {
            true => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            false => ["memory.max", "memory.current", "inactive_file"],
        };
        // `max`, which is no number, is no limit.
        let (limit, used) = (self.number(most)?, self.number(used)?);
        let dropped = plain(&table(&self.folder.join("memory.stat")), dropped).unwrap_or(0);
        let left = limit.saturating_sub(used.saturating_sub(dropped)).saturating_add(self.swap(swap));
        Some(Limit { name: "the cgroup's memory limit", limit, left })
    }

    /// How much of the free swap its processes may take. Version 1 counts swap together with memory, in a limit of its own.
    fn swap(&self, free: u64) -> u64 {
        if self.old {
            return 0;
        }
        let used = self.number("memory.swap.current").unwrap_or(0);
        self.number("memory.swap.max").map_or(free, |most| free.min(most.saturating_sub(used)))
    }

    /// A file that holds one number.
    fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }
}

/// `ulimit -v` and `ulimit -d`, with what this process has already.
fn ulimits(proc: &Path) -> Vec<Limit> {
    let status = table(&proc.join("self/status"));
    let limit = |resource, used: &str, name| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid resource and a place for its limits.
        let known = unsafe { libc::getrlimit(resource, &mut limit) } == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
        let left = limit.rlim_cur.saturating_sub(kib(&status, used).unwrap_or(0));
        known.then_some(Limit { name, limit: limit.rlim_cur, left })
    };
    let space = limit(libc::RLIMIT_AS, "VmSize", "ulimit -v");
    let data = limit(libc::RLIMIT_DATA, "VmData", "ulimit -d");
    space.into_iter().chain(data).collect()
}

/// Lines `Name: value` or `name value` of a file of the kernel.
fn table(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let (name, value) = line.split_once([':', ' '])?;
        Some((name.to_string(), value.trim().to_string()))
    };
    text.lines().filter_map(line).collect()
}

fn plain(table: &[(String, String)], name: &str) -> Option<u64> {
    table.iter().find(|(other, _)| other == name)?.1.parse().ok()
}

fn kib(table: &[(String, String)], name: &str) -> Option<u64> {
    let value = &table.iter().find(|(other, _)| other == name)?.1;
    Some(1024 * value.strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MEMINFO: (&str, &str) =
        ("proc/meminfo", "MemTotal: 9216 kB\nMemFree: 100 kB\nMemAvailable:    3072 kB\nSwapFree: 1024 kB\n");

    /// What a machine with these files of the kernel says.
    fn machine(files: &[(&str, &str)]) -> HostMemory {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [MEMINFO].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        HostMemory::of_machine(&root.path().join("proc"), &root.path().join("cgroup")).unwrap()
    }

    /// Bytes below the bounds that processes share.
    fn left(machine: &HostMemory) -> Vec<u64> {
        machine.bounds().iter().filter(|bound| bound.shared).map(|bound| bound.bytes).collect()
    }

    /// What is free counts with free swap.
    #[test]
    fn without_groups() {
        let found = machine(&[("proc/self/cgroup", "0::/\n")]);
        assert_eq!((left(&found), found.usable(), &found.cgroup), (vec![4 * MIB], 3 * MIB, &None));
    }

    /// Version 2: the group with the least left of a process's own and those around it counts, without pages that can be
    /// dropped, and with swap where the group may use it.
    #[test]
    fn groups_of_version_2() {
        let two = [
            ("proc/self/cgroup", "0::/job/step\n"),
            ("cgroup/job/memory.max", "8388608\n"),
            ("cgroup/job/memory.current", "7340032\n"),
            ("cgroup/job/memory.stat", "anon 7\ninactive_file 1048576\n"),
            ("cgroup/job/step/memory.max", "max\n"),
            ("cgroup/job/step/memory.current", "1048576\n"),
        ];
        let without = machine(&[&two[..], &[("cgroup/job/memory.swap.max", "0")]].concat());
        assert_eq!((left(&without), without.usable()), (vec![4 * MIB, 2 * MIB], 2 * MIB));
        assert_eq!(without.cgroup.unwrap().limit, 8 * MIB);
        assert_eq!(left(&machine(&two)), [4 * MIB, 3 * MIB]);
    }

    /// Version 1: limits are in other files, and no limit is a number near 2^63.
    #[test]
    fn groups_of_version_1() {
        let one = machine(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n"),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("cgroup/memory/memory.usage_in_bytes", "5"),
            ("cgroup/memory/a/b/memory.limit_in_bytes", "5242880"),
            ("cgroup/memory/a/b/memory.usage_in_bytes", "4194304"),
            ("cgroup/memory/a/b/memory.stat", "total_inactive_file 1048576\n"),
        ]);
        assert_eq!(left(&one), [4 * MIB, 2 * MIB]);
    }

    /// A container sees its own limit at the root of the mount, under a path of the host that it cannot see.
    #[test]
    fn groups_of_a_container() {
        let inside = machine(&[
            ("proc/self/cgroup", "0::/docker/1234\n"),
            ("cgroup/memory.max", "2097152"),
            ("cgroup/memory.current", "1048576"),
            ("cgroup/memory.swap.max", "0"),
        ]);
        assert_eq!(left(&inside), [4 * MIB, MIB]);
    }

    /// This machine says how much it has left, and not more than it has.
    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine() {
        let found = HostMemory::look().unwrap();
        assert!(found.available <= found.total && found.usable() > MIB, "{found:?}");
        assert!(found.bounds().iter().all(|bound| bound.bytes > MIB), "{found:?}");
    }
}
