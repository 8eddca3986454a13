//! What the simulator says of a cell of an experiment, beside a measurement or instead of one.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cluster::Description;
use crate::plan::check::check;
use crate::plan::systems::{Schedule, schedule};
use crate::plan::tables::{Traffic, memory};
use crate::plan::{Job, RankPlan, Segment};
use crate::simulate::{Mfu, Prices, RankUse, Simulation, costs, simulate};

/// Rounds of the iterations that a longer one is extrapolated from: it grows evenly once every pipeline is full.
const STEADY: [usize; 2] = [2, 4];

/// What the simulator says of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Name of the described machine.
    pub cluster: String,
    /// What would become of the job there.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What would become of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It runs.
    Runs(Box<Forecast>),
    /// A rank needs more memory than it may use.
    TooLarge {
        /// Bytes that the rank with the most needs.
        needs: usize,
        /// Bytes that a rank may use.
        limit: usize,
    },
    /// The system cannot run it.
    Refused {
        /// The system's own sentence.
        reason: String,
    },
}

/// An iteration as the simulator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Seconds of an iteration.
    pub step_s: f64,
    /// Target tokens a second, all ranks together.
    pub tokens_per_s: f64,
    /// Seconds of an iteration that a rank computes, mean over ranks; with the next two it adds up to `step_s`.
    pub busy_s: f64,
    /// Seconds in which a rank waits while something moves to or from it: communication that nothing hides.
    pub exposed_s: f64,
    /// Seconds in which a rank waits for others that are not ready: the bubble.
    pub idle_s: f64,
    /// Bytes that all ranks together send to ranks of other groups in an iteration.
    pub bytes_inter: usize,
    /// Bytes that all ranks together send inside groups.
    pub bytes_intra: usize,
    /// Bytes of the rank with the most memory, by what they are for.
    pub memory: BTreeMap<Segment, usize>,
    /// Model FLOP utilisation, attention counted as far as it is causal; unknown where the device's peak is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
}

impl Forecast {
    /// Bytes of the rank with the most memory.
    pub fn peak(&self) -> usize {
        self.memory.values().sum()
    }
}

impl Prediction {
    /// The numbers, if the job runs.
    pub fn forecast(&self) -> Option<&Forecast> {
        match &self.verdict {
            Verdict::Runs(forecast) => Some(forecast),
            _ => None,
        }
    }

    /// Why the job does not run, in a sentence.
    pub fn reason(&self) -> Option<String> {
        let gb = |bytes: &usize| *bytes as f64 / 1e9;
        match &self.verdict {
            Verdict::Runs(_) => None,
            Verdict::TooLarge { needs, limit } => {
                Some(format!("out of memory: a rank needs {:.1} GB and may use {:.1}", gb(needs), gb(limit)))
            }
            Verdict::Refused { reason } => Some(reason.clone()),
        }
    }
}

/// Plans, proves and prices a job on a described machine, whose first ranks are the job's; `job.costs` are replaced by
/// those of the machine. A rank may use `job.memory`, else what the machine has.
///
/// An iteration of more than four rounds is extrapolated from its first two and four. The same job on the same machine
/// always gives the same numbers.
///
/// # Panics
/// If the plan is wrong: a bug of the system.
pub fn predict(job: &Job, machine: &Description) -> Prediction {
    let verdict = verdict(job, machine).unwrap_or_else(|refused| refused);
    Prediction { cluster: machine.name.clone(), verdict }
}

/// `Err` holds the verdicts of jobs that do not run.
fn verdict(job: &Job, machine: &Description) -> Result<Verdict, Verdict> {
    let refused = |reason: String| Verdict::Refused { reason };
    let mut job = job.clone();
    let ranks = job.groups.ranks();
    Prices::of(machine, &job).map_err(|few| refused(few.to_string()))?;
    job.costs = costs(machine, &job);
    let limit = *job.memory.get_or_insert(machine.device().memory as usize);
    let rounds = job.batch.micros as f64 / ranks as f64;
    let parts: Vec<usize> = match job.batch.micros > STEADY[1] * ranks {
        true => STEADY.iter().map(|rounds| rounds * ranks).collect(),
        false => vec![job.batch.micros],
    };
    let mut runs = Vec::new();
    for &micros in &parts {
        let mut piece = job.clone();
        piece.batch.micros = micros;
        let schedule = schedule(&piece).map_err(|refusal| refused(refusal.0))?;
        let plans = plans(&schedule, limit)?;
        if runs.is_empty()
            && let Err(defects) = check(&schedule, &plans)
        {
            panic!("system {}: {} defects, the first: {}", job.system.name(), defects.len(), defects[0]);
        }
        let prices = Prices::of(machine, &piece).map_err(|few| refused(few.to_string()))?;
        let simulation = simulate(&schedule, &plans, &prices).map_err(|stuck| refused(stuck.to_string()))?;
        runs.push((micros as f64 / ranks as f64, simulation));
    }
    Ok(Verdict::Runs(Box::new(forecast(&job, machine, rounds, &runs))))
}

/// All plans, if they fit; planned side by side, for there may be a thousand.
fn plans(schedule: &Schedule, limit: usize) -> Result<Vec<RankPlan>, Verdict> {
    let plans: Vec<RankPlan> =
        (0..schedule.job.groups.ranks()).into_par_iter().map(|rank| schedule.rank(rank)).collect();
    let needs = plans.iter().map(|plan| memory(&plan.slots).values().sum()).max().unwrap_or(0);
    if needs > limit { Err(Verdict::TooLarge { needs, limit }) } else { Ok(plans) }
}

/// The numbers of one simulation, or of the line through two of fewer rounds.
fn forecast(job: &Job, machine: &Description, rounds: f64, runs: &[(f64, Simulation)]) -> Forecast {
    let (at, last) = &runs[runs.len() - 1];
    let line = |of: &dyn Fn(&Simulation) -> f64| match runs {
        [(a, first), (b, second)] => of(second) + (of(second) - of(first)) / (b - a) * (rounds - at),
        _ => of(last),
    };
    let ranks = last.ranks.len() as f64;
    let mean = |of: fn(&RankUse) -> f64| line(&|run| run.ranks.iter().map(of).sum::<f64>() / ranks);
    let bytes = |of: fn(&Traffic) -> usize| line(&|run| of(&run.total_traffic()) as f64).round() as usize;
    let step_s = line(&|run| run.step_s);
    let tokens_per_s = job.batch.tokens() as f64 / step_s;
    let memory = last.memory.iter().max_by_key(|table| table.values().sum::<usize>());
    Forecast {
        step_s,
        tokens_per_s,
        busy_s: mean(|rank| rank.busy),
        exposed_s: mean(|rank| rank.exposed),
        idle_s: mean(|rank| rank.idle),
        bytes_inter: bytes(|traffic| traffic.inter),
        bytes_intra: bytes(|traffic| traffic.intra),
        memory: memory.cloned().unwrap_or_default(),
        mfu: machine.device().peak.map(|peak| Mfu::of(&job.shape, job.batch.seq, tokens_per_s / ranks, peak).causal),
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

    /// A prediction depends on nothing but job and machine, survives its file, and its parts add up.
    #[test]
    fn a_prediction_is_a_function() {
        let (job, machine) = job("name = 'tawpipe'", 8);
        let prediction = predict(&job, &machine);
        assert_eq!(prediction, predict(&job, &machine));
        let text = serde_json::to_string(&prediction).unwrap();
        assert_eq!(prediction, serde_json::from_str(&text).unwrap());
        let forecast = prediction.forecast().unwrap();
        let sum = forecast.busy_s + forecast.exposed_s + forecast.idle_s;
        assert!((sum / forecast.step_s - 1.0).abs() < 1e-6, "{forecast:?}");
        assert!(forecast.bytes_inter > 0 && forecast.peak() > 0, "{forecast:?}");
    }

    /// A long iteration, extrapolated, is what simulating all of it gives, within a hundredth.
    #[test]
    fn long_iterations_are_extrapolated() {
        for system in ["name = 'tawpipe'", "name = '1f1b'", "name = 'fsdp'"] {
            let (long, machine) = job(system, 4 * 12);
            let Verdict::Runs(short) = verdict(&long, &machine).unwrap() else { panic!("{system} runs") };
            let mut whole = long.clone();
            whole.costs = costs(&machine, &whole);
            let schedule = schedule(&whole).unwrap();
            let all = simulate(&schedule, &schedule.ranks(), &Prices::of(&machine, &whole).unwrap()).unwrap();
            assert!((short.step_s / all.step_s - 1.0).abs() < 0.01, "{system}: {} {}", short.step_s, all.step_s);
            assert_eq!(short.bytes_inter, all.total_traffic().inter, "{system}");
        }
    }

    /// Jobs that cannot run say why: too little memory, or the system's own words.
    #[test]
    fn what_does_not_run_has_a_reason() {
        let (mut small, machine) = job("name = 'ddp'", 8);
        small.memory = Some(1 << 20);
        let prediction = predict(&small, &machine);
        assert!(matches!(prediction.verdict, Verdict::TooLarge { limit: 1_048_576, .. }), "{prediction:?}");
        let (mut deep, machine) = job("name = '1f1b'", 8);
        deep.shape.layers = 1;
        let prediction = predict(&deep, &machine);
        assert!(matches!(prediction.verdict, Verdict::Refused { .. }), "{prediction:?}");
        assert!(prediction.reason().is_some_and(|reason| !reason.is_empty()));
    }
}
