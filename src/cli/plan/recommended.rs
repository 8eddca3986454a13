//! The fastest system, options, micro-batch, recomputation and groups that fit a machine.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::model::Recompute;
use crate::output::{out, outln};
use crate::plan::check::check;
use crate::plan::systems::schedule;
use crate::report::Table;
use crate::simulate::{Candidate, Recommendation, recommend};
use crate::units::{memory, number, seconds, size};

use super::super::launch::Unusable;
use super::Question;
use super::compare::refused;

/// Candidates that are shown.
const SHOWN: usize = 10;

/// Prints the winner as keys of a deck, why it wins, and what comes next.
pub fn run(question: &Question, json: bool) -> anyhow::Result<Exit> {
    let machine = question.machine.as_ref().context("--recommend comes with --cluster")?;
    let limit = question.limit().context("a machine has memory")?;
    let found = recommend(&question.job, machine, limit)?;
    let Some(winner) = found.ranked.first() else { bail!(Unusable(found.reason)) };
    // The search prices plans without proving them.
    let schedule = schedule(&winner.job)?;
    if let Err(defects) = check(&schedule, &schedule.ranks()) {
        defects.iter().for_each(|defect| log::error!("{defect}"));
        bail!("the winner's plan has {} defects: a bug, please report it", defects.len());
    }
    if json {
        let ranked: Vec<Value> = found.ranked.iter().map(values).collect();
        let refused: Vec<Value> =
            found.refused.iter().map(|(name, why)| json!({"system": name, "refused": why})).collect();
        outln!("{}", json!({"reason": found.reason, "ranked": ranked, "refused": refused}));
        return Ok(Exit::Done);
    }
    let job = &winner.job;
    outln!("{}\n", found.reason);
    outln!("[system]\n{}", toml::to_string(&job.system).context("options are plain values")?);
    outln!("[batch]\nmicro = {}\n\n[run]\nrecompute = \"{}\"\n", job.batch.micro, recompute(winner));
    outln!("[cluster]\nranks_per_group = {:?}\n", job.groups.sizes());
    out!("{}", table(&found));
    outln!("{}", losers(&found));
    Ok(Exit::Done)
}

fn recompute(candidate: &Candidate) -> &'static str {
    match candidate.job.recompute {
        Recompute::None => "none",
        Recompute::Selective => "selective",
        Recompute::Block => "block",
    }
}

/// Options that are not their system's defaults.
fn options(candidate: &Candidate) -> String {
    candidate.asked.words()
}

fn values(candidate: &Candidate) -> Value {
    json!({
        "system": candidate.job.system,
        "micro": candidate.job.batch.micro,
        "recompute": recompute(candidate),
        "ranks_per_group": candidate.job.groups.sizes(),
        "step_s": candidate.step_s,
        "tokens_per_s_rank": candidate.tokens_per_s_rank,
        "memory_peak": candidate.peak,
        "bytes": candidate.traffic,
    })
}

fn table(found: &Recommendation) -> Table {
    let head = ["system", "micro", "recompute", "groups", "step", "tokens/s a rank", "memory", "between groups"];
    let mut table = Table::new(head.map(String::from).to_vec());
    for candidate in found.ranked.iter().take(SHOWN) {
        table.row(vec![
            options(candidate),
            candidate.job.batch.micro.to_string(),
            recompute(candidate).into(),
            candidate.job.groups.count().to_string(),
            seconds(candidate.step_s),
            number(candidate.tokens_per_s_rank),
            size(candidate.peak),
            size(candidate.traffic.inter),
        ]);
    }
    table
}

/// What is not in the table, in sentences.
fn losers(found: &Recommendation) -> String {
    let mut lines = Vec::new();
    if found.ranked.len() > SHOWN {
        lines.push(format!("{} more fit.", found.ranked.len() - SHOWN));
    }
    if let (count @ 1.., Some(least)) = found.too_large {
        lines.push(format!("{count} need more memory, the smallest of them {}.", memory(least)));
    }
    lines.extend(refused(&found.refused));
    lines.join("\n")
}
