//! `tawpipe plan`: proves plans right without running them, and says what they cost in memory, bytes and time.
//!
//! With `--cluster` times are predicted for that machine. Without it, plans are priced as papers draw them: a block's
//! forward is 1, each half of its backward 1, everything else free.

mod compare;
mod one;
mod outcome;
mod recommended;
mod tables;

use anyhow::{Context, bail};

use crate::checkpoint;
use crate::cluster::{Description, Groups};
use crate::deck::{CostSource, Deck, DeviceKind, RanksPerGroup};
use crate::device::beside;
use crate::exit::Exit;
use crate::plan::Job;
use crate::report::TimeUnit;
use crate::simulate::costs;

use super::args::PlanArgs;
use super::launch::Unusable;

/// What is planned, and for which machine.
struct Question {
    job: Job,
    machine: Option<Description>,
    /// Bytes that the deck's device keeps beside the plan.
    beside: usize,
}

impl Question {
    /// Unit of predicted times.
    fn unit(&self) -> TimeUnit {
        if self.machine.is_some() { TimeUnit::Seconds } else { TimeUnit::Forwards }
    }

    /// Bytes a rank's plan may use: what the deck says, else what the machine has, without what is beside the plan.
    fn limit(&self) -> Option<usize> {
        let has =
            || self.machine.as_ref().map(|machine| (machine.device().memory as usize).saturating_sub(self.beside));
        self.job.memory.or_else(has)
    }
}

/// Answers what was asked about a deck's plan.
pub fn run(args: &PlanArgs) -> anyhow::Result<Exit> {
    if (args.all || args.recommend) && (args.draw.is_some() || args.trace.is_some()) {
        bail!(Unusable("--draw and --trace show one plan: leave out --all and --recommend".into()));
    }
    if args.lanes && args.draw.is_none() {
        bail!(Unusable("--lanes says how to draw: add --draw OUT.svg".into()));
    }
    let question = ask(args)?;
    match (args.all, args.recommend) {
        (true, _) => compare::run(&question, args.json),
        (_, true) => recommended::run(&question, args.json),
        _ => one::run(&question, args),
    }
}

fn ask(args: &PlanArgs) -> anyhow::Result<Question> {
    let deck = Deck::read(&args.deck.file, &args.deck.sets)?;
    let machine = args.cluster.as_ref().map(|file| Description::read(file)).transpose()?;
    let groups = groups(args, &deck, machine.as_ref())?;
    let shape = match &deck.model.from {
        Some(from) => checkpoint::open(from)?.shape().clone(),
        None => deck.model.shape().context("a deck has model.from or a shape")?,
    };
    let mut job = deck.job(shape, groups)?;
    if let Some(machine) = &machine
        && !matches!(deck.cluster.costs, CostSource::Given(_))
    {
        job.costs = costs(machine, &job);
    }
    let beside = match deck.run.device {
        DeviceKind::Cuda => beside(&job.shape, job.batch.seq).iter().map(|(_, bytes)| bytes).sum(),
        DeviceKind::Auto | DeviceKind::Cpu => 0,
    };
    job.memory = job.memory.map(|memory| memory.saturating_sub(beside));
    Ok(Question { job, machine, beside })
}

/// The ranks: `--groups`, else the machine's (or the first `--ranks` of them), else the deck's.
fn groups(args: &PlanArgs, deck: &Deck, machine: Option<&Description>) -> anyhow::Result<Groups> {
    let ranks = args.ranks.map(|ranks| ranks as usize);
    let groups = if !args.groups.is_empty() {
        let sizes: Vec<usize> = args.groups.iter().map(|&size| size as usize).collect();
        let sum: usize = sizes.iter().sum();
        if ranks.is_some_and(|ranks| ranks != sum) {
            bail!(Unusable(format!("--groups {sizes:?} are {sum} ranks, but there are {}", ranks.unwrap_or(0))));
        }
        Groups::new(&sizes)
    } else if let Some(machine) = machine {
        // Too many ranks are refused below.
        machine.first(ranks.unwrap_or(machine.ranks())).unwrap_or(Groups::new(&[ranks.unwrap_or(1)]))
    } else {
        let ranks = ranks.unwrap_or_else(|| match &deck.cluster.ranks_per_group {
            Some(RanksPerGroup::List(sizes)) => sizes.iter().sum(),
            Some(RanksPerGroup::Each(size)) => *size,
            None => 1,
        });
        deck.groups(ranks)?.unwrap_or_else(|| Groups::new(&[ranks]))
    };
    match machine {
        Some(machine) if machine.ranks() < groups.ranks() => bail!(Unusable(format!(
            "{} ranks are asked for, but cluster \"{}\" has {}",
            groups.ranks(),
            machine.name,
            machine.ranks()
        ))),
        _ => Ok(groups),
    }
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

/// Seconds in a unit that leaves digits before the point.
fn seconds(value: f64) -> String {
    let (factor, unit) = match value {
        1.0.. => (1.0, "s"),
        1e-3.. => (1e3, "ms"),
        _ => (1e6, "µs"),
    };
    format!("{} {unit}", number(value * factor))
}
