//! `1f1b-interleaved`: 1F1B with several chunks of the model on every rank, which shortens the bubble and moves more
//! activations (papers.md §6.1).
//!
//! Micro-batches go in rounds of one a rank: a rank takes a round through its first chunk, then through its second, and
//! so on; backward the other way round. A last round that is not full is planned as if it were, and the items of missing
//! micro-batches are left out: what remains depends on nothing that is gone.

use crate::plan::systems::{Entry, SystemOptions};

use super::clock::{Item, Order, Pass};
use super::stages::Placement;
use super::{ENDS, Form, Pipeline, Task};

/// See the module.
pub const INTERLEAVED: Entry = Entry {
    name: "1f1b-interleaved",
    summary: "1F1B with several chunks of the model on each rank: a shorter bubble for more messages",
    domain: "at most (layers + 2) / chunks ranks in any groups; any number of micro-batches",
    ends: ENDS,
    system: &Pipeline {
        form: |options| match options {
            SystemOptions::Interleaved(options) => {
                Some(Form::whole(Placement::Round(options.chunks), options.blocking))
            }
            _ => None,
        },
        order,
    },
};

fn order(task: &Task) -> Order {
    let ranks = task.stages.ranks;
    let each = task.stages.placement.chunks();
    let all = task.micros.next_multiple_of(ranks) * each;
    let rank = |rank: usize| {
        let item = |pass: Pass, number: usize| {
            let (round, within) = (number / (ranks * each), number % (ranks * each));
            let level = if pass == Pass::Forward { within / ranks } else { each - 1 - within / ranks };
            Item { pass, micro: round * ranks + within % ranks, chunk: level * ranks + rank }
        };
        // With one chunk a rank this is 1F1B; with more, a backward comes back after the ranks behind this one and all
        // later chunks, and in the mean time two items pass for every rank.
        let warm = match each {
            1 => ranks - 1 - rank,
            _ => 2 * (ranks - 1 - rank) + (each - 1) * ranks,
        };
        let warm = warm.min(all);
        let mut list: Vec<Item> = (0..warm).map(|number| item(Pass::Forward, number)).collect();
        for number in 0..all {
            if number + warm < all {
                list.push(item(Pass::Forward, number + warm));
            }
            list.push(item(Pass::Backward, number));
        }
        list.retain(|item| item.micro < task.micros);
        list
    };
    (0..ranks).map(rank).collect()
}
