//! `tawpipe plan`: proves plans right without running them, and says what they cost in memory, bytes and time.
//!
//! With `--cluster` times are predicted for that machine. Without it, plans are priced as papers draw them: a block's
//! forward is 1, each half of its backward 1, everything else free.

mod compare;
mod config;
mod fit;
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
use crate::model::ModelShape;
use crate::plan::Job;
use crate::report::TimeUnit;
use crate::simulate::costs;

use super::args::PlanArgs;
use super::launch::Unusable;
use config::Config;

/// What is planned, and for which machine.
#[derive(Clone)]
struct Question {
    job: Job,
    machine: Option<Description>,
    /// Bytes that the deck's device keeps beside the plan.
    beside: usize,
    /// What the plan does not tell.
    remarks: Vec<String>,
    /// The deck gives the costs that pipelines plan by.
    own_costs: bool,
}

impl Question {
    /// Unit of predicted times.
    fn unit(&self) -> TimeUnit {
        if self.machine.is_some() { TimeUnit::Seconds } else { TimeUnit::Forwards }
    }

    /// Bytes a rank's plan may use: what the deck says, else what the machine has, without what is beside the plan.
    fn limit(&self) -> Option<usize> {
        self.job.memory
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
    let given = args.model.as_ref().map(|path| match config::find(path) {
        Some(file) => config::read(&file),
        None => Err(Unusable(format!("--model {}: a config.json, or a folder with one", path.display())).into()),
    });
    let given = given.transpose()?;
    let keys = given.as_ref().map_or_else(Vec::new, |config| config::sets(&config.shape));
    let deck = Deck::read(&args.deck.file, &[&keys[..], &args.deck.sets[..]].concat())?;
    let machine = args.cluster.as_ref().map(|file| Description::read(file)).transpose()?;
    let groups = groups(args, &deck, machine.as_ref())?;
    let (shape, remarks) = shape(&deck, given)?;
    let mut job = deck.job(shape, groups)?;
    let own_costs = matches!(deck.cluster.costs, CostSource::Given(_));
    if let Some(machine) = machine.as_ref().filter(|_| !own_costs) {
        job.costs = costs(machine, &job);
    }
    let beside = match deck.run.device {
        DeviceKind::Cuda => beside(&job.shape, job.batch.seq).iter().map(|(_, bytes)| bytes).sum(),
        DeviceKind::Auto | DeviceKind::Cpu => 0,
    };
    let has = machine.as_ref().map(|machine| machine.device().memory as usize);
    job.memory = job.memory.or(has).map(|memory| memory.saturating_sub(beside));
    Ok(Question { job, machine, beside, remarks, own_costs })
}

/// The model: that of `--model`, else of the deck. Of a Hugging Face folder the configuration is enough.
fn shape(deck: &Deck, given: Option<Config>) -> anyhow::Result<(ModelShape, Vec<String>)> {
    if let Some(Config { shape, remarks }) = given {
        // The deck's own keys come from the configuration, or from `--set`.
        let own = deck.model.shape().context("a deck with a shape")?;
        return Ok((ModelShape { extra: shape.extra, ..own }, remarks));
    }
    let Some(from) = &deck.model.from else {
        return Ok((deck.model.shape().context("a deck has model.from or a shape")?, Vec::new()));
    };
    match config::find(from) {
        Some(file) => config::read(&file).map(|config| (config.shape, config.remarks)),
        None => Ok((checkpoint::open(from)?.shape().clone(), Vec::new())),
    }
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
