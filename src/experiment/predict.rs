//! What the simulator says of a cell of an experiment, beside a measurement or instead of one.

use crate::cluster::Description;
use crate::plan::Job;
use crate::plan::check::check;
use crate::results::{Counted, Prediction};
use crate::simulate::{Estimate, Mfu, Unfit};

/// What becomes of a job that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// What its plan counts.
    pub counted: Counted,
    /// What the simulator says.
    pub prediction: Prediction,
}

/// Plans, proves and prices a job on a described machine, whose first ranks are the job's; `job.costs` are replaced by
/// those of the machine. A rank may use `job.memory`, else what the machine has. The same job on the same machine always
/// gives the same numbers.
///
/// # Errors
/// If it needs too much memory, or the system refuses it.
///
/// # Panics
/// If the plan is wrong: a bug of the system.
pub fn predict(job: &Job, machine: &Description) -> Result<Forecast, Unfit> {
    let estimate = Estimate::of(job, machine, |schedule, plans| {
        if let Err(defects) = check(schedule, plans) {
            panic!("system {}: {} defects, the first: {}", job.system.name(), defects.len(), defects[0]);
        }
    })?;
    let tokens_per_s = estimate.tokens_per_s();
    let a_rank = tokens_per_s / job.groups.ranks() as f64;
    let mfu = |peak| Mfu::of(&job.shape, job.batch.seq, a_rank, peak).causal;
    Ok(Forecast {
        counted: Counted {
            bytes_inter: estimate.traffic.inter as u64,
            bytes_intra: estimate.traffic.intra as u64,
            bytes_control: estimate.traffic.control as u64,
            bytes_leaving: estimate.leaving.iter().map(|&bytes| bytes as u64).collect(),
            memory: estimate.memory.iter().map(|(&segment, &bytes)| (segment, bytes as u64)).collect(),
        },
        prediction: Prediction {
            machine: machine.name.clone(),
            step_s: estimate.step_s,
            tokens_per_s,
            busy_s: estimate.mean.busy,
            exposed_s: estimate.mean.exposed,
            idle_s: estimate.mean.idle,
            mfu: machine.device().peak.map(mfu),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Costs;
    use crate::model::{Dtype, ModelShape, Recompute};
    use crate::plan::Batch;
    use crate::plan::systems::schedule;
    use crate::simulate::{Prices, costs, named, simulate};

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
            extra: Default::default(),
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

    /// A long iteration, extrapolated, is what simulating all of it gives, also where the last round is not full.
    #[test]
    fn long_iterations_are_extrapolated() {
        let systems = ["name = 'tawpipe'", "name = '1f1b'", "name = 'fsdp'"];
        for (system, more) in systems.into_iter().flat_map(|system| [0, 1, 3].map(|more| (system, more))) {
            let (long, machine) = job(system, 4 * 12 + more);
            let Forecast { counted, prediction: short } = predict(&long, &machine).unwrap();
            let mut whole = long.clone();
            whole.costs = costs(&machine, &whole);
            let schedule = schedule(&whole).unwrap();
            let all = simulate(&schedule, &schedule.ranks(), &Prices::of(&machine, &whole).unwrap()).unwrap();
            assert!((short.step_s / all.step_s - 1.0).abs() < 0.01, "{system} {more}: {} {}", short.step_s, all.step_s);
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
