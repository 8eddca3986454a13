//! What a plan costs: the numbers of the checker and of the simulator together.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::plan::check::{Summary, check};
use crate::plan::systems::{Schedule, schedule};
use crate::plan::{Job, RankPlan};
use crate::simulate::{Prices, Simulation, simulate};

use super::Question;

/// A plan that is right, and what it costs.
pub struct Outcome {
    pub schedule: Schedule,
    pub plans: Vec<RankPlan>,
    pub summary: Summary,
    pub simulation: Simulation,
}

impl Outcome {
    /// Plans, checks and simulates a job on the question's machine.
    ///
    /// # Errors
    /// A refusal if the system cannot run the job; anything else is a bug of the system.
    pub fn of(question: &Question, job: &Job) -> anyhow::Result<Outcome> {
        let schedule = schedule(job)?;
        let plans = schedule.ranks();
        let summary = match check(&schedule, &plans) {
            Ok(summary) => summary,
            Err(defects) => {
                defects.iter().for_each(|defect| log::error!("{defect}"));
                let name = job.system.name();
                bail!("the plan has {} defects: a bug of system {name}, please report it", defects.len());
            }
        };
        let prices = match &question.machine {
            Some(machine) => Prices::of(machine, job)?,
            None => Prices::unit(),
        };
        let simulation = simulate(&schedule, &plans, &prices).context("a plan that was checked")?;
        Ok(Outcome { schedule, plans, summary, simulation })
    }

    /// Whether every rank stays within a limit.
    pub fn fits(&self, limit: Option<usize>) -> bool {
        limit.is_none_or(|limit| self.summary.peak() <= limit)
    }

    /// All numbers, for programs; times in seconds with a machine, else in forwards of a block.
    pub fn json(&self, question: &Question) -> Value {
        let job = &self.schedule.job;
        let (simulation, traffic) = (&self.simulation, self.summary.traffic());
        let ranks = self.plans.len() as f64;
        let timed = |value: f64| question.machine.is_some().then_some(value);
        json!({
            "system": job.system,
            "groups": job.groups.sizes(),
            "parameters": job.shape.params(),
            "shards": self.schedule.shards.shards.len(),
            "right": true,
            "memory_limit": question.limit(),
            "fits": self.fits(question.limit()),
            "memory_peak": self.summary.peak(),
            "memory": self.summary.memory,
            "bytes": traffic,
            "bytes_of_ranks": self.summary.train,
            "cluster": question.machine.as_ref().map(|machine| &machine.name),
            "time_unit": if question.machine.is_some() { "s" } else { "forward of a block" },
            "step": simulation.step_s,
            "bubble": simulation.bubble(),
            "ranks": simulation.ranks,
            "tokens_per_s": timed(simulation.tokens_per_s_rank * ranks),
            "tokens_per_s_rank": timed(simulation.tokens_per_s_rank),
            "mfu": simulation.mfu,
        })
    }
}
