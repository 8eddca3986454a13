//! Trains a tiny model on random tokens through the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tawpipe::cluster::{Costs, Groups, Rank};
use tawpipe::device::{AdamW, Cpu, DeviceError, Memory};
use tawpipe::engine::{Compute, Engine, EngineError, Executor, Measured, Options, Phase, Source};
use tawpipe::fabric::Wire;
use tawpipe::model::{Dtype, ModelShape, Recompute, init};
use tawpipe::nn::Network;
use tawpipe::plan::systems::{Embed, Schedule, Settled, Stagger, SystemOptions, TawpipeOptions, schedule};
use tawpipe::plan::{Action, Batch, Job, RankPlan, Segment, Split, stats, step};

/// A job on these groups.
pub fn job(groups: &Groups, layers: usize, micros: usize, tied: bool, options: impl Into<TawpipeOptions>) -> Job {
    let shape = ModelShape {
        dim: 32,
        layers,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 48,
        vocab: 61,
        tied,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
        extra: Default::default(),
    };
    let batch = Batch { seq: 12, micro: 2, micros };
    Job {
        shape,
        groups: groups.clone(),
        batch,
        dtype: Dtype::F32,
        grad_dtype: Dtype::F32,
        recompute: Recompute::None,
        costs: Costs::unit(),
        memory: None,
        system: SystemOptions::Tawpipe(options.into()),
    }
}

/// The same work on one rank.
pub fn alone(job: &Job) -> Job {
    Job { groups: Groups::new(&[1]), system: SystemOptions::Single, ..job.clone() }
}

pub fn options(blocks_per_shard: usize, embed: Embed, stagger: Stagger) -> Settled {
    Settled { blocks_per_shard, embed, stagger, ..Default::default() }
}

/// The same in bf16, gradients on the wire too.
pub fn bf16(job: Job) -> Job {
    Job { dtype: Dtype::Bf16, grad_dtype: Dtype::Bf16, recompute: Recompute::Block, ..job }
}

/// A network that panics after some forwards: of the compute lane, because a panic of the communication thread is an
/// error of the engine that the other ranks of a world of threads do not hear of.
pub struct Fragile {
    pub network: Network<Cpu>,
    pub left: AtomicUsize,
}

impl Compute for Fragile {
    fn run(&self, action: &Action, memory: &Memory) {
        let forward = matches!(action, Action::Forward { .. });
        assert!(!forward || self.left.fetch_sub(1, Ordering::Relaxed) > 0, "this rank has had enough");
        self.network.run(action, memory);
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.network.finish()
    }
}

/// Random tokens that depend on step and micro-batch only.
struct Tokens {
    batch: Batch,
    vocab: usize,
    step: usize,
}

impl Source for Tokens {
    fn load(&self, micro: usize, tokens: &mut [i32]) {
        let n = self.batch.micro_tokens();
        assert_eq!(tokens.len(), 2 * n);
        let token = |i: usize| {
            let mixed = ((self.step * 1000 + micro) * 1000 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            (mixed % self.vocab) as i32
        };
        for i in 0..n {
            // Targets are the inputs one further, as in a text.
            (tokens[i], tokens[n + i]) = (token(i), token(i + 1));
        }
    }
}

/// A model in training on one rank.
pub struct Trainer {
    pub schedule: Schedule,
    pub plan: RankPlan,
    pub engine: Engine,
}

impl Trainer {
    /// `wire` makes the messages of the schedule's splits.
    pub fn new(job: &Job, rank: Rank, wire: impl FnOnce(&[Split]) -> Option<Box<dyn Wire>>, options: Options) -> Self {
        Self::fragile(job, rank, wire, options, usize::MAX)
    }

    /// One that panics after `forwards` forwards.
    pub fn fragile(
        job: &Job,
        rank: Rank,
        wire: impl FnOnce(&[Split]) -> Option<Box<dyn Wire>>,
        options: Options,
        forwards: usize,
    ) -> Self {
        let schedule = schedule(job).unwrap();
        let plan = schedule.rank(rank);
        let memory = Memory::new(&plan.slots);
        for (slot, what) in plan.slots.iter().enumerate().filter(|(_, what)| what.segment == Segment::Master) {
            let place = what.holds.as_ref().expect("masters hold parameters");
            // SAFETY: nothing else uses the memory yet.
            let master = unsafe { memory.slot(slot).slice_mut::<f32>() };
            for param in &schedule.shards.shards[place.shard].params {
                let mut whole = vec![0.0; param.len()];
                init(11, param, 0, &mut whole);
                let (start, end) = (param.offset.max(place.range.start), param.offset + param.len());
                let end = end.min(place.range.end);
                if start < end {
                    let here = start - place.range.start..end - place.range.start;
                    master[here].copy_from_slice(&whole[start - param.offset..end - param.offset]);
                }
            }
        }
        let adamw = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let network =
            Network::new(&job.shape, &schedule.shards, job.batch, job.dtype, job.recompute, adamw, Cpu::new(1))
                .unwrap();
        let network = Fragile { network, left: AtomicUsize::new(forwards) };
        let wire = wire(&schedule.splits);
        let ranks = job.groups.ranks();
        let engine = Engine::new(&plan, &schedule.splits, ranks, memory, Arc::new(network), wire, options);
        Trainer { schedule, plan, engine }
    }

    /// Runs a phase as step number `number` (from 1); gives the statistics and what was measured.
    pub fn run(&mut self, phase: Phase, number: usize) -> Result<([f64; stats::LEN], Measured), EngineError> {
        let scalars = |len: usize, nth: usize| {
            let wanted = |slot: &&(usize, usize)| slot.1 == len;
            let found = self.plan.slots.iter().enumerate().filter(|(_, s)| s.segment == Segment::Scalars);
            let found: Vec<_> = found.map(|(id, s)| (id, s.elems)).collect();
            self.engine.memory().slot(found.iter().filter(wanted).nth(nth).expect("a slot of scalars").0)
        };
        let (stats_view, step_view) = (scalars(stats::LEN, 0), scalars(step::LEN, 0));
        let job = &self.schedule.job;
        let tokens = Tokens { batch: job.batch, vocab: job.shape.vocab, step: number };
        // SAFETY: between passes nobody else uses the memory.
        unsafe {
            stats_view.slice_mut::<f64>().fill(0.0);
            let scalars = step_view.slice_mut::<f64>();
            scalars[step::LR] = 1e-3;
            scalars[step::NUMBER] = number as f64;
            scalars[step::CLIP] = 1.0;
            scalars[step::BOUND] = f64::MAX;
        }
        let measured = self.engine.run(phase, &tokens)?;
        // SAFETY: as above.
        let stats = unsafe { stats_view.slice::<f64>() };
        Ok((stats.try_into().expect("a slot of this length"), measured))
    }

    /// Prepares, trains for some steps, and gives each step's statistics.
    pub fn train(&mut self, steps: usize) -> Vec<[f64; stats::LEN]> {
        self.run(Phase::Prepare, 0).unwrap();
        (1..=steps).map(|number| self.run(Phase::Train, number).unwrap().0).collect()
    }
}
