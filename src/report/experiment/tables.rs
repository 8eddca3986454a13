//! Tables of an experiment.

use crate::report::figure::amount;
use crate::results::Outcome;

use super::columns::{Column, Defined, series, setting};
use super::numbers::numbers;
use super::sweep::families_of;
use super::view::{View, nodes};

/// What was done, when, and on what.
pub fn heading(view: &View, raw: &str) -> String {
    let Some(first) = view.entries.first() else { return "There are no results yet.\n".into() };
    let mut dates: Vec<&str> = view.entries.iter().map(|entry| entry.record.provenance.date.as_str()).collect();
    dates.sort_unstable();
    let provenance = &first.record.provenance;
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| {
        if !value.trim().is_empty() {
            lines.push(format!("- {name}: {value}"));
        }
    };
    say("command", format!("`{}`", provenance.command));
    let day = |date: &str| date.get(..16).unwrap_or(date).replace('T', " ");
    let (from, to) = (day(dates[0]), day(dates[dates.len() - 1]));
    say("date (UTC)", if from == to { from } else { format!("{from} to {to}") });
    say("program", provenance.version.clone());
    let torch = view.entries.iter().find_map(|entry| entry.record.provenance.torch.clone());
    say("PyTorch", torch.unwrap_or_default());
    let machine = &provenance.machine;
    if view.measured() {
        let memory = machine.memory as f64 / f64::from(1 << 30);
        say("machine", format!("{}, {} cores, {memory:.0} GiB, {}", machine.processor, machine.cores, machine.kernel));
        say("MPI", machine.mpi.clone());
    } else {
        let mut names: Vec<&str> = view.settings.iter().filter_map(|s| s.cluster.as_deref()).collect();
        names.dedup();
        say("simulated clusters", names.join("; "));
        say("measurements", "none: the simulator predicts all numbers (docs/simulator.md)".into());
    }
    say("raw data", format!("[{raw}]({raw})"));
    say("notation", "`k` and `M` behind a number: thousand and million; `-`: no number".into());
    lines.join("\n") + "\n"
}

/// All tables that have rows, with their titles.
pub fn all(view: &View) -> Vec<(String, Defined)> {
    let mut tables = Vec::new();
    let mut add = |title: &str, table: Option<Defined>| tables.extend(table.map(|table| (title.to_string(), table)));
    add("All numbers", numbers(view));
    add("Efficiency of weak scaling (the same work for each rank), %", scaling(view, "weak-scaling"));
    add("Efficiency of strong scaling (the same work for all ranks together), %", scaling(view, "strong-scaling"));
    add("How the rates of links were derived", links(view));
    add("What did not run", failures(view));
    add("Remarks", remarks(view));
    tables
}

/// Tokens a second and rank, in percent of what the same series does on the fewest ranks.
fn scaling(view: &View, kind: &str) -> Option<Defined> {
    let families = families_of(view, kind);
    let mut ranks: Vec<usize> = families.iter().flatten().map(|&setting| view.settings[setting].ranks()).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let meaning = "tokens/s per rank in percent of those of the same series on its fewest ranks";
    let place = Column::new("cluster or link", "the simulated cluster, or a node's link (*unshaped*: no rate was set)");
    let columns = ranks.iter().map(|ranks| Column::new(format!("{ranks} ranks"), meaning));
    let mut table = Defined::new([series(), place].into_iter().chain(columns).collect());
    let mut rows = 0;
    for family in &families {
        for name in &view.series {
            let each = |setting: usize| {
                let entry = view.find(setting, name)?;
                Some(entry.speed()? / entry.ranks())
            };
            let Some(first) = family.iter().find_map(|&setting| each(setting)) else { continue };
            let cell = |ranks: &usize| {
                let setting = family.iter().find(|&&setting| view.settings[setting].ranks() == *ranks);
                let part = setting.and_then(|&setting| each(setting)).map(|speed| 100.0 * speed / first);
                part.map_or("-".into(), |part| format!("{part:.0}"))
            };
            let setting = &view.settings[family[0]];
            let place = setting.cluster.clone().unwrap_or_else(|| setting.link.clone());
            table.row([vec![name.to_string(), place], ranks.iter().map(cell).collect()].concat());
            rows += 1;
        }
    }
    (rows > 0).then_some(table)
}

/// Where the rates of links come from, if they were derived.
fn links(view: &View) -> Option<Defined> {
    let derivation = "how the rate was chosen so that in a step the time of transfers has the same ratio to the time \
                      of computation as on another cluster";
    let mut table = Defined::new(vec![
        Column::new("link", "its name in the experiment's file"),
        Column::new("rate, Mbit/s", "of a node's link, in each direction"),
        Column::new("derivation", derivation),
    ]);
    let mut seen: Vec<&str> = Vec::new();
    for entry in &view.entries {
        let link = &entry.record.cell.link;
        if let Some(words) = link.derivation.as_deref().filter(|_| !seen.contains(&link.name.as_str())) {
            seen.push(&link.name);
            table.row(vec![link.name.clone(), link.rate.map_or("-".into(), |rate| amount(rate / 1e6)), words.into()]);
        }
    }
    (!seen.is_empty()).then_some(table)
}

fn failures(view: &View) -> Option<Defined> {
    let reason = Column::new("reason", "why the system refused the job, what it lacked, or how its run ended");
    let mut table = Defined::new(vec![series(), setting(), reason]);
    let mut rows: Vec<(String, String, Vec<usize>)> = Vec::new();
    for entry in &view.entries {
        let Outcome::Failed { reason, .. } = &entry.record.outcome else { continue };
        let (series, reason) = (&entry.record.cell.series, reason.replace(['\n', '|'], " "));
        match rows.iter_mut().find(|(other, why, _)| other == series && *why == reason) {
            Some((_, _, settings)) => settings.push(entry.setting),
            None => rows.push((series.clone(), reason, vec![entry.setting])),
        }
    }
    for (series, reason, settings) in &rows {
        let place = match settings[..] {
            [one] => {
                let words = view.words(one);
                let ranks = &view.settings[one].ranks_per_node;
                if words.is_empty() { format!("{} ranks", nodes(ranks)) } else { words }
            }
            _ => format!("{} settings, the first: {}", settings.len(), view.words(settings[0])),
        };
        table.row(vec![series.clone(), place, reason.clone()]);
    }
    (!rows.is_empty()).then_some(table)
}

fn remarks(view: &View) -> Option<Defined> {
    let remark = Column::new("remark", "what else was noticed, such as a run that failed or losses that differ");
    let mut table = Defined::new(vec![series(), setting(), remark]);
    let mut rows = 0;
    for entry in &view.entries {
        for remark in &entry.record.remarks {
            table.row(vec![entry.record.cell.series.clone(), view.words(entry.setting), remark.replace('|', "/")]);
            rows += 1;
        }
    }
    (rows > 0).then_some(table)
}
