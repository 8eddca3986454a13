//! Cores: how many a rank may use, and whether ranks share them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::join::words;
use super::{Finding, Found, Verdict};
use crate::device::{allowed_cores, cores_together, online_cores};

/// Cores of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    /// Those of the machine.
    online: usize,
    /// Those that this process is bound to, by number.
    allowed: Vec<usize>,
    /// Threads that may run at once, which a control group can hold below the cores.
    quota: usize,
}

impl Cores {
    /// Those of this process.
    pub fn look() -> Self {
        let quota = std::thread::available_parallelism().map_or(1, usize::from);
        Cores { online: online_cores(), allowed: allowed_cores(), quota }
    }

    fn text(&self) -> String {
        let (mine, all) = (self.allowed.len(), self.online);
        let mut text =
            if mine == all { format!("any of the {all} cores") } else { format!("{mine} of the {all} cores") };
        if self.quota < mine {
            text += &format!(", but a control group allows {} at once", self.quota);
        }
        text
    }
}

/// Judges the cores of all ranks together: a rank computes with one thread, unless the deck says more, and communicates with
/// another one.
pub fn judge(found: &[Found]) -> Finding {
    let mut hosts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (rank, found) in found.iter().enumerate() {
        hosts.entry(&found.host).or_default().push(rank);
    }
    let fine = |says: String| Finding::new("cores", Verdict::Fine, says);
    let says = by_text(found);
    if found.len() == 1 {
        return fine(says);
    }
    for (host, ranks) in &hosts {
        let usable =
            cores_together(ranks.iter().map(|&rank| (&found[rank].cores.allowed[..], found[rank].cores.quota)));
        if usable < ranks.len() {
            return Finding::new(
                "cores",
                Verdict::Attention,
                format!("{} share {usable} core(s) of {host}: {says}", words(ranks)),
            )
            .advice(format!(
                "start at most {usable} rank(s) on it, or read times with care: a rank that waits for a core counts as one \
                 that waits for communication"
            ));
        }
    }
    let bound: Vec<usize> = (0..found.len()).filter(|&rank| found[rank].cores.allowed.len() < 2).collect();
    if !bound.is_empty() {
        return Finding::new("cores", Verdict::Attention, says).advice(format!(
            "{} may use one core, but computes with one thread and communicates with another: start with `mpirun --bind-to \
             none` or `--map-by slot:PE=2` (srun: `--cpus-per-task=2`)",
            words(&bound)
        ));
    }
    fine(says)
}

/// What ranks may use, with those named that differ.
fn by_text(found: &[Found]) -> String {
    let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
    for (rank, found) in found.iter().enumerate() {
        let text = found.cores.text();
        match kinds.iter_mut().find(|(kind, _)| *kind == text) {
            Some((_, ranks)) => ranks.push(rank),
            None => kinds.push((text, vec![rank])),
        }
    }
    match &kinds[..] {
        [(only, _)] => format!("{} may use {only}", if found.len() == 1 { "this process" } else { "each rank" }),
        several => {
            let part = |(text, ranks): &(String, Vec<usize>)| {
                let may = if ranks.len() == 1 { "may use" } else { "may each use" };
                format!("{} {may} {text}", words(ranks))
            };
            several.iter().map(part).collect::<Vec<_>>().join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(host: &str, online: usize, allowed: &[usize]) -> Found {
        let cores = Cores { online, allowed: allowed.to_vec(), quota: allowed.len() };
        Found { host: host.into(), cores, gpus: Vec::new(), findings: Vec::new() }
    }

    /// Four ranks on two cores share them; as many cores as ranks are enough; a rank bound to one core has too few.
    #[test]
    fn ranks_that_share_cores_are_told() {
        let four: Vec<Found> = (0..4).map(|_| rank("a", 2, &[0, 1])).collect();
        let finding = judge(&four);
        assert_eq!(finding.verdict, Verdict::Attention);
        assert!(finding.says.starts_with("ranks 0 to 3 share 2 core(s) of a"), "{}", finding.says);
        assert!(finding.advice.contains("waits for communication"), "{}", finding.advice);

        let two = judge(&four[..2]);
        assert_eq!((two.verdict, two.says.as_str()), (Verdict::Fine, "each rank may use any of the 2 cores"));

        let bound = judge(&[rank("a", 4, &[0]), rank("a", 4, &[1, 2])]);
        assert_eq!(bound.verdict, Verdict::Attention);
        assert_eq!(bound.says, "rank 0 may use 1 of the 4 cores; rank 1 may use 2 of the 4 cores");
        assert!(bound.advice.starts_with("rank 0 may use one core"), "{}", bound.advice);
    }

    /// Ranks of different machines share nothing; a quota counts like missing cores.
    #[test]
    fn machines_and_quotas() {
        assert_eq!(judge(&[rank("a", 2, &[0, 1]), rank("b", 2, &[0, 1])]).verdict, Verdict::Fine);
        let mut limited = rank("a", 8, &[0, 1, 2, 3]);
        limited.cores.quota = 2;
        assert_eq!(
            judge(&[limited]).says,
            "this process may use 4 of the 8 cores, but a control group allows 2 at once"
        );
    }
}
