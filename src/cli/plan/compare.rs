//! All systems on one job, in one table.

use serde_json::{Value, json};

use crate::exit::Exit;
use crate::output::{out, outln};
use crate::plan::systems::{SYSTEMS, SystemOptions};
use crate::plan::{Job, Refusal, remarks};
use crate::report::Table;
use crate::units::{number, seconds, size};

use super::Question;
use super::outcome::Outcome;

/// Prints a line for every system, the fastest that fits first, and why the others cannot run this.
pub fn run(question: &Question, json: bool) -> anyhow::Result<Exit> {
    let (mut outcomes, mut refusals) = (Vec::new(), Vec::new());
    for system in systems(&question.job.system) {
        let asked = system.clone();
        match Outcome::of(question, &Job { system, ..question.job.clone() }) {
            Ok(outcome) => outcomes.push((asked, outcome)),
            Err(error) => match error.downcast::<Refusal>() {
                Ok(refusal) => refusals.push((asked.name(), refusal.0)),
                Err(bug) => return Err(bug),
            },
        }
    }
    let limit = question.limit();
    outcomes.sort_by(|a, b| {
        let key = |outcome: &Outcome| (!outcome.fits(limit), outcome.simulation.step_s);
        let (a, b) = (key(&a.1), key(&b.1));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    if json {
        let plans: Vec<Value> = outcomes.iter().map(|(_, outcome)| outcome.json(question)).collect();
        let refused = refusals.iter().map(|(name, refusal)| json!({"system": {"name": name}, "refused": refusal}));
        outln!("{}", Value::Array(plans.into_iter().chain(refused).collect()));
        return Ok(Exit::Done);
    }
    outln!("{}", heading(question));
    out!("{}", table(question, &outcomes));
    for line in notes(question, &outcomes, &refusals) {
        outln!("{line}");
    }
    Ok(Exit::Done)
}

/// The deck's own options, every other system with its defaults, and the published TawPipe.
fn systems(own: &SystemOptions) -> Vec<SystemOptions> {
    let mut list = vec![own.clone()];
    let others = SYSTEMS.iter().map(|entry| SystemOptions::defaults(entry.name)).chain([SystemOptions::paper()]);
    // Of other systems than tawpipe the deck's options stand for all.
    let known = |other: &SystemOptions| other == own || (other.name() == own.name() && own.name() != "tawpipe");
    list.extend(others.filter(|other| !known(other)));
    list
}

/// What is not in the table: choices, waste, and systems that cannot run this, in a line each.
fn notes(question: &Question, outcomes: &[(SystemOptions, Outcome)], refusals: &[(&str, String)]) -> Vec<String> {
    let mut lines: Vec<String> = question.remarks.iter().map(|remark| format!("Remark: {remark}.")).collect();
    for (asked, outcome) in outcomes {
        let chosen = outcome.schedule.job.system.choices(asked);
        if !chosen.is_empty() {
            lines.push(format!("{} chooses {chosen}.", asked.words()));
        }
    }
    lines.extend(remarks(&question.job).into_iter().map(|remark| format!("Remark: {remark}.")));
    lines.extend(refused(refusals));
    lines
}

/// Systems that cannot run a job, in one line: those with the same reason together.
pub fn refused(refusals: &[(&str, String)]) -> Option<String> {
    let mut reasons: Vec<(Vec<&str>, String)> = Vec::new();
    for (name, why) in refusals {
        // Reasons name their system, and are else alike.
        let why = why.replace(&format!("system \"{name}\" "), "it ");
        match reasons.iter_mut().find(|(_, known)| *known == why) {
            Some((names, _)) => names.push(name),
            None => reasons.push((vec![name], why)),
        }
    }
    let words: Vec<String> = reasons.iter().map(|(names, why)| format!("{} ({why})", names.join(", "))).collect();
    (!words.is_empty()).then(|| format!("Cannot run this: {}.", words.join("; ")))
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

fn table(question: &Question, outcomes: &[(SystemOptions, Outcome)]) -> Table {
    let timed = question.machine.is_some();
    let head = ["system", "fits", "memory", "between groups", "inside", "bubble %"];
    let times: &[&str] = if timed { &["step", "tokens/s a rank", "MFU %"] } else { &["step"] };
    let mut table = Table::new(head.iter().chain(times).map(|name| name.to_string()).collect());
    for (asked, outcome) in outcomes {
        let (simulation, traffic) = (&outcome.simulation, outcome.summary.traffic());
        let mut row = vec![
            asked.words(),
            if outcome.fits(question.limit()) { "yes" } else { "NO" }.into(),
            size(outcome.summary.peak()),
            size(traffic.inter),
            size(traffic.intra),
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
