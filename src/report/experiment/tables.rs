//! Tables of an experiment.

use crate::report::Table;
use crate::report::figure::amount;
use crate::results::Outcome;

use super::sweep::families_of;
use super::view::{Entry, View, nodes};

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
    say("date", if from == to { from } else { format!("{from} to {to} (UTC)") });
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
        say("clusters, as described", names.join("; "));
        say("measured", "nothing: all numbers are the simulator's (docs/simulator.md)".into());
    }
    say("raw data", format!("[{raw}]({raw})"));
    lines.join("\n") + "\n"
}

/// All tables that have rows, with their titles.
pub fn all(view: &View) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    let mut add = |title: &str, table: Option<Table>| tables.extend(table.map(|table| (title.to_string(), table)));
    add("All numbers", main(view));
    add("Weak scaling: efficiency, %", scaling(view, "weak-scaling"));
    add("Strong scaling: efficiency, %", scaling(view, "strong-scaling"));
    add("Links", links(view));
    add("What did not run", failures(view));
    add("Remarks", remarks(view));
    tables
}

fn head(names: &[&str]) -> Table {
    Table::new(names.iter().map(|name| name.to_string()).collect())
}

/// A column: its name, and what it says of an entry; a column that says nothing at all is left out.
type Column<'c> = (String, Says<'c>);
type Says<'c> = Box<dyn Fn(&Entry) -> Option<String> + 'c>;

fn main(view: &View) -> Option<Table> {
    let runs: Vec<&Entry> = view.entries.iter().filter(|entry| entry.speed().is_some()).collect();
    let mut columns: Vec<Column> = Vec::new();
    let mut column = |name: &str, of: Says<'static>| columns.push((name.to_string(), of));
    let percent = |value: f64| format!("{value:.1}");
    column("micro-batch", Box::new(|entry| Some(entry.record.cell.micro.to_string())));
    column("tokens/s", Box::new(|entry| entry.speed().map(amount)));
    column("tokens/s a rank", Box::new(|entry| Some(amount(entry.speed()? / entry.ranks()))));
    column("least – most", Box::new(|entry| entry.spread().map(|(a, b)| format!("{} – {}", amount(a), amount(b)))));
    column(
        "MFU %",
        Box::new(move |entry| {
            let only = entry.spread().is_none();
            only.then(|| entry.record.prediction.as_ref()?.mfu.map(|mfu| percent(100.0 * mfu))).flatten()
        }),
    );
    let megabytes = |bytes: f64| amount(bytes / 1e6);
    column("leaves a node MB/step", Box::new(move |entry| entry.leaving().map(megabytes)));
    column("on the wire MB", Box::new(move |entry| entry.record.wire_sent().map(megabytes)));
    column(
        "wire - plan %",
        Box::new(|entry| {
            let plan = entry.leaving().filter(|bytes| *bytes > 0.0)?;
            Some(format!("{:+.1}", 100.0 * (entry.record.wire_sent()? / plan - 1.0)))
        }),
    );
    column("exposed %", Box::new(move |entry| entry.exposed().map(|part| percent(100.0 * part))));
    column(
        "idle %",
        Box::new(move |entry| {
            let prediction = entry.record.prediction.as_ref().filter(|_| entry.spread().is_none())?;
            Some(percent(100.0 * prediction.idle_s / prediction.step_s))
        }),
    );
    column("memory a rank MB", Box::new(move |entry| entry.peak().map(megabytes)));
    column(
        "loss",
        Box::new(|entry| {
            let step = entry.record.rounds().last()?.steps.last()?;
            step.loss.is_finite().then(|| format!("{:.4}", step.loss))
        }),
    );
    column("predicted tokens/s", Box::new(|entry| entry.spread().and(entry.predicted()).map(amount)));
    column(
        "error %",
        Box::new(|entry| {
            let error = entry.predicted()? / entry.spread().and(entry.speed())? - 1.0;
            Some(format!("{:+.0}", 100.0 * error))
        }),
    );
    for reference in &view.references {
        let ratio = move |entry: &Entry| {
            let other = view.find(entry.setting, reference)?.speed()?;
            Some(format!("{:.2}", entry.speed()? / other))
        };
        columns.push((format!("x {reference}"), Box::new(ratio)));
    }
    columns.retain(|(_, of)| runs.iter().any(|entry| of(entry).is_some()));
    let settings = view.settings.len() > 1;
    let mut names = vec!["series".to_string()];
    names.extend(settings.then(|| "where".to_string()));
    names.extend(columns.iter().map(|(name, _)| name.clone()));
    let mut table = Table::new(names);
    for entry in &runs {
        let mut row = vec![entry.record.cell.series.clone()];
        row.extend(settings.then(|| view.words(entry.setting)));
        row.extend(columns.iter().map(|(_, of)| of(entry).unwrap_or_else(|| "-".into())));
        table.row(row);
    }
    (!runs.is_empty()).then_some(table)
}

/// Tokens a second and rank, as a part of what the same series does on the fewest ranks.
fn scaling(view: &View, kind: &str) -> Option<Table> {
    let families = families_of(view, kind);
    let mut ranks: Vec<usize> = families.iter().flatten().map(|&setting| view.settings[setting].ranks()).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let columns = ranks.iter().map(|ranks| format!("{ranks} ranks"));
    let mut table = Table::new(["series".to_string(), "where".to_string()].into_iter().chain(columns).collect());
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
fn links(view: &View) -> Option<Table> {
    let mut table = head(&["link", "rate, Mbit/s", "derived"]);
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

fn failures(view: &View) -> Option<Table> {
    let mut table = head(&["series", "where", "reason"]);
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
            _ => format!("{} settings, from {}", settings.len(), view.words(settings[0])),
        };
        table.row(vec![series.clone(), place, reason.clone()]);
    }
    (!rows.is_empty()).then_some(table)
}

fn remarks(view: &View) -> Option<Table> {
    let mut table = head(&["series", "where", "remark"]);
    let mut rows = 0;
    for entry in &view.entries {
        for remark in &entry.record.remarks {
            table.row(vec![entry.record.cell.series.clone(), view.words(entry.setting), remark.replace('|', "/")]);
            rows += 1;
        }
    }
    (rows > 0).then_some(table)
}
