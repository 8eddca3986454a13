//! All systems on one job, in one table.

use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::{out, outln};
use crate::plan::systems::{SYSTEMS, SystemOptions};
use crate::plan::{Job, Refusal};
use crate::report::Table;

use super::outcome::Outcome;
use super::{Question, number, seconds};

/// Prints a line for every system, the fastest that fits first, and why the others cannot run this.
pub fn run(question: &Question, json: bool) -> anyhow::Result<Exit> {
    let (mut outcomes, mut refusals) = (Vec::new(), Vec::new());
    for entry in SYSTEMS.iter() {
        let own = question.job.system.name() == entry.name;
        let system = if own { question.job.system.clone() } else { defaults(entry.name) };
        match Outcome::of(question, &Job { system, ..question.job.clone() }) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => match error.downcast::<Refusal>() {
                Ok(refusal) => refusals.push((entry.name, refusal)),
                Err(bug) => return Err(bug),
            },
        }
    }
    let limit = question.limit();
    outcomes.sort_by(|a, b| {
        let key = |outcome: &Outcome| (!outcome.fits(limit), outcome.simulation.step_s);
        let (a, b) = (key(a), key(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    if json {
        let plans: Vec<Value> = outcomes.iter().map(|outcome| outcome.json(question)).collect();
        let refused = refusals.iter().map(|(name, refusal)| json!({"system": {"name": name}, "refused": refusal.0}));
        outln!("{}", Value::Array(plans.into_iter().chain(refused).collect()));
        return Ok(Exit::Done);
    }
    outln!("{}", heading(question));
    out!("{}", table(question, &outcomes));
    for (name, refusal) in refusals {
        outln!("{name} cannot run this: {refusal}");
    }
    Ok(Exit::Done)
}

/// A system's options where the deck says nothing.
pub fn defaults(name: &str) -> SystemOptions {
    serde_json::from_value(json!({"name": name})).expect("every option of a system has a default")
}

fn heading(question: &Question) -> String {
    let job = &question.job;
    let batch = format!("{} micro-batches of {} x {} tokens", job.batch.micros, job.batch.micro, job.batch.seq);
    let place = match &question.machine {
        Some(machine) => format!("cluster \"{}\"", machine.name),
        None => "no cluster given: times in forwards of a block, everything but blocks free".into(),
    };
    let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
    format!("{} ranks in groups of {}; {batch}; {place}.\n", job.groups.ranks(), sizes.join(" + "))
}

fn table(question: &Question, outcomes: &[Outcome]) -> Table {
    let timed = question.machine.is_some();
    let head = ["system", "fits", "memory MiB", "between groups MB", "inside MB", "bubble %"];
    let times: &[&str] = if timed { &["step", "tokens/s a rank", "MFU %"] } else { &["step"] };
    let mut table = Table::new(head.iter().chain(times).map(|name| name.to_string()).collect());
    for outcome in outcomes {
        let (simulation, traffic) = (&outcome.simulation, outcome.summary.traffic());
        let mut row = vec![
            outcome.schedule.job.system.name().to_string(),
            if outcome.fits(question.limit()) { "yes" } else { "NO" }.into(),
            number(outcome.summary.peak() as f64 / f64::from(1 << 20)),
            number(traffic.inter as f64 / 1e6),
            number(traffic.intra as f64 / 1e6),
            format!("{:.1}", 100.0 * simulation.bubble()),
            if timed { seconds(simulation.step_s) } else { number(simulation.step_s) },
        ];
        if timed {
            row.push(number(simulation.tokens_per_s_rank));
            row.push(simulation.mfu.map_or("-".into(), |mfu| format!("{:.1}", 100.0 * mfu.causal)));
        }
        table.row(row);
    }
    table
}
