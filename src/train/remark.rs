//! What of a deck is allowed, but is hardly meant.

use crate::deck::{Deck, RanksPerGroup};
use crate::plan::systems::SystemOptions;

/// Keys that have no effect in a run of so few steps.
pub fn of_deck(deck: &Deck) -> Vec<String> {
    let (steps, mut remarks) = (deck.run.steps, Vec::new());
    if deck.optim.warmup > steps {
        remarks.push(format!(
            "optim.warmup = {} is longer than run.steps = {steps}; the learning rate never reaches optim.lr",
            deck.optim.warmup
        ));
    }
    if let Some(trace) = deck.run.trace.filter(|trace| *trace > steps) {
        remarks.push(format!("run.trace = {trace} is beyond run.steps = {steps}; nothing is traced"));
    }
    remarks
}

/// What to say of a deck for several ranks that only this process trains, which no launcher has started.
pub fn alone(deck: &Deck) -> Option<String> {
    let cause = match (&deck.system, &deck.cluster.ranks_per_group) {
        (SystemOptions::Single, None) => return None,
        (SystemOptions::Single, Some(_)) => "cluster.ranks_per_group is".to_string(),
        (system, _) => format!("system \"{}\" is", system.name()),
    };
    Some(format!("{cause} meant for several ranks, but this is one; {}", command(deck)))
}

/// How to start a deck's ranks: only a launcher can start more than one.
pub fn command(deck: &Deck) -> String {
    let ranks = match &deck.cluster.ranks_per_group {
        Some(RanksPerGroup::List(sizes)) => sizes.iter().sum(),
        // Two groups, the least that show what groups are for.
        Some(RanksPerGroup::Each(size)) => 2 * size,
        None => 2,
    };
    format!("start them with: mpirun -n {} tawpipe train {}", ranks.max(2), deck.file.display())
}
