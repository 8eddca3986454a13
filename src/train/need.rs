//! Whether the machine has the memory that a plan needs, asked before anything of it is allocated: afterwards the answer would
//! be a process that the system ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::{Groups, Rank};
use crate::device::{Bound, Chosen, DeviceError, HostMemory};
use crate::fabric::Control;
use crate::plan::Segment;
use crate::plan::check::Summary;

/// What one rank's plan needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// In the machine's own memory.
    pub host: u64,
    /// In its GPU's memory.
    pub gpu: u64,
}

/// What one rank finds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Bounds on the machine's own memory.
    bounds: Vec<Bound>,
    /// Its GPU, and how many bytes of that are free.
    gpu: Option<(String, u64)>,
}

/// Bytes of a table that an error speaks of.
fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Collective. What every rank finds, on rank 0.
///
/// # Errors
/// If this rank's GPU does not say.
pub fn look(device: &Chosen, control: &dyn Control) -> Result<Vec<Found>, DeviceError> {
    let gpu = device.gpu_free();
    // A rank whose GPU fails still takes part.
    let bounds = HostMemory::look().map_or_else(Vec::new, |memory| memory.bounds());
    let mine = Found { bounds, gpu: gpu.clone().unwrap_or_default() };
    let mine = serde_json::to_vec(&mine).expect("plain values");
    let all = control.gather(&mine).unwrap_or_default();
    gpu?;
    Ok(all.iter().map(|bytes| serde_json::from_slice(bytes).expect("as it was written")).collect())
}

/// What every rank needs: its plan, with what its GPU keeps `beside` it; and if a run is `loaded` from files, master weights
/// and moments once more in the machine's own memory, before the rest of the plan is filled.
pub fn needs(summary: &Summary, device: &Chosen, beside: usize, loaded: bool) -> Vec<Need> {
    // What a device has taken when it was made is no longer free.
    let taken: usize = device.scratch().iter().map(|(_, bytes)| bytes).sum();
    let of = |table: &BTreeMap<Segment, usize>| {
        let bytes =
            |segments: &[Segment]| -> u64 { segments.iter().filter_map(|s| table.get(s)).map(|&b| b as u64).sum() };
        let plan: u64 = table.values().map(|&bytes| bytes as u64).sum();
        let copies = if loaded { bytes(&[Segment::Master, Segment::Moment1, Segment::Moment2]) } else { 0 };
        if device.gpu().is_some() {
            Need { host: copies, gpu: plan + beside.saturating_sub(taken) as u64 }
        } else {
            Need { host: plan.max(2 * copies), gpu: 0 }
        }
    };
    summary.memory.iter().map(of).collect()
}

/// Compares what ranks need with what they found, on rank 0. `nodes` are the ranks that share a machine.
///
/// # Errors
/// A sentence with what is needed, what there is, and who sets the bound.
pub fn compare(needs: &[Need], found: &[Found], nodes: &Groups) -> Result<(), String> {
    let advice = "try run.recompute = \"block\", a smaller batch.micro, more nodes, or another system (tawpipe plan --recommend)";
    let short = |need: u64, place: String, whose: &str, bytes: u64| {
        Err(format!("the plan needs {} {place}, but {whose} has {} left; {advice}", gib(need), gib(bytes)))
    };
    for node in 0..nodes.count() {
        let ranks = nodes.members(node);
        let need: u64 = needs[ranks.clone()].iter().map(|need| need.host).sum();
        let shared = found[ranks.clone()].iter().flat_map(|found| &found.bounds).filter(|bound| bound.shared);
        if let Some(bound) = shared.min_by_key(|bound| bound.bytes).filter(|bound| need > bound.bytes) {
            let place = match (ranks.len(), nodes.count()) {
                (1, 1) => "of memory".into(),
                (count, 1) => format!("of memory for {count} ranks"),
                _ => format!("of memory for the {} ranks {}", ranks.len(), words(ranks)),
            };
            return short(need, place, &bound.name, bound.bytes);
        }
    }
    for (rank, (need, found)) in needs.iter().zip(found).enumerate() {
        let own = found.bounds.iter().filter(|bound| !bound.shared).min_by_key(|bound| bound.bytes);
        if let Some(bound) = own.filter(|bound| need.host > bound.bytes) {
            return short(need.host, format!("of memory on rank {rank}"), &bound.name, bound.bytes);
        }
    }
    let mut gpus: BTreeMap<&str, (u64, u64, Vec<Rank>)> = BTreeMap::new();
    for (rank, (need, found)) in needs.iter().zip(found).enumerate() {
        if let Some((uuid, free)) = &found.gpu {
            let gpu = gpus.entry(uuid).or_insert((0, *free, Vec::new()));
            gpu.0 += need.gpu;
            gpu.1 = gpu.1.min(*free);
            gpu.2.push(rank);
        }
    }
    match gpus.values().find(|(need, free, _)| need > free) {
        Some((need, free, ranks)) => short(*need, format!("of GPU memory for rank(s) {ranks:?}"), "their GPU", *free),
        None => Ok(()),
    }
}

/// `4 to 7`.
fn words(ranks: std::ops::Range<Rank>) -> String {
    format!("{} to {}", ranks.start, ranks.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn bound(gib: u64, name: &str, shared: bool) -> Bound {
        Bound { bytes: gib * GIB, name: name.into(), shared }
    }

    fn host(gib: u64) -> Need {
        Need { host: gib * GIB, gpu: 0 }
    }

    /// Ranks of one node add up against what they share; each stands alone against its own limit; the message says how
    /// much, and whose bound it is.
    #[test]
    fn ranks_of_a_node_add_up() {
        let machine = Found { bounds: vec![bound(10, "the machine", true), bound(9, "ulimit -v", false)], gpu: None };
        let found = vec![machine; 4];
        let two = Groups::new(&[2, 2]);
        compare(&[host(5); 4], &found, &two).unwrap();
        let message = compare(&[host(6); 4], &found, &two).unwrap_err();
        assert!(message.contains("needs 12.00 GiB of memory for the 2 ranks 0 to 1"), "{message}");
        assert!(message.contains("but the machine has 10.00 GiB left"), "{message}");
        // The same plans on one node more fit, and on one node less do not.
        compare(&[host(6); 4], &found, &Groups::new(&[1, 1, 1, 1])).unwrap();
        compare(&[host(5); 4], &found, &Groups::new(&[4])).unwrap_err();
        let message = compare(&[host(1), host(10), host(1), host(1)], &found, &Groups::new(&[1; 4])).unwrap_err();
        assert!(message.contains("on rank 1, but ulimit -v has 9.00 GiB left"), "{message}");
    }

    /// Ranks that share a GPU share its memory.
    #[test]
    fn ranks_of_a_gpu_add_up() {
        let on = |uuid: &str| Found { bounds: Vec::new(), gpu: Some((uuid.into(), 10 * GIB)) };
        let needs = [Need { host: 0, gpu: 6 * GIB }; 2];
        compare(&needs, &[on("a"), on("b")], &Groups::new(&[2])).unwrap();
        let message = compare(&needs, &[on("a"), on("a")], &Groups::new(&[2])).unwrap_err();
        assert!(message.contains("12.00 GiB of GPU memory for rank(s) [0, 1]"), "{message}");
    }
}
