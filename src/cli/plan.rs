//! `tawpipe plan`: proves a deck's plan right without running it, and shows what it costs.

use anyhow::{Context, bail};

use crate::checkpoint;
use crate::cluster::Groups;
use crate::deck::{Deck, RanksPerGroup};
use crate::exit::Exit;
use crate::plan::check::{Summary, check};
use crate::plan::systems::schedule;
use crate::report::Table;

use super::args::PlanArgs;

/// Most ranks with a column of their own.
const COLUMNS: usize = 8;

/// Checks the plan and prints its tables.
pub fn run(args: &PlanArgs) -> anyhow::Result<Exit> {
    let mut deck = Deck::read(&args.deck.file, &args.deck.sets)?;
    if !args.groups.is_empty() {
        deck.cluster.ranks_per_group = Some(RanksPerGroup::List(args.groups.iter().map(|&n| n as usize).collect()));
    }
    let ranks = match (args.ranks, &deck.cluster.ranks_per_group) {
        (Some(ranks), _) => ranks as usize,
        (None, Some(RanksPerGroup::List(sizes))) => sizes.iter().sum(),
        (None, Some(RanksPerGroup::Each(size))) => *size,
        (None, None) => 1,
    };
    let groups = deck.groups(ranks)?.unwrap_or_else(|| Groups::new(&[ranks]));
    let shape = match &deck.model.from {
        Some(from) => checkpoint::open(from)?.shape().clone(),
        None => deck.model.shape().context("a deck has model.from or a shape")?,
    };
    let job = deck.job(shape, groups)?;
    let schedule = schedule(&job).with_context(|| args.deck.file.display().to_string())?;
    let summary = match check(&schedule, &schedule.ranks()) {
        Ok(summary) => summary,
        Err(defects) => {
            for defect in &defects {
                log::error!("{defect}");
            }
            bail!("the plan has {} defects: a bug of system {}, please report it", defects.len(), job.system.name());
        }
    };
    let sizes: Vec<String> = job.groups.sizes().iter().map(usize::to_string).collect();
    println!(
        "System {} on {ranks} ranks in groups of {}: {} M parameters in {} shards. The plan is right.\n",
        job.system.name(),
        sizes.join(" + "),
        number(job.shape.params() as f64 / 1e6),
        schedule.shards.shards.len(),
    );
    print!("{}\n{}", memory(&summary), bytes(&summary));
    Ok(Exit::Done)
}

/// MiB of each rank by segment.
fn memory(summary: &Summary) -> Table {
    let ranks = summary.memory.len();
    let segments: std::collections::BTreeSet<_> = summary.memory.iter().flat_map(|table| table.keys()).collect();
    let mib = |bytes: usize| number(bytes as f64 / (1 << 20) as f64);
    let row = |name: String, bytes: &dyn Fn(usize) -> usize| {
        let all = (0..ranks).map(bytes);
        let cells: Vec<String> = if ranks <= COLUMNS {
            all.map(mib).collect()
        } else {
            vec![mib(all.clone().min().unwrap_or(0)), mib(all.max().unwrap_or(0))]
        };
        [vec![name], cells].concat()
    };
    let columns: Vec<String> = if ranks <= COLUMNS {
        (0..ranks).map(|rank| format!("rank {rank}")).collect()
    } else {
        vec!["least".into(), "most".into()]
    };
    let mut table = Table::new([vec!["memory, MiB".to_string()], columns].concat());
    for segment in segments {
        let name = format!("{segment:?}").to_lowercase();
        table.row(row(name, &|rank| summary.memory[rank].get(segment).copied().unwrap_or(0)));
    }
    table.row(row("total".into(), &|rank| summary.memory[rank].values().sum()));
    table
}

/// Bytes sent in one training step, by link.
fn bytes(summary: &Summary) -> Table {
    let total = summary.traffic();
    let most = |class: fn(&crate::plan::tables::Traffic) -> usize| summary.train.iter().map(class).max().unwrap_or(0);
    let mut table = Table::new(["sent in a step, bytes", "all ranks", "busiest rank"].map(String::from).to_vec());
    for (name, all, most) in [
        ("between groups", total.inter, most(|traffic| traffic.inter)),
        ("inside groups", total.intra, most(|traffic| traffic.intra)),
        ("control", total.control, most(|traffic| traffic.control)),
    ] {
        table.row(vec![name.into(), all.to_string(), most.to_string()]);
    }
    table
}

/// Three significant digits or more.
fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}
