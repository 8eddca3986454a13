//! What the machine can do, and what the process uses of it.

use std::time::Instant;

use crate::device::{Bf16Products, Chosen, Cpu, Device, Matrix, Memory};
use crate::fabric::Control;
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

/// Collective. FLOP/s that all ranks could reach together, on rank 0: on GPUs what their maker promises for bf16, whatever
/// type is computed in (NaN for a GPU that is not known); on processors a thread's measured peak times threads, but not more
/// than the cores of each host.
pub fn peak(control: &dyn Control, device: &Chosen, dtype: Dtype) -> f64 {
    if let Some(name) = device.gpu() {
        let mine = promised(name).unwrap_or(f64::NAN);
        let all = control.gather(&mine.to_le_bytes()).unwrap_or_default();
        return all.iter().map(|bytes| bytemuck::pod_read_unaligned::<f64>(bytes)).sum();
    }
    #[cfg_attr(
        not(feature = "cuda"),
        allow(irrefutable_let_patterns, reason = "a build without GPUs has processors only")
    )]
    let Chosen::Cpu { threads, products } = device else { unreachable!("no GPU") };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mine = format!("{threads} {cores} {}", host.trim());
    let Some(all) = control.gather(mine.as_bytes()) else { return 0.0 };
    let mut hosts = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for text in all {
        let text = String::from_utf8_lossy(&text);
        let mut words = text.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
        let (threads, cores): (usize, usize) = (number(), number());
        let host = hosts.entry(words.next().unwrap_or_default().into()).or_default();
        *host = (host.0 + threads, cores);
    }
    let threads: usize = hosts.values().map(|(threads, cores)| threads.min(cores)).sum();
    threads as f64 * peak_of_a_thread(dtype, *products)
}

/// Largest resident set of this process so far, in bytes.
pub fn peak_memory() -> u64 {
    // The kernel says it in kB, on a line such as "VmHWM:   12345 kB".
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
