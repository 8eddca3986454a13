//! One rank's training step, timed: tokens per second, peak memory, and where the time goes.
//!
//!     cargo bench --bench step -- [tiny|small|long] [f32|bf16] [threads] [steps] [--profile]
//!
//! Time is wall time and processor time of the process; on a machine that others use, the second is the steadier. With several
//! threads, the wall time of an operation against that with one thread says how well it is divided.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use tawpipe::cluster::{Costs, Groups};
use tawpipe::device::{AdamW, AdamWStep, Attention, Cpu, Device, DeviceError, Matrix, Memory, View};
use tawpipe::model::{Dtype, ModelShape, Recompute, init};
use tawpipe::nn::Network;
use tawpipe::plan::{Action, Batch, Job, Segment, Slot, step, systems};

/// Processor seconds of this process.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a place for its time.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

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

/// Seconds of an operation, by processor and by the clock, and its floating-point operations.
#[derive(Default)]
struct Spent {
    own: f64,
    wall: f64,
    flops: f64,
}

/// A device that counts the time of another's operations.
struct Timed {
    cpu: Cpu,
    times: Mutex<BTreeMap<String, Spent>>,
    on: bool,
}

impl Timed {
    fn time(&self, name: &str, flops: f64, body: impl FnOnce(&Cpu)) {
        if !self.on {
            return body(&self.cpu);
        }
        let (start, wall) = (processor(), Instant::now());
        body(&self.cpu);
        let (own, wall) = (processor() - start, wall.elapsed().as_secs_f64());
        let mut times = self.times.lock().expect("no operation panics");
        let entry = times.entry(name.into()).or_default();
        entry.own += own;
        entry.wall += wall;
        entry.flops += flops;
    }
}

impl Device for Timed {
    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        self.cpu.memory(slots)
    }
    fn finish(&self) -> Result<(), DeviceError> {
        self.cpu.finish()
    }
    fn together(&self, body: &mut (dyn FnMut() + Send)) {
        self.cpu.together(body);
    }
    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        let kind = match (a.col_stride, b.col_stride) {
            (1, 1) => "dx",
            (1, _) => "forward",
            _ => "dw",
        };
        let name = format!("matmul {kind:7} {}x{}x{}", c.rows, a.cols, c.cols);
        self.time(&name, 2.0 * (c.rows * a.cols * c.cols) as f64, |d| d.matmul(a, b, c, add));
    }
    fn rmsnorm(&self, x: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        self.time("rmsnorm", 0.0, |d| d.rmsnorm(x, weight, eps, out, inverse_rms));
    }
    fn add_rmsnorm(&self, x: View, sum: View, weight: View, eps: f32, out: View, inverse_rms: View) {
        self.time("add_rmsnorm", 0.0, |d| d.add_rmsnorm(x, sum, weight, eps, out, inverse_rms));
    }
    fn rmsnorm_backward(
        &self,
        dout: View,
        x: View,
        weight: View,
        inverse_rms: View,
        dx: View,
        add: bool,
        dweight: View,
        add_weight: bool,
        scratch: View,
    ) {
        self.time("rmsnorm_backward", 0.0, |d| {
            d.rmsnorm_backward(dout, x, weight, inverse_rms, dx, add, dweight, add_weight, scratch);
        });
    }
    fn rope(&self, shape: &Attention, qkv: View, table: View, inverse: bool) {
        self.time("rope", 0.0, |d| d.rope(shape, qkv, table, inverse));
    }
    fn attention(&self, s: &Attention, qkv: View, out: View, lse: View) {
        let flops = 2.0 * (s.micro * s.seq * s.seq * s.heads * s.head_dim) as f64;
        self.time("attention", flops, |d| d.attention(s, qkv, out, lse));
    }
    fn attention_backward(
        &self,
        s: &Attention,
        qkv: View,
        out: View,
        lse: View,
        dout: View,
        dqkv: View,
        scratch: View,
    ) {
        let flops = 5.0 * (s.micro * s.seq * s.seq * s.heads * s.head_dim) as f64;
        self.time("attention_backward", flops, |d| d.attention_backward(s, qkv, out, lse, dout, dqkv, scratch));
    }
    fn swiglu(&self, gate_up: View, out: Matrix) {
        self.time("swiglu", 0.0, |d| d.swiglu(gate_up, out));
    }
    fn swiglu_backward(&self, gate_up: View, act: View, d_gate_up: View, width: usize, remake: bool) {
        self.time("swiglu_backward", 0.0, |d| d.swiglu_backward(gate_up, act, d_gate_up, width, remake));
    }
    fn embed(&self, table: View, tokens: View, out: View, dim: usize) {
        self.time("embed", 0.0, |d| d.embed(table, tokens, out, dim));
    }
    fn embed_backward(&self, dout: View, tokens: View, dtable: View, dim: usize) {
        self.time("embed_backward", 0.0, |d| d.embed_backward(dout, tokens, dtable, dim));
    }
    fn cross_entropy(
        &self,
        logits: Matrix,
        targets: View,
        scale: f64,
        loss: View,
        scratch: View,
        gradient: Option<Matrix>,
    ) {
        self.time("cross_entropy", 0.0, |d| d.cross_entropy(logits, targets, scale, loss, scratch, gradient));
    }
    fn adamw(&self, step: &AdamWStep) {
        self.time("adamw", 0.0, |d| d.adamw(step));
    }
    fn add_squares(&self, x: View, sum: View) {
        self.time("add_squares", 0.0, |d| d.add_squares(x, sum));
    }
    fn cast(&self, src: View, dst: View) {
        self.time("cast", 0.0, |d| d.cast(src, dst));
    }
    fn accumulate(&self, src: View, dst: View) {
        self.time("accumulate", 0.0, |d| d.accumulate(src, dst));
    }
    fn clear(&self, dst: View) {
        self.time("clear", 0.0, |d| d.clear(dst));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let profile = arguments.iter().any(|a| a == "--profile");
    let plain: Vec<&str> = arguments.iter().filter(|a| !a.starts_with("--")).map(String::as_str).collect();
    let pick = |i: usize, default: &'static str| plain.get(i).copied().unwrap_or(default);
    let (dim, ffn, vocab, seq, micro, micros, recompute) = match pick(0, "tiny") {
        "tiny" => (256, 688, 512, 256, 8, 2, Recompute::None),
        "small" => (512, 1376, 32000, 1024, 2, 2, Recompute::None),
        "long" => (512, 1376, 32000, 8192, 1, 1, Recompute::Block),
        other => panic!("{other} is none of tiny, small, long"),
    };
    let dtype = if pick(1, "f32") == "bf16" { Dtype::Bf16 } else { Dtype::F32 };
    let threads: usize = pick(2, "1").parse().expect("a number of threads");
    let steps: usize = pick(3, "5").parse().expect("a number of steps");
    let shape = ModelShape {
        dim,
        layers: 8,
        heads: 8,
        kv_heads: 8,
        head_dim: dim / 8,
        ffn,
        vocab,
        tied: false,
        rope_theta: 10000.0,
        norm_eps: 1e-5,
        extra: Default::default(),
    };
    let batch = Batch { seq, micro, micros };
    let (groups, system) = (Groups::new(&[1]), systems::SystemOptions::Single);
    let costs = Costs::flops(&shape, micro, seq);
    let job = Job { shape, groups, batch, dtype, grad_dtype: Dtype::F32, recompute, costs, memory: None, system };
    let schedule = systems::schedule(&job).expect("a job for one rank");
    let plan = schedule.rank(0);
    let memory = Memory::new(&plan.slots);
    for (i, slot) in plan.slots.iter().enumerate().filter(|(_, slot)| slot.segment == Segment::Master) {
        let held = slot.holds.as_ref().expect("masters hold parameters");
        // SAFETY: one thread, f32 masters.
        let values = unsafe { memory.slot(i).slice_mut::<f32>() };
        for param in &schedule.shards.shards[held.shard].params {
            init(1, param, 0, &mut values[param.offset..param.offset + param.len()]);
        }
    }
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let device = Timed { cpu: Cpu::new(threads), times: Mutex::default(), on: profile };
    let net = Network::new(&job.shape, &schedule.shards, batch, dtype, job.recompute, adamw, device)
        .expect("a host never fails");
    plan.prepare.iter().for_each(|op| net.run(&op.action, &memory));
    let (mut scalars, mut stats) = (None, None);
    for op in &plan.train {
        if let Action::Update { step, stats: s, .. } = &op.action {
            (scalars, stats) = (Some(memory.view(*step)), Some(memory.view(*s)));
        }
    }
    let (scalars, stats) = (scalars.expect("an update"), stats.expect("an update"));
    let mut seconds = Vec::new();
    for s in 0..=steps {
        // SAFETY: nothing runs between iterations.
        unsafe {
            scalars.slice_mut::<f64>().copy_from_slice(&[3e-4, (s + 1) as f64, 1.0, f64::MAX]);
            stats.slice_mut::<f64>().fill(0.0);
        }
        assert_eq!(step::LEN, scalars.len());
        if s == 1 {
            net.device().times.lock().expect("no operation panics").clear();
        }
        let (wall, own) = (Instant::now(), processor());
        for op in &plan.train {
            match &op.action {
                Action::Load { work, tokens } => {
                    // SAFETY: one thread, i32 tokens.
                    let tokens = unsafe { memory.view(*tokens).slice_mut::<i32>() };
                    for (i, t) in tokens.iter_mut().enumerate() {
                        *t = ((i * 7919 + work.micro * 104_729) % vocab) as i32;
                    }
                }
                Action::Collective(_) => {}
                action => net.device().together(&mut || net.run(action, &memory)),
            }
        }
        if s > 0 {
            seconds.push((wall.elapsed().as_secs_f64(), processor() - own));
        }
        // SAFETY: nothing runs between iterations.
        let loss = unsafe { stats.slice::<f64>()[0] };
        assert!(loss.is_finite(), "the loss is {loss}");
    }
    let median = |mut x: Vec<f64>| {
        x.sort_by(f64::total_cmp);
        x[x.len() / 2]
    };
    let wall = median(seconds.iter().map(|s| s.0).collect());
    let own = median(seconds.iter().map(|s| s.1).collect());
    let tokens = batch.tokens() as f64;
    let slots = plan.slots.iter().map(|s| s.bytes()).sum::<usize>() >> 20;
    println!(
        "{} {} {threads} threads: {:.0} tokens/s by the clock, {:.0} by processor time; {wall:.3} s and {own:.3} s a \
         step; peak {:.0} MiB, of it slots {slots} MiB; {:.1} M parameters",
        pick(0, "tiny"),
        dtype.name(),
        tokens / wall,
        tokens / own,
        peak(),
        job.shape.params() as f64 / 1e6
    );
    if profile {
        let times = net.device().times.lock().expect("no operation panics");
        let mut rows: Vec<_> = times.iter().collect();
        rows.sort_by(|a, b| b.1.wall.total_cmp(&a.1.wall));
        let total: f64 = rows.iter().map(|r| r.1.wall).sum();
        for (name, Spent { own, wall, flops }) in rows {
            let rate = if *flops > 0.0 { format!("{:8.1} GFLOP/s", flops / own * 1e-9) } else { String::new() };
            let [wall, own, share] = [1e3 * wall / steps as f64, 1e3 * own / steps as f64, 100.0 * wall / total];
            println!("{wall:8.1} ms {share:5.1} % {own:8.1} ms of processors  {name:36} {rate}");
        }
    }
}
