//! When every operation of a plan would run on a machine that need not be at hand.
//!
//! ```
//! use tawpipe::cluster::{Costs, Description};
//! use tawpipe::model::{Dtype, ModelShape, Recompute};
//! use tawpipe::plan::systems::{SystemOptions, TawpipeOptions, schedule};
//! use tawpipe::plan::{Batch, Job};
//! use tawpipe::simulate::{Prices, costs, simulate};
//!
//! let machine = Description::read("inputs/clusters/laptop.toml".as_ref()).unwrap();
//! let mut job = Job {
//!     shape: ModelShape {
//!         dim: 64, layers: 4, heads: 4, kv_heads: 4, head_dim: 16, ffn: 128, vocab: 256,
//!         tied: false, rope_theta: 1e4, norm_eps: 1e-5, extra: Default::default(),
//!     },
//!     groups: machine.groups(),
//!     batch: Batch { seq: 64, micro: 1, micros: 8 },
//!     dtype: Dtype::F32,
//!     grad_dtype: Dtype::F32,
//!     recompute: Recompute::Block,
//!     costs: Costs::unit(),
//!     memory: None,
//!     system: SystemOptions::Tawpipe(TawpipeOptions::default()),
//! };
//! job.costs = costs(&machine, &job); // what pipelines spread their blocks by
//! let schedule = schedule(&job).unwrap();
//! let plans = schedule.ranks();
//! let simulation = simulate(&schedule, &plans, &Prices::of(&machine, &job).unwrap()).unwrap();
//! assert!(simulation.step_s > 0.0 && simulation.bubble() < 1.0);
//! assert_eq!(simulation.timeline.ranks.len(), 4); // draw it, trace it
//! ```
//!
//! A plan is replayed event by event: an op starts when the op before it on its lane and the ops it waits for are
//! complete; a message moves when both ends have started; messages share links, and on machines where ranks share
//! processor cores, computation and messages share the cores. `docs/simulator.md` says what that leaves out.

mod engine;
mod estimate;
mod flows;
mod prices;
mod recommend;
mod route;
mod usage;
mod variants;

use std::collections::BTreeMap;

use crate::cluster::Rank;
use crate::plan::systems::Schedule;
use crate::plan::tables::{Traffic, memory, traffic};
use crate::plan::{OpId, RankPlan, Segment, Timeline};

pub use estimate::{ERROR, Estimate, Unfit};
pub use prices::{Prices, TooFewRanks, costs};
pub use recommend::{Candidate, Recommendation, recommend};
pub use usage::{Mfu, RankUse, flops_per_token};
pub use variants::{named, systems};

/// What a training iteration would be like.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Seconds of the iteration (in [`Prices::unit`]: units).
    pub step_s: f64,
    /// When every op runs, in the form that the engine measures.
    pub timeline: Timeline,
    /// What each rank's time goes to.
    pub ranks: Vec<RankUse>,
    /// What each rank sends.
    pub traffic: Vec<Traffic>,
    /// Bytes of each rank's slots, by what they are for: its peak.
    pub memory: Vec<BTreeMap<Segment, usize>>,
    /// Target tokens a second, divided by the number of ranks.
    pub tokens_per_s_rank: f64,
    /// Model FLOP utilisation, where the device's peak is known.
    pub mfu: Option<Mfu>,
}

impl Simulation {
    /// The part of all ranks' time in which they do not compute.
    pub fn bubble(&self) -> f64 {
        let busy: f64 = self.ranks.iter().map(|rank| rank.busy).sum();
        if self.step_s > 0.0 { 1.0 - busy / (self.step_s * self.ranks.len() as f64) } else { 0.0 }
    }

    /// Bytes of the rank with the most memory.
    pub fn peak(&self) -> usize {
        self.memory.iter().map(|table| table.values().sum()).max().unwrap_or(0)
    }

    /// What all ranks send.
    pub fn total_traffic(&self) -> Traffic {
        self.traffic.iter().fold(Traffic::default(), |mut sum, &traffic| {
            sum += traffic;
            sum
        })
    }
}

/// A plan that never ends: [`crate::plan::check`] says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan gets stuck: rank {rank}, train op {op} never completes; the checker says why")]
pub struct Stuck {
    /// One of the ranks that wait.
    pub rank: Rank,
    /// Its first op that is not complete.
    pub op: OpId,
}

/// Runs a training iteration of all ranks' plans (`plans[r].rank == r`) at these prices.
///
/// # Errors
/// If the plan waits in a circle.
///
/// # Panics
/// If plans do not fit together in other ways that the checker finds.
pub fn simulate(schedule: &Schedule, plans: &[RankPlan], prices: &Prices) -> Result<Simulation, Stuck> {
    let (timeline, ranks) = engine::run(schedule, plans, prices)?;
    let job = &schedule.job;
    let step_s = ranks.iter().map(|rank| rank.end).fold(0.0, f64::max);
    let each = |plan: &RankPlan| traffic(&job.groups, &schedule.splits, plan, &plan.train);
    let tokens_per_s_rank = job.batch.tokens() as f64 / step_s / plans.len() as f64;
    Ok(Simulation {
        step_s,
        timeline,
        ranks: ranks.iter().map(|rank| rank.over(step_s)).collect(),
        traffic: plans.iter().map(each).collect(),
        memory: plans.iter().map(|plan| memory(&plan.slots)).collect(),
        tokens_per_s_rank,
        mfu: prices.peak().map(|peak| Mfu::of(&job.shape, job.batch.seq, tokens_per_s_rank, peak)),
    })
}
