//! Which system, with which options, trains a model fastest on a machine.

use rayon::prelude::*;

use crate::cluster::Description;
use crate::model::Recompute;
use crate::plan::systems::{Schedule, schedule};
use crate::plan::tables::{Traffic, memory};
use crate::plan::{Job, RankPlan};

use super::variants::jobs;
use super::{Prices, Simulation, TooFewRanks, costs, simulate};

/// Rounds from which on an iteration is taken to grow evenly.
const STEADY: [usize; 2] = [2, 4];

/// A job that fits, and what it would be like.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// System, options, micro-batch, recomputation and groups, with costs for this machine.
    pub job: Job,
    /// Seconds of an iteration.
    pub step_s: f64,
    /// Target tokens a second, divided by the number of ranks.
    pub tokens_per_s_rank: f64,
    /// Bytes of the rank with the most memory.
    pub peak: usize,
    /// What all ranks send in an iteration.
    pub traffic: Traffic,
    /// Mean seconds of a rank in an iteration: computing, waiting while something moves, waiting for others.
    pub shares: [f64; 3],
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Recommendation {
    /// What fits, fastest first.
    pub ranked: Vec<Candidate>,
    /// Jobs that need more memory: how many, and the least that one of them needs.
    pub too_large: (usize, Option<usize>),
    /// Systems that cannot run the job, with the reason, each once.
    pub refused: Vec<(&'static str, String)>,
    /// Why the winner wins, in a sentence.
    pub reason: String,
}

/// What became of a job.
enum Outcome {
    Fits(Box<Candidate>),
    TooLarge(usize),
    Refused(&'static str, String),
}

/// Tries every system with its options, micro-batches of powers of two, every kind of recomputation, in groups of
/// nodes and others: all that do the iteration of `template` (its model, sequences, types and ranks) in `limit` bytes a
/// rank on the machine. An iteration of many rounds is extrapolated from shorter ones.
///
/// # Errors
/// If the machine has fewer ranks than the template.
pub fn recommend(template: &Job, machine: &Description, limit: usize) -> Result<Recommendation, TooFewRanks> {
    Prices::of(machine, template)?;
    let jobs: Vec<Job> = jobs(template, machine);
    let outcomes: Vec<Outcome> = jobs.into_par_iter().map(|job| attempt(job, machine, limit)).collect();
    let mut found =
        Recommendation { ranked: Vec::new(), too_large: (0, None), refused: Vec::new(), reason: String::new() };
    for outcome in outcomes {
        match outcome {
            Outcome::Fits(candidate) => found.ranked.push(*candidate),
            Outcome::TooLarge(bytes) => {
                found.too_large.0 += 1;
                found.too_large.1 = Some(found.too_large.1.map_or(bytes, |least| least.min(bytes)));
            }
            Outcome::Refused(name, why) => {
                if found.refused.iter().all(|(other, _)| *other != name) {
                    found.refused.push((name, why));
                }
            }
        }
    }
    found.ranked.sort_by(|a, b| a.step_s.total_cmp(&b.step_s).then(a.peak.cmp(&b.peak)));
    let runs = |name: &str| found.ranked.iter().any(|candidate| candidate.job.system.name() == name);
    found.refused.retain(|(name, _)| !runs(name));
    found.reason = reason(&found, limit);
    Ok(found)
}

fn attempt(mut job: Job, machine: &Description, limit: usize) -> Outcome {
    job.costs = costs(machine, &job);
    job.memory = Some(limit);
    let refused = |why: String| Outcome::Refused(job.system.name(), why);
    let ranks = job.groups.ranks();
    let rounds = job.batch.micros / ranks;
    let (job_rounds, parts) =
        if rounds > STEADY[1] { (job.batch.micros as f64 / ranks as f64, &STEADY[..]) } else { (0.0, &[0][..]) };
    let mut runs: Vec<(f64, Simulation)> = Vec::new();
    for &part in parts {
        let mut piece = job.clone();
        if part > 0 {
            piece.batch.micros = part * ranks;
        }
        let schedule = match schedule(&piece) {
            Ok(schedule) => schedule,
            Err(refusal) => return refused(refusal.0),
        };
        let (plans, peak) = match plan(&schedule, limit) {
            Ok(planned) => planned,
            Err(bytes) => return Outcome::TooLarge(bytes),
        };
        debug_assert!(peak <= limit);
        let prices = match Prices::of(machine, &piece) {
            Ok(prices) => prices,
            Err(error) => return refused(error.to_string()),
        };
        match simulate(&schedule, &plans, &prices) {
            Ok(simulation) => runs.push((part as f64, simulation)),
            Err(error) => return refused(error.to_string()),
        }
    }
    Outcome::Fits(Box::new(candidate(job, job_rounds, &runs)))
}

/// All plans and the most memory that a rank needs; that alone, if it is more than the limit.
fn plan(schedule: &Schedule, limit: usize) -> Result<(Vec<RankPlan>, usize), usize> {
    let mut peak = 0;
    let mut plans = Vec::new();
    for rank in 0..schedule.job.groups.ranks() {
        let plan = schedule.rank(rank);
        peak = peak.max(memory(&plan.slots).values().sum());
        if peak > limit {
            return Err(peak);
        }
        plans.push(plan);
    }
    Ok((plans, peak))
}

/// The numbers of a job from one simulation, or from two of fewer rounds.
fn candidate(job: Job, rounds: f64, runs: &[(f64, Simulation)]) -> Candidate {
    let (at, last) = &runs[runs.len() - 1];
    let line = |of: &dyn Fn(&Simulation) -> f64| match runs {
        [(a, first), (b, second)] => of(second) + (of(second) - of(first)) / (b - a) * (rounds - at),
        _ => of(last),
    };
    let ranks = last.ranks.len() as f64;
    let mean = |of: fn(&super::RankUse) -> f64| line(&|s| s.ranks.iter().map(of).sum::<f64>() / ranks);
    let bytes = |of: fn(&Traffic) -> usize| line(&|s| of(&s.total_traffic()) as f64) as usize;
    let step_s = line(&|s| s.step_s);
    Candidate {
        step_s,
        tokens_per_s_rank: job.batch.tokens() as f64 / step_s / ranks,
        peak: last.peak(),
        traffic: Traffic { intra: bytes(|t| t.intra), inter: bytes(|t| t.inter), control: bytes(|t| t.control) },
        shares: [mean(|r| r.busy), mean(|r| r.exposed), mean(|r| r.idle)],
        job,
    }
}

impl Candidate {
    /// Micro-batch, recomputation and groups in a few words.
    pub fn words(&self) -> String {
        let recompute = match self.job.recompute {
            Recompute::None => "no recomputation",
            Recompute::Selective => "selective recomputation",
            Recompute::Block => "recomputation of blocks",
        };
        let sizes: Vec<String> = self.job.groups.sizes().iter().map(usize::to_string).collect();
        let groups = if sizes.len() > 8 { format!("{} groups", sizes.len()) } else { sizes.join(" + ") };
        format!("micro-batches of {}, {recompute}, ranks in {groups}", self.job.batch.micro)
    }
}

/// One sentence: against the best of the other systems, what the winner saves most of.
fn reason(found: &Recommendation, limit: usize) -> String {
    let Some(winner) = found.ranked.first() else {
        let least = found.too_large.1.map_or_else(String::new, |bytes| {
            format!("; the smallest of {} jobs needs {:.1} GB or more", found.too_large.0, bytes as f64 / 1e9)
        });
        return format!("Nothing fits into {:.1} GB a rank{least}.", limit as f64 / 1e9);
    };
    let name = winner.job.system.name();
    let Some(other) = found.ranked.iter().find(|candidate| candidate.job.system.name() != name) else {
        return format!("{name} is the only system that fits.");
    };
    let saved: Vec<f64> = winner.shares.iter().zip(&other.shares).map(|(a, b)| b - a).collect();
    let most = (0..3).max_by(|&a, &b| saved[a].total_cmp(&saved[b])).unwrap_or(0);
    let gb = |bytes: usize| bytes as f64 / 1e9;
    let why = match most {
        0 => format!(
            "computes {:.3} s less a step on each rank ({} against {})",
            saved[0],
            winner.words(),
            other.words()
        ),
        1 => format!(
            "waits {:.3} s less a step for transfers that nothing hides ({:.2} GB between groups against {:.2} GB)",
            saved[1],
            gb(winner.traffic.inter),
            gb(other.traffic.inter)
        ),
        _ => format!("waits {:.3} s less a step for other ranks", saved[2]),
    };
    let faster = 100.0 * (other.step_s / winner.step_s - 1.0);
    format!("{name} is {faster:.1} % faster than {}, the next system, because it {why}.", other.job.system.name())
}
