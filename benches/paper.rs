//! Every throughput that the TawPipe paper publishes for its cluster, beside what the simulator says.
//!
//!     cargo bench --bench paper
//!
//! Prints the table of docs/simulator.md. The constants stand in inputs/clusters/paper-3x8-10gbe.toml; they were fitted
//! on the rows of TawPipe and FSDP.

use std::path::Path;

use rayon::prelude::*;
use tawpipe::cluster::{Costs, Description};
use tawpipe::model::{Dtype, ModelShape, Recompute};
use tawpipe::plan::collective::Collective;
use tawpipe::plan::systems::{SystemOptions, schedule};
use tawpipe::plan::{Action, Batch, Job, Lane, RankPlan};
use tawpipe::simulate::{Prices, Simulation, costs, named, simulate};

/// A published number: tokens a second and GPU, or out of memory.
struct Cell {
    table: &'static str,
    method: &'static str,
    dim: usize,
    seq: usize,
    published: Option<f64>,
}

const TAWPIPE: &str = "name = 'tawpipe'\npreset = 'paper'";

/// What each of the paper's methods is here.
const METHODS: [(&str, &str, &[&str]); 8] = [
    ("1F1B", "name = '1f1b'\nblocking = true", &[]),
    ("ZB-1", "name = 'zb-1p'", &[]),
    ("ZB-2", "name = 'zb-2p'", &[]),
    ("FSDP", "name = 'fsdp'\nsync = 'round'", &[]),
    ("WeiPipe", "name = 'weipipe'", &[]),
    ("TawPipe", TAWPIPE, &[]),
    ("w/o GWPS", TAWPIPE, &["topology = 'flat'"]),
    ("w/o CCO", TAWPIPE, &["overlap = false"]),
];

/// Tables 9.1, 9.2 and 9.5 of the notes on the paper: widths, sequence lengths and tokens a second.
fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |table, method, dim, seq, published| cells.push(Cell { table, method, dim, seq, published });
    for (method, published) in [
        ("1F1B", Some(1114.2)),
        ("ZB-1", None),
        ("ZB-2", None),
        ("FSDP", Some(956.1)),
        ("WeiPipe", Some(1232.4)),
        ("TawPipe", Some(1377.6)),
    ] {
        add("main", method, 4096, 16384, published);
    }
    for (method, published) in [
        ("1F1B", [7212.0, 6636.0, 5594.0]),
        ("FSDP", [10559.0, 8826.0, 6751.0]),
        ("WeiPipe", [12055.0, 10663.0, 8412.0]),
        ("TawPipe", [13629.0, 11738.0, 8914.0]),
    ] {
        for (seq, published) in [4096, 8192, 16384].into_iter().zip(published) {
            add("width 1024", method, 1024, seq, Some(published));
        }
    }
    for (method, published) in
        [("w/o GWPS", [8590.0, 3910.0, 1260.0]), ("w/o CCO", [8220.0, 3470.0, 1140.0]), ("TawPipe", [0.0, 4180.0, 0.0])]
    {
        for (dim, published) in [1024, 2048, 4096].into_iter().zip(published).filter(|(_, p)| *p > 0.0) {
            add("ablation", method, dim, 16384, Some(published));
        }
    }
    cells
}

fn options(method: &str) -> Option<SystemOptions> {
    let (_, text, more) = METHODS.iter().find(|(name, _, _)| *name == method)?;
    named(&[&[*text], *more].concat().join("\n"))
}

/// The paper's model: 48 blocks, 32 heads, SwiGLU of 8/3 the width rounded up to 32, 32,000 tokens; sequences of
/// `micro` a micro-batch, everything in 16 bits on the wire, every block recomputed.
fn job(machine: &Description, dim: usize, seq: usize, micro: usize, micros: usize, system: SystemOptions) -> Job {
    let shape = ModelShape {
        dim,
        layers: 48,
        heads: 32,
        kv_heads: 32,
        head_dim: dim / 32,
        ffn: (8 * dim / 3).next_multiple_of(32),
        vocab: 32000,
        tied: true,
        rope_theta: 1e4,
        norm_eps: 1e-5,
        extra: Default::default(),
    };
    let mut job = Job {
        shape,
        groups: machine.groups(),
        batch: Batch { seq, micro, micros },
        dtype: Dtype::Bf16,
        grad_dtype: Dtype::Bf16,
        recompute: Recompute::Block,
        costs: Costs::unit(),
        memory: Some(machine.device().memory as usize),
        system,
    };
    job.costs = costs(machine, &job);
    job
}

/// Makes the plan of `fsdp` that of the paper's baseline, ZeRO-3 with one layer as limit of live parameters
/// (`stage3_max_live_parameters` = 12 H²), which leaves no room for the next one: weights are gathered when the
/// computation before the one that needs them is over. Gradients leave under computation (`overlap_comm`), when the
/// next layer's fill the bucket: not before that layer's weights are there.
fn as_zero3(plan: &mut RankPlan) {
    let kind = |plan: &RankPlan, op: usize| match &plan.train[op].action {
        Action::Collective(call) => Some(call.what),
        _ => None,
    };
    let mut before = None;
    let mut reduces = Vec::new();
    for op in 0..plan.train.len() {
        if kind(plan, op) == Some(Collective::ReduceScatter) {
            reduces.push(op);
        }
        if plan.train[op].lane != Lane::Compute {
            continue;
        }
        let gathers =
            plan.train[op].waits.iter().copied().filter(|&wait| kind(plan, wait) == Some(Collective::AllGather));
        let gathers: Vec<usize> = gathers.collect();
        for gather in gathers {
            plan.train[gather].waits.extend(before);
            reduces.drain(..).for_each(|reduce| plan.train[reduce].waits.push(gather));
        }
        before = Some(op);
    }
}

/// What the simulator says of a cell: tokens a second and rank, or nothing if no micro-batch fits; micro-batch; peak
/// memory in GB; and the shares of time busy and exposed.
struct Simulated {
    speed: Option<f64>,
    micro: usize,
    peak: f64,
    busy: f64,
    exposed: f64,
}

/// Global batch 1,536. Micro-batches of 65,536 tokens, the guess that explains the weight-moving systems' numbers, or,
/// where that does not fit into the memory, the largest that does.
fn simulated(machine: &Description, cell: &Cell, system: &SystemOptions) -> Simulated {
    let limit = machine.device().memory;
    let mut micro = 65536 / cell.seq;
    loop {
        let all = 1536 / micro;
        let run = |micros: usize| -> Result<Simulation, f64> {
            let job = job(machine, cell.dim, cell.seq, micro, micros, system.clone());
            // A system that plans for the memory refuses what does not fit.
            let schedule = schedule(&job).map_err(|_| f64::INFINITY)?;
            let mut plans = schedule.ranks();
            if cell.method == "FSDP" {
                plans.iter_mut().for_each(as_zero3);
            }
            let peak = plans.iter().map(|p| p.slots.iter().map(|s| s.bytes()).sum::<usize>()).max().unwrap_or(0) as f64;
            if peak > limit {
                return Err(peak);
            }
            let prices = Prices::of(machine, &job).expect("the machine has the ranks of its groups");
            Ok(simulate(&schedule, &plans, &prices).expect("plans do not get stuck"))
        };
        // An iteration grows evenly with its rounds.
        let (a, b) = (all.min(48), all.min(96));
        let both = run(b).and_then(|second| {
            let first = if all > b { Some(run(a)?) } else { None };
            Ok((first, second))
        });
        match both {
            Ok((first, second)) => {
                let step = first.map_or(second.step_s, |first| {
                    second.step_s + (second.step_s - first.step_s) / (b - a) as f64 * (all - b) as f64
                });
                let ranks = second.ranks.len() as f64;
                let share = |of: fn(&tawpipe::simulate::RankUse) -> f64| {
                    second.ranks.iter().map(of).sum::<f64>() / ranks / second.step_s
                };
                return Simulated {
                    speed: Some((1536 * cell.seq) as f64 / step / ranks),
                    micro,
                    peak: second.peak() as f64 / 1e9,
                    busy: share(|r| r.busy),
                    exposed: share(|r| r.exposed),
                };
            }
            Err(_) if micro > 1 => micro /= 2,
            Err(peak) => return Simulated { speed: None, micro, peak: peak / 1e9, busy: 0.0, exposed: 0.0 },
        }
    }
}

fn main() {
    let file = std::env::args().skip(1).find(|word| word.ends_with(".toml"));
    let file = file.unwrap_or("inputs/clusters/paper-3x8-10gbe.toml".into());
    let machine = Description::read(Path::new(&file)).unwrap_or_else(|error| panic!("{error}"));
    let cells = cells();
    let rows: Vec<Option<Simulated>> =
        cells.par_iter().map(|cell| options(cell.method).map(|system| simulated(&machine, cell, &system))).collect();
    println!("| table | method | H | S | published | simulated | error | micro | peak GB | busy | exposed |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut errors = Vec::new();
    for (cell, row) in cells.iter().zip(&rows) {
        let published = cell.published.map_or("OOM".into(), |speed| format!("{speed:.0}"));
        let head = format!("| {} | {} | {} | {} | {published} |", cell.table, cell.method, cell.dim, cell.seq);
        let Some(row) = row else {
            println!("{head} no such system | | | | | |");
            continue;
        };
        let error = match (cell.published, row.speed) {
            (Some(published), Some(speed)) => {
                let error = speed / published - 1.0;
                errors.push((cell.method, error.abs()));
                format!("{:+.1} %", 100.0 * error)
            }
            (None, None) => "agrees".into(),
            _ => "contradicts".into(),
        };
        let speed = row.speed.map_or("OOM".into(), |speed| format!("{speed:.0}"));
        println!(
            "{head} {speed} | {error} | {} | {:.1} | {:.0} % | {:.0} % |",
            row.micro,
            row.peak,
            100.0 * row.busy,
            100.0 * row.exposed
        );
    }
    let median = |of: &dyn Fn(&str) -> bool| {
        let mut list: Vec<f64> = errors.iter().filter(|(method, _)| of(method)).map(|(_, error)| *error).collect();
        list.sort_by(f64::total_cmp);
        (list.len(), list.get(list.len() / 2).map_or(f64::NAN, |error| 100.0 * error))
    };
    let fitted = |method: &str| matches!(method, "TawPipe" | "FSDP");
    let ((n, all), (m, rest)) = (median(&|_| true), median(&|method| !fitted(method)));
    println!("\nMedian error {all:.1} % over {n} numbers; {rest:.1} % over the {m} that nothing was fitted on.");
}
