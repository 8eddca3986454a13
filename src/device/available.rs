//! How much memory this process may still take: what the machine has left, and what cgroups and limits of the shell allow.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A bound on memory, and who sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Bytes that are left below it.
    pub bytes: u64,
    /// Who sets it, such as `its cgroup's memory.max`.
    pub name: String,
    /// Whether all processes of the node share it; else every process has its own.
    pub shared: bool,
}

/// All bounds that are known; none where the system does not say.
pub fn available() -> Vec<Bound> {
    bounds(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn bounds(proc: &Path, cgroups: &Path) -> Vec<Bound> {
    let machine = table(&proc.join("meminfo"));
    let swap = kib(&machine, "SwapFree").unwrap_or(0);
    let free = kib(&machine, "MemAvailable");
    let mut bounds: Vec<Bound> = free
        .map(|free| Bound { bytes: free + swap, name: "the machine (MemAvailable and free swap)".into(), shared: true })
        .into_iter()
        .collect();
    bounds.extend(cgroup(proc, cgroups, swap));
    bounds.extend(limits(proc));
    bounds
}

/// The tightest cgroup from this process's own up to the root, version 1 or 2. Pages of files that the kernel can drop
/// are not counted as used.
fn cgroup(proc: &Path, root: &Path, swap: u64) -> Option<Bound> {
    let text = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?.to_string(), parts.next()?.trim_start_matches('/').to_string());
        let old = controllers.split(',').any(|name| name == "memory");
        (old || controllers.is_empty()).then_some((old, path))
    };
    let mut found: Vec<u64> = Vec::new();
    for (old, path) in text.lines().filter_map(of) {
        let root = if old { root.join("memory") } else { root.to_path_buf() };
        // In a container the path may be that of the host: then the namespace's root is all there is.
        let own = root.join(path);
        let up = own.ancestors().take_while(|folder| folder.starts_with(&root)).map(Path::to_path_buf);
        found.extend(up.filter_map(|folder| if old { left_1(&folder) } else { left_2(&folder, swap) }));
    }
    let bytes = found.into_iter().min()?;
    Some(Bound { bytes, name: "the cgroup's memory limit".into(), shared: true })
}

fn left_2(folder: &Path, swap: u64) -> Option<u64> {
    let (most, used) = (number(folder.join("memory.max"))?, number(folder.join("memory.current"))?);
    let dropped = plain(&table(&folder.join("memory.stat")), "inactive_file").unwrap_or(0);
    let swap = match number(folder.join("memory.swap.max")) {
        Some(most) => swap.min(most.saturating_sub(number(folder.join("memory.swap.current")).unwrap_or(0))),
        None => swap,
    };
    Some(most.saturating_sub(used.saturating_sub(dropped)).saturating_add(swap))
}

fn left_1(folder: &Path) -> Option<u64> {
    let most = number(folder.join("memory.limit_in_bytes"))?;
    // Without a limit the file says so with a number near 2^63.
    let used = number(folder.join("memory.usage_in_bytes")).filter(|_| most < 1 << 60)?;
    let dropped = plain(&table(&folder.join("memory.stat")), "total_inactive_file").unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(dropped)))
}

/// `ulimit -v` and `ulimit -d`, each without what this process has already.
fn limits(proc: &Path) -> Vec<Bound> {
    let status = table(&proc.join("self/status"));
    let limit = |resource, used: &str, name: &str| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a place for two numbers.
        let known = unsafe { libc::getrlimit(resource, &mut limit) } == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
        let bytes = limit.rlim_cur.saturating_sub(kib(&status, used).unwrap_or(0));
        known.then(|| Bound { bytes, name: name.into(), shared: false })
    };
    let space = limit(libc::RLIMIT_AS, "VmSize", "ulimit -v");
    let data = limit(libc::RLIMIT_DATA, "VmData", "ulimit -d");
    space.into_iter().chain(data).collect()
}

/// Lines `Name: value` or `name value` of a file of the kernel.
fn table(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
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

/// A file that holds one number; `None` for `max`.
fn number(path: PathBuf) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Files of the kernel as a test wants them.
    fn fake(files: &[(&str, String)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn shared(root: &tempfile::TempDir) -> Vec<u64> {
        let all = bounds(&root.path().join("proc"), &root.path().join("cgroup"));
        all.iter().filter(|bound| bound.shared).map(|bound| bound.bytes).collect()
    }

    /// What is free counts with free swap; of cgroups the tightest on the way up, without pages that can be dropped.
    #[test]
    fn machine_and_cgroups() {
        let meminfo = ("proc/meminfo", "MemTotal: 4096 kB\nMemAvailable:    3072 kB\nSwapFree: 1024 kB\n".to_string());
        let none = fake(&[meminfo.clone(), ("proc/self/cgroup", "0::/\n".into())]);
        assert_eq!(shared(&none), [4 * MIB]);

        let files = |folder: &str, max: &str, used: u64| {
            vec![
                (format!("cgroup/{folder}memory.max"), max.to_string()),
                (format!("cgroup/{folder}memory.current"), used.to_string()),
                (format!("cgroup/{folder}memory.stat"), format!("anon 7\ninactive_file {MIB}\n")),
                (format!("cgroup/{folder}memory.swap.max"), "0".to_string()),
            ]
        };
        let mut two: Vec<(String, String)> = files("job/", &(8 * MIB).to_string(), 6 * MIB);
        two.extend(files("job/step/", "max", MIB));
        two.push(("proc/self/cgroup".into(), "0::/job/step\n".into()));
        two.push((meminfo.0.into(), meminfo.1.clone()));
        let two: Vec<(&str, String)> = two.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
        assert_eq!(shared(&fake(&two)), [4 * MIB, 3 * MIB]);

        let one = fake(&[
            meminfo.clone(),
            ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n".into()),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712".into()),
            ("cgroup/memory/memory.usage_in_bytes", "5".into()),
            ("cgroup/memory/a/b/memory.limit_in_bytes", (5 * MIB).to_string()),
            ("cgroup/memory/a/b/memory.usage_in_bytes", (4 * MIB).to_string()),
            ("cgroup/memory/a/b/memory.stat", format!("total_inactive_file {MIB}\n")),
        ]);
        assert_eq!(shared(&one), [4 * MIB, 2 * MIB]);
        // Inside a container the path of the host does not exist.
        let inside = fake(&[
            meminfo,
            ("proc/self/cgroup", "0::/docker/1234\n".into()),
            ("cgroup/memory.max", (2 * MIB).to_string()),
            ("cgroup/memory.current", MIB.to_string()),
            ("cgroup/memory.swap.max", "0".into()),
        ]);
        assert_eq!(shared(&inside), [4 * MIB, MIB]);
    }

    /// This machine says how much it has left, and not more than it has.
    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_says() {
        let all = available();
        let most = all.iter().map(|bound| bound.bytes).min().expect("Linux says");
        assert!(most > MIB && (most as f64) < 2.0 * super::super::memory_bytes().unwrap(), "{all:?}");
    }
}
