//! The plan of one deck: verdict, tables, drawing, trace.

use std::path::Path;

use anyhow::Context;

use crate::exit::Exit;
use crate::output::{out, outln};
use crate::report::{Picture, gantt, perfetto};

use super::super::args::PlanArgs;
use super::outcome::Outcome;
use super::{Question, number, tables};

/// Prints everything about the deck's own system.
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
    if args.json {
        outln!("{}", outcome.json(question));
        return Ok(Exit::Done);
    }
    let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
    outln!(
        "System {} on {} ranks in groups of {}: {} M parameters in {} shards. The plan is right.",
        job.system.name(),
        plans.len(),
        sizes.join(" + "),
        number(job.shape.params() as f64 / 1e6),
        schedule.shards.shards.len(),
    );
    let limit = question.limit();
    let mib = |bytes: usize| number(bytes as f64 / f64::from(1 << 20));
    if let Some(limit) = limit.filter(|limit| summary.peak() > *limit) {
        outln!("It does not fit: a rank needs {} MiB and may use {}.", mib(summary.peak()), mib(limit));
    }
    if question.beside > 0 {
        outln!("What is allowed is without {} MiB that a GPU keeps beside the plan.", mib(question.beside));
    }
    match &question.machine {
        Some(machine) => outln!("Times are predicted for cluster \"{}\".\n", machine.name),
        None => outln!(
            "Times are those that papers draw: a block's forward takes 1, each half of its backward 1, everything else \
             nothing; --cluster FILE predicts seconds.\n"
        ),
    }
    let time = tables::time(&outcome, question.machine.is_some());
    out!("{}\n{}\n{time}", tables::memory(summary, limit), tables::bytes(summary));
    for path in args.draw.iter().chain(&args.trace) {
        outln!("written: {}", path.display());
    }
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}
