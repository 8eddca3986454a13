//! Memory of the machine, and limits on it.

use super::{Finding, Verdict, gigabytes};
use crate::device::{HostMemory, Limit};

/// Below this, no model worth training fits.
const LITTLE: u64 = 1_000_000_000;

/// Memory of this rank's machine.
pub fn look() -> Finding {
    match HostMemory::look() {
        Some(memory) => judge(&memory),
        None => {
            Finding::new("memory", Verdict::Attention, "this system does not say how much there is (no /proc/meminfo)")
        }
    }
}

fn judge(memory: &HostMemory) -> Finding {
    let mut says = format!("{} in all", gigabytes(memory.total));
    if let Some(cgroup) = &memory.cgroup {
        says += &format!(", of which a control group allows {}", gigabytes(cgroup.limit));
    }
    for Limit { name, limit, .. } in &memory.ulimits {
        says += &format!(", and `{name}` {} a process", gigabytes(*limit));
    }
    if memory.cgroup.is_none() && memory.ulimits.is_empty() {
        says += ", not limited by a control group or `ulimit`";
    }
    let usable = memory.usable();
    let finding = Finding::new("memory", Verdict::Fine, says).now(format!("{} available now", gigabytes(usable)));
    if usable < LITTLE || memory.ulimits.iter().any(|limit| limit.limit < LITTLE) {
        let advice =
            "end other programs, or ask for more (srun: `--mem`; a container: its memory limit; `ulimit -v unlimited`)";
        return Finding { verdict: Verdict::Attention, ..finding }.advice(advice);
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits are named; too little is told.
    #[test]
    fn limits_are_named() {
        let plenty =
            HostMemory { total: 64_000_000_000, available: 50_000_000_000, swap: 0, cgroup: None, ulimits: Vec::new() };
        let finding = judge(&plenty);
        assert_eq!(finding.verdict, Verdict::Fine);
        assert_eq!(finding.says, "64.0 GB in all, not limited by a control group or `ulimit`");
        let cgroup = Some(Limit { name: "the cgroup's memory limit", limit: 2_000_000_000, left: 500_000_000 });
        let ulimits = vec![Limit { name: "ulimit -v", limit: 8_000_000_000, left: 7_000_000_000 }];
        let finding = judge(&HostMemory { cgroup, ulimits, ..plenty });
        assert_eq!(finding.verdict, Verdict::Attention);
        assert_eq!(
            (finding.says.as_str(), finding.now.as_str()),
            (
                "64.0 GB in all, of which a control group allows 2.0 GB, and `ulimit -v` 8.0 GB a process",
                "0.5 GB available now"
            )
        );
    }
}
