//! What the simulator says of a cell of an experiment, beside a measurement or instead of one.

use rayon::prelude::*;

use crate::cluster::Description;
use crate::plan::check::check;
use crate::plan::systems::{Schedule, schedule};
use crate::plan::tables::{Traffic, memory};
use crate::plan::{Job, RankPlan};
use crate::results::{Counted, Prediction};
use crate::simulate::{Mfu, Prices, RankUse, Simulation, costs, simulate};

/// Rounds of the iterations that a longer one is extrapolated from: it grows evenly once every pipeline is full.
const STEADY: [usize; 2] = [2, 4];

/// What becomes of a job that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// What its plan counts.
    pub counted: Counted,
    /// What the simulator says.
    pub prediction: Prediction,
}

/// Why a job does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A rank needs more memory than it may use.
    #[error("out of memory: a rank needs {:.1} GB and may use {:.1} GB", *needs as f64 / 1e9, *limit as f64 / 1e9)]
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

/// Plans, proves and prices a job on a described machine, whose first ranks are the job's; `job.costs` are replaced by
/// those of the machine. A rank may use `job.memory`, else what the machine has.
///
/// An iteration of more than four rounds is extrapolated from its first two and four. The same job on the same machine
/// always gives the same numbers.
///
/// # Errors
/// If it needs too much memory, or the system refuses it.
///
/// # Panics
/// If the plan is wrong: a bug of the system.
pub fn predict(job: &Job, machine: &Description) -> Result<Forecast, Unfit> {
    let mut job = job.clone();
    let ranks = job.groups.ranks();
    Prices::of(machine, &job).map_err(refused)?;
    job.costs = costs(machine, &job);
    let limit = *job.memory.get_or_insert(machine.device().memory as usize);
    let parts: Vec<usize> = match job.batch.micros > STEADY[1] * ranks {
        true => STEADY.iter().map(|rounds| rounds * ranks).collect(),
        false => vec![job.batch.micros],
    };
    let mut runs = Vec::new();
    for &micros in &parts {
        let mut piece = job.clone();
        piece.batch.micros = micros;
        let schedule = schedule(&piece).map_err(refused)?;
        let plans = plans(&schedule, limit)?;
        if runs.is_empty()
            && let Err(defects) = check(&schedule, &plans)
        {
            panic!("system {}: {} defects, the first: {}", job.system.name(), defects.len(), defects[0]);
        }
        let prices = Prices::of(machine, &piece).map_err(refused)?;
        let simulation = simulate(&schedule, &plans, &prices).map_err(refused)?;
        runs.push((micros as f64, simulation));
    }
    Ok(forecast(&job, machine, &runs))
}

fn refused(error: impl std::error::Error) -> Unfit {
    Unfit::Refused(error.to_string())
}

/// All plans, if they fit; planned side by side, for there may be a thousand.
fn plans(schedule: &Schedule, limit: usize) -> Result<Vec<RankPlan>, Unfit> {
    let plans: Vec<RankPlan> =
        (0..schedule.job.groups.ranks()).into_par_iter().map(|rank| schedule.rank(rank)).collect();
    let needs = plans.iter().map(|plan| memory(&plan.slots).values().sum()).max().unwrap_or(0);
    if needs > limit { Err(Unfit::TooLarge { needs, limit }) } else { Ok(plans) }
}

/// The numbers of one simulation, or of the line through two of fewer micro-batches.
fn forecast(job: &Job, machine: &Description, runs: &[(f64, Simulation)]) -> Forecast {
    let (at, last) = &runs[runs.len() - 1];
    let line = |of: &dyn Fn(&Simulation) -> f64| match runs {
        [(a, first), (b, second)] => of(second) + (of(second) - of(first)) / (b - a) * (job.batch.micros as f64 - at),
        _ => of(last),
    };
    let ranks = last.ranks.len() as f64;
    let mean = |of: fn(&RankUse) -> f64| line(&|run| run.ranks.iter().map(of).sum::<f64>() / ranks);
    let bytes = |of: fn(&Traffic) -> usize| line(&|run| of(&run.total_traffic()) as f64).round() as u64;
    let leaving = |group: usize| {
        let sent = |run: &Simulation| job.groups.members(group).map(|rank| run.traffic[rank].inter as f64).sum();
        line(&sent).round() as u64
    };
    let step_s = line(&|run| run.step_s);
    let tokens_per_s = job.batch.tokens() as f64 / step_s;
    let most = last.memory.iter().max_by_key(|table| table.values().sum::<usize>());
    let mfu = |peak| Mfu::of(&job.shape, job.batch.seq, tokens_per_s / ranks, peak).causal;
    Forecast {
        counted: Counted {
            bytes_inter: bytes(|traffic| traffic.inter),
            bytes_intra: bytes(|traffic| traffic.intra),
            bytes_control: bytes(|traffic| traffic.control),
            bytes_leaving: (0..job.groups.count()).map(leaving).collect(),
            memory: most.into_iter().flatten().map(|(&segment, &bytes)| (segment, bytes as u64)).collect(),
        },
        prediction: Prediction {
            machine: machine.name.clone(),
            step_s,
            tokens_per_s,
            busy_s: mean(|rank| rank.busy),
            exposed_s: mean(|rank| rank.exposed),
            idle_s: mean(|rank| rank.idle),
            mfu: machine.device().peak.map(mfu),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Costs;
    use crate::model::{Dtype, ModelShape, Recompute};
    use crate::plan::Batch;
    use crate::simulate::named;

    fn job(system: &str, micros: usize) -> (Job, Description) {
        let machine = Description::read("inputs/clusters/laptop.toml".as_ref()).unwrap();
        let shape = ModelShape {
            dim: 64,
            layers: 4,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            ffn: 128,
            vocab: 256,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
        };
        let job = Job {
            shape,
            groups: machine.groups(),
            batch: Batch { seq: 64, micro: 1, micros },
            dtype: Dtype::F32,
            grad_dtype: Dtype::F32,
            recompute: Recompute::Block,
            costs: Costs::unit(),
            memory: None,
            system: named(system).unwrap(),
        };
        (job, machine)
    }

    /// A prediction depends on nothing but job and machine, and its parts add up.
    #[test]
    fn a_prediction_is_a_function() {
        let (job, machine) = job("name = 'tawpipe'", 8);
        let forecast = predict(&job, &machine).unwrap();
        assert_eq!(forecast, predict(&job, &machine).unwrap());
        let Forecast { counted, prediction } = forecast;
        let sum = prediction.busy_s + prediction.exposed_s + prediction.idle_s;
        assert!((sum / prediction.step_s - 1.0).abs() < 1e-6, "{prediction:?}");
        assert_eq!(counted.bytes_leaving.iter().sum::<u64>(), counted.bytes_inter);
        assert!(counted.bytes_inter > 0 && counted.peak() > 0, "{counted:?}");
    }

    /// A long iteration, extrapolated, is what simulating all of it gives, within a hundredth.
    #[test]
    fn long_iterations_are_extrapolated() {
        for system in ["name = 'tawpipe'", "name = '1f1b'", "name = 'fsdp'"] {
            let (long, machine) = job(system, 4 * 12);
            let Forecast { counted, prediction: short } = predict(&long, &machine).unwrap();
            let mut whole = long.clone();
            whole.costs = costs(&machine, &whole);
            let schedule = schedule(&whole).unwrap();
            let all = simulate(&schedule, &schedule.ranks(), &Prices::of(&machine, &whole).unwrap()).unwrap();
            assert!((short.step_s / all.step_s - 1.0).abs() < 0.01, "{system}: {} {}", short.step_s, all.step_s);
            assert_eq!(counted.bytes_inter, all.total_traffic().inter as u64, "{system}");
        }
    }

    /// Jobs that cannot run say why: too little memory, or the system's own words.
    #[test]
    fn what_does_not_run_has_a_reason() {
        let (mut small, machine) = job("name = 'ddp'", 8);
        small.memory = Some(1 << 20);
        let unfit = predict(&small, &machine).unwrap_err();
        assert!(matches!(unfit, Unfit::TooLarge { limit: 1_048_576, .. }), "{unfit}");
        let (mut deep, machine) = job("name = '1f1b'", 8);
        deep.shape.layers = 1;
        let unfit = predict(&deep, &machine).unwrap_err();
        assert!(matches!(&unfit, Unfit::Refused(reason) if !reason.is_empty()), "{unfit}");
    }
}
