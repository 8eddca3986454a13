//! Runs decks in worlds of threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tawpipe::checkpoint;
use tawpipe::cluster::Groups;
use tawpipe::deck::Deck;
use tawpipe::device::Chosen;
use tawpipe::exit::Exit;
use tawpipe::fabric::{Wire, local};
use tawpipe::metrics::{History, read_journal};
use tawpipe::model::ModelShape;
use tawpipe::plan::systems::schedule;
use tawpipe::plan::{Action, RankPlan, Split};
use tawpipe::train::{MakeWire, Messages, Session, StepInput, Stop, TrainOptions, learning_rate, run};

/// What a few steps gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// L2 norm of every parameter's gradient in step 1, before clipping.
    pub gradients: BTreeMap<String, f64>,
    /// Loss of each step.
    pub losses: Vec<f64>,
    /// Gradient norm of each step, before clipping.
    pub norms: Vec<f64>,
}

/// A deck with keys replaced, for these groups of ranks; with `tawpipe` (one rank: `single`) unless a key says otherwise.
pub fn deck(text: &str, groups: &[usize], sets: &[&str]) -> Deck {
    let mut sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    sets.push(format!("cluster.ranks_per_group={groups:?}"));
    if !sets.iter().any(|set| set.starts_with("system.name=")) {
        sets.push(format!("system.name={}", if groups == [1] { "single" } else { "tawpipe" }));
    }
    // Relative paths start at the crate.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deck.toml");
    Deck::parse(text, &file, &sets).unwrap()
}

/// What `body` does with every rank's session, from its first step on, with every rank's plan changed by `change` first.
pub fn sessions<T: Send>(
    deck: &Deck,
    change: impl Fn(&mut RankPlan) + Sync,
    body: impl Fn(&mut Session) -> T + Sync,
) -> Vec<T> {
    let groups = groups(deck);
    local::run(groups.ranks(), Default::default(), |rank, world| {
        let source = deck.model.from.as_ref().map(|path| checkpoint::open(path).unwrap());
        let shape: ModelShape = source.as_ref().map_or_else(|| deck.model.shape().unwrap(), |s| s.shape().clone());
        let schedule = schedule(&deck.job(shape, groups.clone()).unwrap()).unwrap();
        let data = Arc::new(deck.dataset(schedule.job.shape.vocab).unwrap());
        let mut plan = schedule.rank(rank);
        change(&mut plan);
        let wire = |_: &[Split]| (groups.ranks() > 1).then(|| Box::new(world.wire()) as Box<dyn Wire>);
        let wire: &MakeWire = &wire;
        let device = Chosen::cpu(1);
        let memory = device.memory(&plan.slots).unwrap();
        let mut session = Session::new(deck, schedule, plan, &device, memory, data, Messages::Host(wire)).unwrap();
        match source {
            Some(source) => session.read(source.as_ref()).unwrap(),
            None => session.initialise(deck.run.seed).unwrap(),
        }
        session.prepare().unwrap();
        body(&mut session)
    })
}

/// Trains session by session, with every rank's plan changed by `change` first.
pub fn train(deck: &Deck, change: impl Fn(&mut RankPlan) + Sync) -> Outcome {
    let ranks = sessions(deck, change, |session| {
        let mut outcome = Outcome::default();
        for number in 1..=deck.run.steps {
            let lr = learning_rate(&deck.optim, number - 1, deck.run.steps);
            let first = (number - 1) * deck.batch.global as u64;
            let step = session.step(&StepInput { first, update: number, lr, bound: f64::INFINITY }).unwrap();
            outcome.losses.push(step.loss);
            outcome.norms.push(step.grad_norm);
            if number == 1 {
                outcome.gradients = gradients(session);
            }
        }
        outcome
    });
    let mut all = Outcome { gradients: BTreeMap::new(), ..ranks[0].clone() };
    for other in ranks {
        assert_eq!((&other.losses, &other.norms), (&all.losses, &all.norms), "ranks disagree about the statistics");
        for (name, squares) in other.gradients {
            *all.gradients.entry(name).or_default() += squares;
        }
    }
    all.gradients.values_mut().for_each(|squares| *squares = squares.sqrt());
    all
}

/// Sums of squares of the gradients that a rank has updated primary masters with, by parameter.
fn gradients(session: &Session) -> BTreeMap<String, f64> {
    let mut squares = BTreeMap::new();
    for op in &session.plan.train {
        let Action::Update { shard, range, gradient, master, .. } = &op.action else { continue };
        if !session.plan.slots[master.slot].holds.as_ref().expect("a master is of a shard").primary {
            continue;
        }
        let values = &session.memory().floats(gradient.slot).unwrap()[gradient.range()];
        for param in &session.schedule.shards.shards[*shard].params {
            let own = param.offset..param.offset + param.len();
            let (start, end) = (own.start.max(range.start), own.end.min(range.end));
            if start < end {
                let values = &values[start - range.start..end - range.start];
                *squares.entry(param.name.clone()).or_default() +=
                    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            }
        }
    }
    squares
}

pub fn groups(deck: &Deck) -> Groups {
    let sizes = match deck.cluster.ranks_per_group.as_ref().expect("set by `deck`") {
        tawpipe::deck::RanksPerGroup::List(sizes) => sizes.clone(),
        tawpipe::deck::RanksPerGroup::Each(size) => vec![*size],
    };
    Groups::new(&sizes)
}

/// The whole program but its command line, into a folder; gives what every rank returns.
pub fn outcomes(deck: &Deck, resume: bool) -> Vec<anyhow::Result<Exit>> {
    stopped(deck, resume, &Stop::never())
}

/// The same, with something that may stop it.
pub fn stopped(deck: &Deck, resume: bool, stop: &Stop) -> Vec<anyhow::Result<Exit>> {
    let groups = groups(deck);
    let options = TrainOptions { resume, ..TrainOptions::default() };
    local::run(groups.ranks(), Default::default(), |_, world| {
        let wire = |_: &[Split]| (groups.ranks() > 1).then(|| Box::new(world.wire()) as Box<dyn Wire>);
        run(deck, options, world, &groups, &wire, stop)
    })
}

/// The same, for a run that goes well; gives the journal.
pub fn program(deck: &Deck, resume: bool) -> History {
    for outcome in outcomes(deck, resume) {
        outcome.unwrap();
    }
    journal(deck)
}

/// The journal of a deck's run.
pub fn journal(deck: &Deck) -> History {
    read_journal(&deck.run.folder.clone().expect("tests name their folder").join("metrics.jsonl")).unwrap()
}

/// A file of this crate's test data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}
