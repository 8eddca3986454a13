//! Tables about one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::cluster::Rank;
use crate::plan::Segment;
use crate::plan::check::Summary;
use crate::plan::tables::Traffic;
use crate::report::Table;
use crate::units::{binary, number, seconds, size};

use super::outcome::Outcome;

/// Most classes of ranks with a column of their own.
const COLUMNS: usize = 8;

/// Bytes by segment, but for those that no rank has, a column for each class of ranks that need the same.
pub fn memory(summary: &Summary, limit: Option<usize>) -> Table {
    let classes = classes(&summary.memory);
    let segments: BTreeSet<Segment> = summary.memory.iter().flat_map(|table| table.keys().copied()).collect();
    let totals: Vec<usize> = classes.iter().map(|(_, table)| table.values().sum()).collect();
    let each = classes.len() <= COLUMNS;
    let row = |name: String, bytes: Vec<usize>| {
        let cells = if each { bytes } else { least_and_most(&bytes) };
        [vec![name], cells.into_iter().map(size).collect()].concat()
    };
    let columns: Vec<String> = if each {
        classes.iter().map(|(ranks, _)| words(ranks)).collect()
    } else {
        vec!["least".into(), "most".into()]
    };
    let mut table = Table::new([vec!["memory".to_string()], columns].concat());
    for segment in segments {
        let bytes: Vec<usize> = classes.iter().map(|(_, table)| table.get(&segment).copied().unwrap_or(0)).collect();
        if bytes.iter().all(|&bytes| bytes == 0) {
            continue;
        }
        table.row(row(format!("{segment:?}").to_lowercase(), bytes));
    }
    table.row(row("total".into(), totals.clone()));
    let cells = if each { totals.clone() } else { least_and_most(&totals) };
    table.row([vec!["total, binary".into()], cells.into_iter().map(binary).collect()].concat());
    if let Some(limit) = limit {
        table.row(row("allowed".into(), vec![limit; totals.len()]));
        let fits = if each { totals } else { least_and_most(&totals) };
        let fits = fits.into_iter().map(|total| if total <= limit { "yes" } else { "NO" }.to_string());
        table.row([vec!["fits".into()], fits.collect()].concat());
    }
    table
}

fn least_and_most(bytes: &[usize]) -> Vec<usize> {
    vec![bytes.iter().copied().min().unwrap_or(0), bytes.iter().copied().max().unwrap_or(0)]
}

type Class<'a> = (Vec<RangeInclusive<Rank>>, &'a BTreeMap<Segment, usize>);

/// Ranks that need the same memory, as runs of ranks; in the order of their first rank.
fn classes(memory: &[BTreeMap<Segment, usize>]) -> Vec<Class<'_>> {
    let mut classes: Vec<Class> = Vec::new();
    for (rank, table) in memory.iter().enumerate() {
        match classes.iter_mut().find(|(_, other)| *other == table) {
            None => classes.push((vec![rank..=rank], table)),
            Some((runs, _)) => match runs.last_mut() {
                Some(run) if *run.end() + 1 == rank => *run = *run.start()..=rank,
                _ => runs.push(rank..=rank),
            },
        }
    }
    classes
}

fn words(runs: &[RangeInclusive<Rank>]) -> String {
    let word = |run: &RangeInclusive<Rank>| {
        if run.start() == run.end() { run.start().to_string() } else { format!("{}-{}", run.start(), run.end()) }
    };
    let one = runs.len() == 1 && runs[0].start() == runs[0].end();
    let shown: Vec<String> = runs.iter().take(4).map(word).collect();
    let more = if runs.len() > shown.len() { ", …" } else { "" };
    format!("{} {}{more}", if one { "rank" } else { "ranks" }, shown.join(", "))
}

/// Bytes sent in one training step, by link; nothing if nothing is sent.
pub fn bytes(summary: &Summary) -> Option<Table> {
    let total = summary.traffic();
    let most = |class: fn(&Traffic) -> usize| summary.train.iter().map(class).max().unwrap_or(0);
    let mut table = Table::new(["sent in a step", "all ranks", "busiest rank"].map(String::from).to_vec());
    for (name, all, most) in [
        ("between groups", total.inter, most(|traffic| traffic.inter)),
        ("inside groups", total.intra, most(|traffic| traffic.intra)),
        ("control", total.control, most(|traffic| traffic.control)),
    ] {
        if all > 0 {
            table.row(vec![name.into(), size(all), size(most)]);
        }
    }
    (total != Traffic::default()).then_some(table)
}

/// What a step's time goes to; with a machine also how fast that is.
pub fn time(outcome: &Outcome, machine: bool) -> Table {
    let simulation = &outcome.simulation;
    let head = if machine { "predicted" } else { "in forwards of a block" };
    let mut table = Table::new(vec![head.into(), "value".into()]);
    // To wait for nothing says nothing.
    let mut row = |name: &str, value: String| {
        if value != "0.0" || !name.starts_with("waiting") {
            table.row(vec![name.into(), value]);
        }
    };
    let ranks = simulation.ranks.len() as f64;
    let share = |of: fn(&crate::simulate::RankUse) -> f64| {
        let sum: f64 = simulation.ranks.iter().map(of).sum();
        format!("{:.1}", 100.0 * sum / (simulation.step_s * ranks))
    };
    row("step", if machine { seconds(simulation.step_s) } else { number(simulation.step_s) });
    row("computing, %", share(|rank| rank.busy));
    row("waiting for messages on their way, %", share(|rank| rank.exposed));
    row("waiting for others, %", share(|rank| rank.idle));
    row("bubble (both), %", format!("{:.1}", 100.0 * simulation.bubble()));
    if machine {
        row("tokens/s", number(simulation.tokens_per_s_rank * ranks));
        row("tokens/s a rank", number(simulation.tokens_per_s_rank));
    }
    if let Some(mfu) = simulation.mfu {
        row("MFU (causal attention), %", format!("{:.1}", 100.0 * mfu.causal));
        row("MFU (attention in full), %", format!("{:.1}", 100.0 * mfu.full));
    }
    table
}
