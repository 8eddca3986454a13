//! What would make a job fit: the smallest change of each kind, tried.

use serde_json::{Value, json};

use crate::cluster::{Costs, Description, Groups};
use crate::model::Recompute;
use crate::plan::systems::{SYSTEMS, SystemOptions, schedule};
use crate::plan::{Batch, Job};
use crate::simulate::costs;
use crate::units::{memory, seconds};

use super::Question;
use super::outcome::Outcome;

/// Most ranks that are tried.
const MOST_RANKS: usize = 512;

/// A change with which the job fits.
pub struct Change {
    /// Keys of the deck, or more ranks, in words.
    pub words: String,
    /// Bytes of the rank that needs most.
    pub peak: usize,
    /// Seconds of a step; without a machine unknown.
    pub step_s: Option<f64>,
}

impl Change {
    /// The change with what it costs.
    pub fn sentence(&self) -> String {
        let time = self.step_s.map_or_else(String::new, |step_s| format!(", {} a step", seconds(step_s)));
        format!("{}: {}{time}", self.words, memory(self.peak))
    }

    pub fn json(&self) -> Value {
        json!({"change": self.words, "memory_peak": self.peak, "step": self.step_s})
    }
}

/// The first change of each kind that makes a job fit into `limit` bytes a rank: more recomputation, smaller micro-batches,
/// both, another system, more ranks. The first of them is the smallest: what it changes is least.
pub fn changes(question: &Question, limit: usize) -> Vec<Change> {
    let job = &question.job;
    let recomputed = more_recompute(job);
    let smaller = smaller_micros(job);
    let both: Vec<(String, Job)> =
        recomputed.iter().flat_map(|(words, job)| join(words, smaller_micros(job))).collect();
    let fit = |ways: &[(String, Job)]| ways.iter().find_map(|(words, job)| attempt(question, words, job, limit));
    let mut found: Vec<Change> = [fit(&recomputed), fit(&smaller)].into_iter().flatten().collect();
    if found.is_empty() {
        found.extend(fit(&both));
    }
    // Of all other systems the fastest that fits, where possible with the deck's own micro-batches and recomputation.
    let others = systems(job);
    let least = |(words, job): &(String, Job)| {
        let mut ways = vec![(words.clone(), job.clone())];
        ways.extend(join(words, more_recompute(job)));
        ways.extend(
            more_recompute(job).iter().flat_map(|(more, job)| join(&format!("{words}, {more}"), smaller_micros(job))),
        );
        fit(&ways)
    };
    let mut others: Vec<Change> = others.iter().filter_map(least).collect();
    others.sort_by(|a, b| a.step_s.unwrap_or(0.0).total_cmp(&b.step_s.unwrap_or(0.0)).then(a.peak.cmp(&b.peak)));
    found.extend(others.into_iter().next());
    found.extend(more_ranks(question, limit));
    found
}

/// Plans a job, and prices it if it fits.
fn attempt(question: &Question, words: &str, job: &Job, limit: usize) -> Option<Change> {
    let mut job = job.clone();
    match &question.machine {
        Some(machine) if !question.own_costs => job.costs = costs(machine, &job),
        // Costs of a block's operations depend on the micro-batch, as the deck's do.
        None if !question.own_costs => job.costs = Costs::flops(&job.shape, job.batch.micro, job.batch.seq),
        _ => {}
    }
    let schedule = schedule(&job).ok()?;
    // The first rank alone says no for most that do not fit.
    let first: usize = crate::plan::tables::memory(&schedule.rank(0).slots).values().sum();
    if first > limit || schedule.peak() > limit {
        return None;
    }
    let outcome = Outcome::of(question, &job).ok()?;
    let step_s = question.machine.is_some().then_some(outcome.simulation.step_s);
    Some(Change { words: words.to_string(), peak: outcome.summary.peak(), step_s })
}

fn more_recompute(job: &Job) -> Vec<(String, Job)> {
    let more: &[(&str, Recompute)] = match job.recompute {
        Recompute::None => &[("selective", Recompute::Selective), ("block", Recompute::Block)],
        Recompute::Selective => &[("block", Recompute::Block)],
        Recompute::Block => &[],
    };
    let with = |&(word, recompute)| (format!("run.recompute = \"{word}\""), Job { recompute, ..job.clone() });
    more.iter().map(with).collect()
}

/// The same sequences in smaller micro-batches, the largest first.
fn smaller_micros(job: &Job) -> Vec<(String, Job)> {
    let sequences = job.batch.micro * job.batch.micros;
    let with = |micro: usize| {
        let batch = Batch { micro, micros: sequences / micro, ..job.batch };
        (format!("batch.micro = {micro}"), Job { batch, ..job.clone() })
    };
    (1..job.batch.micro).rev().filter(|micro| sequences.is_multiple_of(*micro)).map(with).collect()
}

fn systems(job: &Job) -> Vec<(String, Job)> {
    let all = SYSTEMS.iter().filter(|entry| entry.name != job.system.name());
    let mut list: Vec<SystemOptions> = all.map(|entry| SystemOptions::defaults(entry.name)).collect();
    if job.system.name() == "tawpipe" && job.system.changed().iter().any(|(key, _)| key != "name") {
        list.insert(0, SystemOptions::defaults("tawpipe"));
    }
    let with = |system: SystemOptions| {
        let alone = if system.name() == job.system.name() { " and no other key of [system]" } else { "" };
        (format!("system.name = \"{}\"{alone}", system.name()), Job { system, ..job.clone() })
    };
    list.into_iter().map(with).collect()
}

fn join(words: &str, ways: Vec<(String, Job)>) -> Vec<(String, Job)> {
    ways.into_iter().map(|(more, job)| (format!("{words}, {more}"), job)).collect()
}

/// Twice as many groups like the last, and so on: on the described machine as far as it has them, and then on a larger one
/// of its nodes.
fn more_ranks(question: &Question, limit: usize) -> Option<Change> {
    let job = &question.job;
    let mut sizes = job.groups.sizes();
    while sizes.iter().sum::<usize>() < MOST_RANKS {
        sizes.extend(sizes.clone());
        let groups = Groups::new(&sizes);
        let words = format!("{} ranks in {} groups", groups.ranks(), groups.count());
        let larger = Job { groups: groups.clone(), ..job.clone() };
        let machine = question.machine.as_ref().map(|machine| grown(machine, groups.ranks()));
        let asked = Question { job: larger.clone(), machine, ..question.clone() };
        if let Some(change) = attempt(&asked, &words, &larger, limit) {
            return Some(change);
        }
    }
    None
}

/// A machine of as many nodes like its last as these ranks need.
fn grown(machine: &Description, ranks: usize) -> Description {
    let mut machine = machine.clone();
    let has = machine.ranks();
    if let Some(last) = machine.nodes.last_mut() {
        last.count += ranks.saturating_sub(has).div_ceil(last.ranks.max(1));
    }
    machine
}
