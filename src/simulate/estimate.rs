//! The numbers of a job on a machine: what `--recommend` ranks and what an experiment predicts.
//!
//! They are those of [`simulate`] on the whole iteration. A long iteration is not simulated round by round: once every
//! pipeline is full it grows by the same time with each round, so that two shorter iterations, which end in the same
//! round of fewer micro-batches if the long one does, give the line that it lies on.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::cluster::Description;
use crate::plan::systems::{Schedule, schedule};
use crate::plan::tables::{Traffic, memory};
use crate::plan::{Job, RankPlan, Segment};
use crate::units::size;

use super::{Prices, RankUse, Simulation, costs, simulate};

/// By how much the simulator errs: the median error over the 23 throughputs that the TawPipe paper publishes
/// (`cargo bench --bench paper`, in `docs/simulator.md`). Times that differ by less cannot be told apart.
pub const ERROR: f64 = 0.037;

/// Full rounds of the two iterations that a longer one is extrapolated from.
const STEADY: [usize; 2] = [4, 6];
/// The most full rounds that are simulated as they are: no more work than the two iterations of an extrapolation.
const WHOLE: usize = STEADY[0] + STEADY[1];

/// What an iteration of a job would be like on a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The job with the options that its system chose, and with costs for the machine.
    pub job: Job,
    /// Seconds of an iteration.
    pub step_s: f64,
    /// Mean seconds of a rank in an iteration.
    pub mean: RankUse,
    /// Bytes of the rank with the most memory, by what they are for.
    pub memory: BTreeMap<Segment, usize>,
    /// What all ranks send in an iteration.
    pub traffic: Traffic,
    /// Bytes that leave each group in an iteration.
    pub leaving: Vec<usize>,
}

/// Why a job does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A rank needs more memory than it may use.
    #[error("out of memory: a rank needs {} and may use {}", size(*needs), size(*limit))]
    TooLarge {
        /// Bytes that the rank with the most needs.
        needs: usize,
        /// Bytes that a rank may use.
        limit: usize,
    },
    /// The system's own sentence.
    #[error("{0}")]
    Refused(String),
}

impl Estimate {
    /// Plans and prices a job on a described machine, whose first ranks are the job's; `job.costs` are replaced by those
    /// of the machine. A rank may use `job.memory`, else what the machine has. `prove` sees the plans of the first
    /// iteration that is priced.
    ///
    /// # Errors
    /// If it needs too much memory, or the system refuses it.
    pub fn of(job: &Job, machine: &Description, prove: impl Fn(&Schedule, &[RankPlan])) -> Result<Estimate, Unfit> {
        let mut job = job.clone();
        Prices::of(machine, &job).map_err(refused)?;
        job.costs = costs(machine, &job);
        let limit = *job.memory.get_or_insert(machine.device().memory as usize);
        let mut runs = Vec::new();
        for rounds in pieces(&job) {
            let mut piece = job.clone();
            if let Some(rounds) = rounds {
                piece.batch.micros = rounds * ranks(&job) + job.batch.micros % ranks(&job);
            }
            let schedule = schedule(&piece).map_err(refused)?;
            // What a system chose for the shorter iteration holds for the longer ones.
            job.system = schedule.job.system.clone();
            let plans = plans(&schedule, limit)?;
            if runs.is_empty() {
                prove(&schedule, &plans);
            }
            let prices = Prices::of(machine, &piece).map_err(refused)?;
            runs.push((piece.batch.micros, simulate(&schedule, &plans, &prices).map_err(refused)?));
        }
        Ok(Estimate::line(job, &runs))
    }

    /// The numbers of one simulation, or of the line through two of fewer micro-batches.
    fn line(job: Job, runs: &[(usize, Simulation)]) -> Estimate {
        let (_, last) = &runs[runs.len() - 1];
        let line = |of: &dyn Fn(&Simulation) -> f64| match runs {
            [(a, first), (b, second)] => {
                let slope = (of(second) - of(first)) / (b - a) as f64;
                of(second) + slope * (job.batch.micros - b) as f64
            }
            _ => of(last),
        };
        let ranks = last.ranks.len() as f64;
        let mean = |of: fn(&RankUse) -> f64| line(&|run| run.ranks.iter().map(of).sum::<f64>() / ranks);
        let bytes = |of: fn(&Traffic) -> usize| line(&|run| of(&run.total_traffic()) as f64).round() as usize;
        let leaving = |group: usize| {
            let sent = |run: &Simulation| job.groups.members(group).map(|rank| run.traffic[rank].inter as f64).sum();
            line(&sent).round() as usize
        };
        let most = last.memory.iter().max_by_key(|table| table.values().sum::<usize>());
        Estimate {
            step_s: line(&|run| run.step_s),
            mean: RankUse { busy: mean(|r| r.busy), exposed: mean(|r| r.exposed), idle: mean(|r| r.idle) },
            memory: most.cloned().unwrap_or_default(),
            traffic: Traffic { intra: bytes(|t| t.intra), inter: bytes(|t| t.inter), control: bytes(|t| t.control) },
            leaving: (0..job.groups.count()).map(leaving).collect(),
            job,
        }
    }

    /// Target tokens a second, all ranks together.
    pub fn tokens_per_s(&self) -> f64 {
        self.job.batch.tokens() as f64 / self.step_s
    }

    /// Bytes of the rank with the most memory.
    pub fn peak(&self) -> usize {
        self.memory.values().sum()
    }
}

/// Full rounds of the iterations to simulate; `None`: all of it.
fn pieces(job: &Job) -> Vec<Option<usize>> {
    match job.batch.micros / ranks(job) > WHOLE {
        true => STEADY.map(Some).to_vec(),
        false => vec![None],
    }
}

fn ranks(job: &Job) -> usize {
    job.groups.ranks()
}

fn refused(error: impl std::error::Error) -> Unfit {
    Unfit::Refused(error.to_string())
}

/// All plans, if they fit; planned side by side, for there may be a thousand.
fn plans(schedule: &Schedule, limit: usize) -> Result<Vec<RankPlan>, Unfit> {
    let plans: Vec<RankPlan> = (0..ranks(&schedule.job)).into_par_iter().map(|rank| schedule.rank(rank)).collect();
    let needs = plans.iter().map(|plan| memory(&plan.slots).values().sum()).max().unwrap_or(0);
    if needs > limit { Err(Unfit::TooLarge { needs, limit }) } else { Ok(plans) }
}
