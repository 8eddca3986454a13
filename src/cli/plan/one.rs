//! The plan of one deck: verdict, tables, drawing, trace.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::exit::Exit;
use crate::output::{out, outln};
use crate::plan::remarks;
use crate::report::{Picture, gantt, perfetto};
use crate::units::{memory, number};

use super::super::args::PlanArgs;
use super::super::launch::Unusable;
use super::fit::{Change, changes};
use super::outcome::Outcome;
use super::{Question, tables};

/// Prints everything about the deck's own system. A plan that does not fit is bad input, and what would fit is tried.
pub fn run(question: &Question, args: &PlanArgs) -> anyhow::Result<Exit> {
    let job = &question.job;
    let outcome = Outcome::of(question, job).with_context(|| args.deck.file.display().to_string())?;
    let Outcome { schedule, plans, summary, simulation } = &outcome;
    let picture = Picture { schedule, plans, timeline: &simulation.timeline, unit: question.unit() };
    if let Some(path) = &args.draw {
        write(path, &gantt(&picture, args.lanes))?;
    }
    if let Some(path) = &args.trace {
        write(path, &perfetto(&picture))?;
    }
    let limit = question.limit();
    let over = limit.filter(|limit| summary.peak() > *limit);
    let fitting = over.map_or_else(Vec::new, |limit| changes(question, limit));
    let remarks: Vec<String> = question.remarks.iter().cloned().chain(remarks(&schedule.job)).collect();
    if args.json {
        let mut value = outcome.json(question);
        value["remarks"] = remarks.into();
        if over.is_some() {
            value["changes"] = Value::Array(fitting.iter().map(Change::json).collect());
        }
        outln!("{value}");
    } else {
        let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
        outln!(
            "System {} on {} ranks in groups of {}: {} M parameters in {} shards. The plan is right.",
            job.system.words(),
            plans.len(),
            sizes.join(" + "),
            number(job.shape.params() as f64 / 1e6),
            schedule.shards.shards.len(),
        );
        let chosen = schedule.job.system.choices(&job.system);
        if !chosen.is_empty() {
            outln!("Left to the system, which chooses by the memory there is: {chosen}.");
        }
        for remark in &remarks {
            outln!("Remark: {remark}.");
        }
        if question.beside > 0 {
            outln!("What is allowed is without {} that a GPU keeps beside the plan.", memory(question.beside));
        }
        match &question.machine {
            Some(machine) => outln!("Times are predicted for cluster \"{}\".\n", machine.name),
            None => outln!(
                "Times are those that papers draw: a block's forward takes 1, each half of its backward 1, everything \
                 else nothing; --cluster FILE predicts seconds.\n"
            ),
        }
        let time = tables::time(&outcome, question.machine.is_some());
        let bytes = tables::bytes(summary).map_or_else(String::new, |table| format!("{table}\n"));
        out!("{}\n{bytes}{time}", tables::memory(summary, limit));
        for path in args.draw.iter().chain(&args.trace) {
            outln!("written: {}", path.display());
        }
        if over.is_some() {
            outln!("\nIt does not fit. What would:");
            fitting.iter().for_each(|change| outln!("- {}", change.sentence()));
            if fitting.is_empty() {
                outln!("- nothing that was tried: recomputation, micro-batches, systems, more ranks");
            }
        }
    }
    let Some(limit) = over else { return Ok(Exit::Done) };
    let smallest = match fitting.first() {
        Some(change) => format!("smallest change that fits: {}", change.sentence()),
        None => "no recomputation, micro-batch, system or number of ranks that was tried fits".into(),
    };
    anyhow::bail!(Unusable(format!(
        "{}: a rank needs {} and may use {}; {smallest}",
        args.deck.file.display(),
        memory(summary.peak()),
        memory(limit)
    )))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
