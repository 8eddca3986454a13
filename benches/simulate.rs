//! How long large jobs take to plan, check and simulate, and in how much memory.
//!
//!     cargo bench --bench simulate -- [24|1024]

use std::path::Path;
use std::time::Instant;

use tawpipe::cluster::{Costs, Description};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::check::check;
use tawpipe::plan::systems::{Settled, SystemOptions, schedule};
use tawpipe::plan::{Batch, Job};
use tawpipe::simulate::{Prices, simulate};

/// Peak resident memory in MiB.
fn peak() -> f64 {
    // SAFETY: all zeros is a valid rusage, which the call fills.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    usage.ru_maxrss as f64 / 1024.0
}

fn job(machine: &Description, layers: usize, rounds: usize) -> Job {
    let shape = ModelShape {
        dim: 4096,
        layers,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        ffn: 11008,
        vocab: 32000,
        tied: false,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        extra: Default::default(),
    };
    Job {
        shape,
        groups: machine.groups(),
        batch: Batch { seq: 16384, micro: 1, micros: machine.ranks() * rounds },
        dtype: Dtype::Bf16,
        grad_dtype: Dtype::Bf16,
        recompute: Recompute::Block,
        costs: Costs::unit(),
        memory: None,
        system: SystemOptions::Tawpipe(Settled::default().into()),
    }
}

fn run(name: &str, file: &str, layers: usize, rounds: usize) {
    let machine = Description::read(&Path::new("inputs/clusters").join(file)).unwrap();
    let job = job(&machine, layers, rounds);
    let start = Instant::now();
    let schedule = schedule(&job).unwrap();
    let plans = schedule.ranks();
    let planned = start.elapsed().as_secs_f64();
    let ops: usize = plans.iter().map(|plan| plan.train.len()).sum();
    println!("{name}: {ops} ops on {} ranks planned in {planned:.2} s, peak {:.0} MiB", plans.len(), peak());
    let start = Instant::now();
    check(&schedule, &plans).unwrap();
    println!("{name}: checked in {:.2} s, peak {:.0} MiB", start.elapsed().as_secs_f64(), peak());
    let start = Instant::now();
    let simulation = simulate(&schedule, &plans, &Prices::of(&machine, &job).unwrap()).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: simulated in {seconds:.2} s, peak {:.0} MiB: a step of {:.2} s", peak(), simulation.step_s);
}

fn main() {
    let word = std::env::args().nth(1).unwrap_or_default();
    if word != "1024" {
        run("24 ranks, 48 blocks, K = 64", "paper-3x8-10gbe.toml", 48, 64);
    }
    if word != "24" {
        run("1,024 ranks, 128 blocks, K = 4", "large-1024.toml", 128, 4);
    }
}
