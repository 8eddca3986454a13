//! What the machine can do, and what the process uses of it.

use std::time::Instant;

use crate::device::{Cpu, Device, Matrix, Memory};
use crate::fabric::Control;
use crate::model::Dtype;
use crate::plan::{Segment, Slot};

/// Side of the square matrices of the peak measurement.
const SIDE: usize = 512;

/// FLOP/s of one thread in square matrix products of `dtype`: the best of a few.
fn peak_of_a_thread(dtype: Dtype) -> f64 {
    let slot =
        |dtype| Slot { name: String::new(), elems: SIDE * SIDE, dtype, segment: Segment::Workspace, holds: None };
    let memory = Memory::new(&[slot(dtype), slot(dtype), slot(Dtype::F32)]);
    let cpu = Cpu::new(1);
    let [a, b, c] = [0, 1, 2].map(|slot| Matrix::new(memory.slot(slot), SIDE, SIDE));
    let best = (0..8).map(|_| {
        let start = Instant::now();
        cpu.matmul(a, b.t(), c, false);
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / best.fold(f64::INFINITY, f64::min)
}

/// Collective. FLOP/s that all ranks' compute threads could reach together, on rank 0: a thread's measured peak times
/// threads, but not more than the cores of each host.
pub fn peak(control: &dyn Control, threads: usize, dtype: Dtype) -> f64 {
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
    threads as f64 * peak_of_a_thread(dtype)
}

/// Largest resident set of this process so far, in bytes.
pub fn peak_memory() -> u64 {
    // The kernel says it in kB, on a line such as "VmHWM:   12345 kB".
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
