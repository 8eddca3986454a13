//! Which system, with which options, trains a model fastest on a machine.

use rayon::prelude::*;

use crate::cluster::Description;
use crate::model::Recompute;
use crate::plan::Job;
use crate::plan::systems::SystemOptions;
use crate::plan::tables::Traffic;
use crate::units::{seconds, size};

use super::variants::jobs;
use super::{ERROR, Estimate, Prices, TooFewRanks, Unfit};

/// Memory that differs by a smaller part does not decide between jobs that are as fast.
const SAME_MEMORY: f64 = 0.02;

/// A job that fits, and what it would be like.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// System, options, micro-batch, recomputation and groups, with costs for this machine.
    pub job: Job,
    /// The system's options before it chose those that were left to it.
    pub asked: SystemOptions,
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
    /// What fits: first what is recommended, then by speed.
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
/// rank on the machine.
///
/// Of the jobs whose times cannot be told apart ([`ERROR`]) from that of the fastest, the one that needs the least memory
/// is recommended, and of those that need about as much the one with the fewest options that are not defaults.
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
    let time = |a: &Candidate, b: &Candidate| a.step_s.total_cmp(&b.step_s).then(a.peak.cmp(&b.peak));
    found.ranked.sort_by(|a, b| time(a, b).then(a.changes().cmp(&b.changes())));
    // What was left to a system may have come out as what was asked for by name: the shorter words stay.
    found.ranked.dedup_by(|b, a| a.job == b.job);
    if let Some(winner) = winner(&found.ranked) {
        found.ranked[..=winner].rotate_right(1);
    }
    let runs = |name: &str| found.ranked.iter().any(|candidate| candidate.job.system.name() == name);
    found.refused.retain(|(name, _)| !runs(name));
    found.reason = reason(&found, limit);
    Ok(found)
}

fn attempt(mut job: Job, machine: &Description, limit: usize) -> Outcome {
    job.memory = Some(limit);
    let asked = job.system.clone();
    match Estimate::of(&job, machine, |_, _| {}) {
        Ok(estimate) => Outcome::Fits(Box::new(Candidate {
            step_s: estimate.step_s,
            tokens_per_s_rank: estimate.tokens_per_s() / estimate.job.groups.ranks() as f64,
            peak: estimate.peak(),
            traffic: estimate.traffic,
            shares: [estimate.mean.busy, estimate.mean.exposed, estimate.mean.idle],
            job: estimate.job,
            asked,
        })),
        Err(Unfit::TooLarge { needs, .. }) => Outcome::TooLarge(needs),
        Err(Unfit::Refused(why)) => Outcome::Refused(asked.name(), why),
    }
}

/// Whether two times differ by less than the simulator errs.
fn level(a: f64, b: f64) -> bool {
    a.max(b) <= a.min(b) * (1.0 + ERROR)
}

/// Which of the candidates, sorted by time, is recommended.
fn winner(ranked: &[Candidate]) -> Option<usize> {
    let fastest = ranked.first()?;
    let tied = || ranked.iter().enumerate().filter(|(_, candidate)| level(candidate.step_s, fastest.step_s));
    let least = tied().map(|(_, candidate)| candidate.peak).min()?;
    let small = tied().filter(|(_, candidate)| candidate.peak as f64 <= least as f64 * (1.0 + SAME_MEMORY));
    small.min_by_key(|(_, candidate)| candidate.changes()).map(|(index, _)| index)
}

impl Candidate {
    /// What is not a default: options of the system, recomputation.
    fn changes(&self) -> usize {
        self.asked.changed().len() + usize::from(self.job.recompute != Recompute::default())
    }

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

/// In a sentence or two: against the best of the other systems, what the winner saves most of, or what decides between
/// times that cannot be told apart.
fn reason(found: &Recommendation, limit: usize) -> String {
    let Some(winner) = found.ranked.first() else {
        let least = found.too_large.1.map_or_else(String::new, |bytes| {
            format!("; the smallest of {} jobs needs {} or more", found.too_large.0, size(bytes))
        });
        return format!("Nothing fits into {} a rank{least}.", size(limit));
    };
    let name = winner.job.system.name();
    let mut others: Vec<&Candidate> = Vec::new();
    for candidate in &found.ranked {
        let other = candidate.job.system.name();
        if other != name && others.iter().all(|known| known.job.system.name() != other) {
            others.push(candidate);
        }
    }
    let Some(&next) = others.first() else { return format!("{name} is the only system that fits.") };
    let fastest = found.ranked.iter().map(|candidate| candidate.step_s).fold(f64::INFINITY, f64::min);
    let tied: Vec<&Candidate> = others.into_iter().filter(|other| level(other.step_s, fastest)).collect();
    if tied.is_empty() { faster(winner, next) } else { tie(winner, &tied) }
}

/// Why the winner is faster than the next system.
fn faster(winner: &Candidate, next: &Candidate) -> String {
    let saved: Vec<f64> = winner.shares.iter().zip(&next.shares).map(|(a, b)| b - a).collect();
    let most = (0..3).max_by(|&a, &b| saved[a].total_cmp(&saved[b])).unwrap_or(0);
    let differ = |a: String, b: String| if a == b { String::new() } else { format!(" ({a} against {b})") };
    let why = match most {
        0 => format!("computes {} less a step on each rank{}", seconds(saved[0]), differ(winner.words(), next.words())),
        1 => format!(
            "waits {} less a step for transfers that nothing hides{}",
            seconds(saved[1]),
            differ(between(winner), between(next))
        ),
        _ => format!("waits {} less a step for other ranks", seconds(saved[2])),
    };
    format!(
        "{} is {:.1} % faster than {}, the next system, because it {why}.",
        winner.job.system.name(),
        100.0 * (next.step_s / winner.step_s - 1.0),
        next.job.system.name()
    )
}

fn between(candidate: &Candidate) -> String {
    format!("{} between groups", size(candidate.traffic.inter))
}

/// What decides where the simulator cannot.
fn tie(winner: &Candidate, tied: &[&Candidate]) -> String {
    let timed = |candidate: &Candidate| {
        format!("{} ({} a step, {})", candidate.job.system.name(), seconds(candidate.step_s), size(candidate.peak))
    };
    let others: Vec<String> = tied.iter().map(|candidate| timed(candidate)).collect();
    let least = tied.iter().map(|candidate| candidate.peak).min().unwrap_or(usize::MAX);
    let by = if least as f64 > winner.peak as f64 * (1.0 + SAME_MEMORY) { "less memory" } else { "fewer options" };
    format!(
        "A tie between {} and {}: these times differ by less than the simulator's own error of {:.1} %. {} needs {by}.",
        timed(winner),
        others.join(", "),
        100.0 * ERROR,
        winner.job.system.name(),
    )
}
