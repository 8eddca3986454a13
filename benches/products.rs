//! Matrix products of the benchmark models, by everything that can compute them: GFLOP/s of the best of several runs.
//!
//!     cargo bench --bench products -- [threads] [repetitions]

use std::time::Instant;

use tawpipe::device::{Bf16Products, Cpu, Device, Matrix, Memory};
use tawpipe::model::Dtype;
use tawpipe::plan::{Segment, Slot};

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (threads, repetitions) = (numbers.first().copied().unwrap_or(1), numbers.get(1).copied().unwrap_or(10));
    println!("{:24} {:8} {:>8} {:>8}", "rows x inputs x outputs", "what", "f32", "bf16:");
    let devices: Vec<_> = Bf16Products::available().into_iter().map(|p| (p, Cpu::with_products(threads, p))).collect();
    println!("{:44}{}", "", devices.iter().map(|(p, _)| format!("{:>10}", format!("{p:?}"))).collect::<String>());
    for (tokens, inputs, outputs) in [
        (2048, 256, 768),
        (2048, 256, 1376),
        (2048, 688, 256),
        (2048, 512, 1536),
        (2048, 512, 2752),
        (2048, 1376, 512),
        (256, 512, 32000),
    ] {
        for what in ["forward", "dx", "dw"] {
            let slot = |name: &str, elems, dtype| Slot {
                name: name.into(),
                elems,
                dtype,
                segment: Segment::Workspace,
                holds: None,
            };
            let run = |cpu: &Cpu, dtype: Dtype| {
                let result = if what == "dw" { Dtype::F32 } else { dtype };
                let sizes = [tokens * inputs, outputs * inputs, tokens * outputs];
                let types = match what {
                    "forward" => [dtype, dtype, result],
                    "dx" => [result, dtype, dtype],
                    _ => [dtype, result, dtype],
                };
                let slots: Vec<_> = sizes.iter().zip(types).map(|(&n, t)| slot(what, n, t)).collect();
                let memory = Memory::new(&slots);
                let x = Matrix::new(memory.slot(0), tokens, inputs);
                let w = Matrix::new(memory.slot(1), outputs, inputs);
                let y = Matrix::new(memory.slot(2), tokens, outputs);
                let once = || match what {
                    "forward" => cpu.matmul(x, w.t(), y, false),
                    "dx" => cpu.matmul(y, w, x, false),
                    _ => cpu.matmul(y.t(), x, w, true),
                };
                once();
                let best = (0..repetitions)
                    .map(|_| {
                        let start = Instant::now();
                        once();
                        start.elapsed().as_secs_f64()
                    })
                    .fold(f64::INFINITY, f64::min);
                2e-9 * (tokens * inputs * outputs) as f64 / best
            };
            let f32 = run(&devices[0].1, Dtype::F32);
            let bf16: String = devices
                .iter()
                .map(|(p, cpu)| match p {
                    Bf16Products::Widened => format!("{:>10}", "-"),
                    _ => format!("{:10.0}", run(cpu, Dtype::Bf16)),
                })
                .collect();
            println!("{:24} {what:8} {f32:8.0}   {bf16}", format!("{tokens} x {inputs} x {outputs}"));
        }
    }
}
