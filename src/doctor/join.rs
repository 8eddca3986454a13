//! One list of findings from those of all ranks.

use super::{Finding, Found, cores, gpus};

/// Findings of all ranks, in rank order, as one list; `world` are those about all ranks together.
pub fn join(found: &[Found], world: Vec<Finding>) -> Vec<Finding> {
    let mut all = world;
    all.push(cores::judge(found));
    let ranks: Vec<&[Finding]> = found.iter().map(|rank| &rank.findings[..]).collect();
    all.extend(merge(&ranks));
    all.extend(gpus::judge(found));
    all
}

/// Joins findings of the same topic: the worst verdict, and what each rank says where they differ.
fn merge(ranks: &[&[Finding]]) -> Vec<Finding> {
    let topics = ranks.first().map_or(&[][..], |first| first).iter().map(|finding| finding.topic.as_str());
    let of = |topic: &str| -> Vec<(usize, &Finding)> {
        let with = ranks.iter().enumerate();
        with.filter_map(|(rank, list)| Some((rank, list.iter().find(|finding| finding.topic == topic)?))).collect()
    };
    topics.map(|topic| joined(&of(topic))).collect()
}

/// One finding from those of several ranks about one topic; at least one.
fn joined(found: &[(usize, &Finding)]) -> Finding {
    // Kept in the order in which they first appear.
    let mut kinds: Vec<(&Finding, Vec<usize>)> = Vec::new();
    for (rank, finding) in found {
        match kinds.iter_mut().find(|(kind, _)| (&kind.says, kind.verdict) == (&finding.says, finding.verdict)) {
            Some((_, ranks)) => ranks.push(*rank),
            None => kinds.push((*finding, vec![*rank])),
        }
    }
    let worst = kinds.iter().max_by_key(|(kind, _)| kind.verdict).expect("at least one finding").0;
    let says = match &kinds[..] {
        [(only, _)] => only.says.clone(),
        several => {
            let part = |(kind, ranks): &(&Finding, Vec<usize>)| format!("{}: {}", words(ranks), kind.says);
            several.iter().map(part).collect::<Vec<_>>().join("; ")
        }
    };
    Finding { says, ..worst.clone() }
}

/// Ascending numbers of ranks in words: `rank 3`, `ranks 0 to 2 and 5`.
pub(super) fn words(ranks: &[usize]) -> String {
    let runs: Vec<String> = ranks
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [one] => one.to_string(),
            [one, two] => format!("{one}, {two}"),
            many => format!("{} to {}", many[0], many[many.len() - 1]),
        })
        .collect();
    let list = runs.join(", ");
    let list = list.rsplit_once(", ").map_or(list.clone(), |(most, last)| format!("{most} and {last}"));
    format!("{} {list}", if ranks.len() == 1 { "rank" } else { "ranks" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    /// Ranks that agree are one line; those that differ are named, and the worst verdict and its advice stand.
    #[test]
    fn differences_are_named() {
        let fine = Finding::new("HDF5", Verdict::Fine, "version 1.14").now("today");
        let bad = Finding::new("HDF5", Verdict::Attention, "version 1.6").advice("update it");
        let (a, b) = (vec![fine.clone()], vec![bad]);
        assert_eq!(merge(&[&a, &a]), [fine]);
        let both = merge(&[&a, &a, &b, &a]);
        assert_eq!(both[0].says, "ranks 0, 1 and 3: version 1.14; rank 2: version 1.6");
        assert_eq!((both[0].verdict, both[0].advice.as_str()), (Verdict::Attention, "update it"));
    }

    /// Numbers of ranks are short.
    #[test]
    fn ranks_in_words() {
        assert_eq!(words(&[4]), "rank 4");
        assert_eq!(words(&[1, 2]), "ranks 1 and 2");
        assert_eq!(words(&[0, 1, 2, 5, 7, 8]), "ranks 0 to 2, 5, 7 and 8");
    }
}
