//! What the machine can do, and what the process uses of it.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::device::{Bf16Products, Chosen, Cpu, Device, Matrix, Memory, allowed_cores, cores_together};
use crate::fabric::Control;
use crate::metrics::Cores;
use crate::model::Dtype;
use crate::plan::{Segment, Slot};

/// Side of the square matrices of the peak measurement.
const SIDE: usize = 512;

/// FLOP/s of one thread in square matrix products of `dtype`: the best of a few.
fn peak_of_a_thread(dtype: Dtype, products: Option<Bf16Products>) -> f64 {
    let slot =
        |dtype| Slot { name: String::new(), elems: SIDE * SIDE, dtype, segment: Segment::Workspace, holds: None };
    let memory = Memory::new(&[slot(dtype), slot(dtype), slot(Dtype::F32)]);
    let cpu = Cpu::with_products(1, products);
    let [a, b, c] = [0, 1, 2].map(|slot| Matrix::new(memory.slot(slot), SIDE, SIDE));
    let (mut best, began) = (f64::INFINITY, Instant::now());
    for _ in 0..8 {
        let start = Instant::now();
        cpu.matmul(a, b.t(), c, false);
        best = best.min(start.elapsed().as_secs_f64());
        // A slow processor, an emulated one say, is not kept longer for it.
        if began.elapsed().as_secs_f64() > 0.5 {
            break;
        }
    }
    2.0 * (SIDE as f64).powi(3) / best
}

/// FLOP/s of a GPU's tensor cores in dense bf16, from its maker's data sheets: the start of its name, and the number. The
/// first that fits counts, so that longer names stand first.
const GPUS: [(&str, f64); 10] = [
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA H200 NVL", 835e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA GH200", 989e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA A40", 149.7e12),
    ("NVIDIA B200", 2250e12),
];

/// FLOP/s that a GPU's maker promises in bf16; `None` if it is not in the table.
fn promised(name: &str) -> Option<f64> {
    GPUS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, flops)| *flops)
}

/// Collective. What all ranks compute with, on rank 0 (elsewhere nothing that counts): the FLOP/s that they could reach
/// together, and the threads and cores of the node where threads have the fewest cores each. On GPUs, FLOP/s are what their
/// maker promises for bf16, whatever type is computed in (NaN for a GPU that is not known); on processors, a thread's
/// measured peak times threads, but not more than the cores of each node.
pub fn together(control: &dyn Control, device: &Chosen, dtype: Dtype) -> (f64, Option<Cores>) {
    if let Some(name) = device.gpu() {
        let mine = promised(name).unwrap_or(f64::NAN);
        let all = control.gather(&mine.to_le_bytes()).unwrap_or_default();
        return (all.iter().map(|bytes| bytemuck::pod_read_unaligned::<f64>(bytes)).sum(), None);
    }
    #[cfg_attr(
        not(feature = "cuda"),
        allow(irrefutable_let_patterns, reason = "a build without GPUs has processors only")
    )]
    let Chosen::Cpu { threads, products } = device else { unreachable!("no GPU") };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let mine = Rank { host, threads: *threads, parallel, bound: allowed_cores() };
    let Some(all) = control.gather(&serde_json::to_vec(&mine).expect("plain data")) else { return (0.0, None) };
    let all: Vec<Rank> = all.iter().map(|bytes| serde_json::from_slice(bytes).expect("what a rank has sent")).collect();
    let nodes = nodes(&all);
    let threads: usize = nodes.iter().map(|node| node.threads.min(node.cores)).sum();
    let fullest = nodes.into_iter().max_by(|a, b| (a.threads * b.cores).cmp(&(b.threads * a.cores)));
    (threads as f64 * peak_of_a_thread(dtype, *products), fullest)
}

/// What a rank computes with.
#[derive(Serialize, Deserialize)]
struct Rank {
    host: String,
    threads: usize,
    /// Threads that may run at once.
    parallel: usize,
    /// The cores that it may use.
    bound: Vec<usize>,
}

/// Threads and cores of each node.
fn nodes(ranks: &[Rank]) -> Vec<Cores> {
    let mut hosts = BTreeMap::<&str, Vec<&Rank>>::new();
    ranks.iter().for_each(|rank| hosts.entry(&rank.host).or_default().push(rank));
    let node = |ranks: &Vec<&Rank>| Cores {
        threads: ranks.iter().map(|rank| rank.threads).sum(),
        cores: cores_together(ranks.iter().map(|rank| (rank.bound.as_slice(), rank.parallel))).max(1),
    };
    hosts.values().map(node).collect()
}

/// Largest resident set of this process so far, in bytes.
pub fn peak_memory() -> u64 {
    // The kernel says it in kB, on a line such as "VmHWM:   12345 kB".
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peak of this process is in bytes: an array of 64 MB that is written to is in it.
    #[test]
    fn peak_memory_is_in_bytes() {
        let array = std::hint::black_box(vec![1u8; 64_000_000]);
        let peak = peak_memory();
        assert!((64_000_000..1 << 40).contains(&peak), "{peak} bytes with {} in use", array.len());
    }

    /// Ranks of a host have all cores that any of them is bound to, or what their control group allows; hosts are told
    /// apart.
    #[test]
    fn cores_of_a_node() {
        let rank = |host: &str, threads, parallel, bound: &[usize]| Rank {
            host: host.into(),
            threads,
            parallel,
            bound: bound.to_vec(),
        };
        let cores = |threads, cores| Cores { threads, cores };
        let bound = [rank("a", 1, 1, &[0]), rank("a", 1, 1, &[1]), rank("b", 2, 2, &[0, 1])];
        assert_eq!(nodes(&bound), [cores(2, 2), cores(2, 2)]);
        let shared = [rank("a", 1, 2, &[0, 1]), rank("a", 2, 2, &[0, 1])];
        assert_eq!(nodes(&shared), [cores(3, 2)]);
        let held = [rank("a", 4, 3, &[0, 1, 2, 3, 4, 5, 6, 7])];
        assert_eq!(nodes(&held), [cores(4, 3)]);
    }
}
