//! Proves a plan right before anything runs.
//!
//! Five rules, one file each: what ranks do together fits together (`matching`, after `structure` has looked at
//! every op alone); nothing waits in a circle (`order`); nothing touches memory that is in use (`races`); a replay
//! of two iterations on symbols instead of numbers computes the right thing (`replay`); memory and bytes come out as
//! numbers ([`Summary`]).

mod matching;
mod order;
mod races;
mod replay;
mod structure;
mod value;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::cluster::Rank;

use super::systems::Schedule;
use super::tables::{Traffic, memory, traffic};
use super::{Op, OpId, RankPlan, Region, Segment};

/// Which rule a plan breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An op alone: regions, sizes, types, waits.
    Structure,
    /// Ranks' messages and collectives fit together.
    Matching,
    /// Nothing waits in a circle.
    Deadlock,
    /// Two ops that touch the same memory, one writing, are ordered.
    Race,
    /// What is computed is the training step.
    Replay,
}

/// One fault of a plan: a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// What it violates.
    pub rule: Rule,
    /// Where, what was expected, what was found.
    pub text: String,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Numbers of a plan that is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Of each rank: bytes of its slots, which are also its peak, by what they are for.
    pub memory: Vec<BTreeMap<Segment, usize>>,
    /// Of each rank: what it sends in a training iteration.
    pub train: Vec<Traffic>,
    /// Of each rank: what it sends in an evaluation.
    pub evaluate: Vec<Traffic>,
}

impl Summary {
    /// What all ranks send in a training iteration.
    pub fn traffic(&self) -> Traffic {
        self.train.iter().fold(Traffic::default(), |mut sum, &traffic| {
            sum += traffic;
            sum
        })
    }

    /// Bytes of the rank with the most memory.
    pub fn peak(&self) -> usize {
        self.memory.iter().map(|table| table.values().sum()).max().unwrap_or(0)
    }
}

/// One of a plan's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepare,
    Train,
    Evaluate,
}

impl Phase {
    const ALL: [Phase; 3] = [Phase::Prepare, Phase::Train, Phase::Evaluate];

    fn ops(self, plan: &RankPlan) -> &[Op] {
        match self {
            Phase::Prepare => &plan.prepare,
            Phase::Train => &plan.train,
            Phase::Evaluate => &plan.evaluate,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Train => "train",
            Phase::Evaluate => "evaluate",
        }
    }
}

/// What is checked, and the faults found so far.
struct Check<'a> {
    schedule: &'a Schedule,
    plans: &'a [RankPlan],
    defects: Vec<Defect>,
}

impl Check<'_> {
    fn report(&mut self, rule: Rule, text: String) {
        self.defects.push(Defect { rule, text });
    }

    /// Where a defect is: rank, list, number and nature of an op.
    fn at(&self, phase: Phase, rank: Rank, op: OpId) -> String {
        let action = &phase.ops(&self.plans[rank])[op].action;
        format!("rank {rank}, {} op {op} ({action})", phase.name())
    }

    /// A region by its slot's name.
    fn region(&self, rank: Rank, region: Region) -> String {
        name(&self.plans[rank], region)
    }
}

fn name(plan: &RankPlan, region: Region) -> String {
    let range = region.range();
    match plan.slots.get(region.slot) {
        Some(slot) => format!("\"{}\"[{}..{}]", slot.name, range.start, range.end),
        None => format!("slot {} (of {})[{}..{}]", region.slot, plan.slots.len(), range.start, range.end),
    }
}

/// Checks all ranks' plans of a schedule.
///
/// # Errors
/// What is wrong. Rules that make no sense on a plan that breaks an earlier one are not tried: ranks that do not fit
/// together cannot be replayed.
pub fn check(schedule: &Schedule, plans: &[RankPlan]) -> Result<Summary, Vec<Defect>> {
    let mut check = Check { schedule, plans, defects: Vec::new() };
    check.structure();
    if check.defects.is_empty() {
        let mut orders = Vec::new();
        for phase in Phase::ALL {
            check.races(phase);
            let before = check.defects.len();
            let matching = check.matching(phase);
            if check.defects.len() == before {
                let order = check.order(phase, &matching, false);
                check.order(phase, &matching, true);
                orders.push((phase, matching, order));
            }
        }
        if !check.defects.iter().any(|d| matches!(d.rule, Rule::Matching | Rule::Deadlock)) {
            check.replay(&orders);
        }
    }
    if !check.defects.is_empty() {
        return Err(check.defects);
    }
    let of = |phase: Phase| {
        let rank = |plan| traffic(&schedule.job.groups, &schedule.splits, plan, phase.ops(plan));
        plans.iter().map(rank).collect()
    };
    let memory = plans.iter().map(|plan| memory(&plan.slots)).collect();
    Ok(Summary { memory, train: of(Phase::Train), evaluate: of(Phase::Evaluate) })
}
