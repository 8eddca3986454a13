//! `zb-v`: two chunks a rank, up the ranks and down again, and a split backward: no bubble if forward and both halves of
//! backward take equal times, with no more activations in flight than 1F1B's first stage, the same on every rank
//! (Qi et al., "Pipeline parallelism with controllable memory"; papers.md §6.2).

use crate::plan::systems::{Entry, SystemOptions};

use super::clock::{Item, Order, Pass};
use super::stages::Placement;
use super::{Form, Pipeline, Task};

/// See the module.
pub const ZB_V: Entry = Entry {
    name: "zb-v",
    summary: "the split backward with two chunks on each rank, from the first rank to the last and back: a short bubble, and the same memory on every rank",
    domain: "at most (layers + 2) / 2 ranks in any groups; any number of micro-batches",
    ends: "both on the first rank, which has the first and the last chunk",
    system: &Pipeline {
        form: |options| matches!(options, SystemOptions::ZbV).then(|| Form::split(Placement::V)),
        order,
    },
};

/// A rank's list while it is written: the next micro-batch of every pass in either chunk.
struct Writer {
    /// The chunk on the way up the ranks, and the one on the way down.
    chunks: [usize; 2],
    /// By pass and chunk.
    next: [[usize; 2]; 3],
    list: Vec<Item>,
}

impl Writer {
    fn push(&mut self, pass: Pass, side: usize) {
        let next = &mut self.next[pass as usize][side];
        self.list.push(Item { pass, micro: *next, chunk: self.chunks[side] });
        *next += 1;
    }

    fn count(&self, pass: Pass, side: usize) -> usize {
        self.next[pass as usize][side]
    }
}

/// The pattern needs 2p - 1 micro-batches to unfold; of fewer, the missing ones' items are left out.
fn order(task: &Task) -> Order {
    use Pass::{Backward, Forward, Weight};
    let ranks = task.stages.ranks;
    let micros = task.micros.max(2 * ranks - 1);
    let rank = |rank: usize| {
        let mut w = Writer { chunks: [rank, 2 * ranks - 1 - rank], next: [[0; 2]; 3], list: Vec::new() };
        let behind = ranks - rank;
        // Upwards until the first micro-batch comes back down, then in turns until its backward arrives.
        (0..2 * behind - 1).for_each(|_| w.push(Forward, 0));
        for _ in 0..rank {
            w.push(Forward, 1);
            w.push(Forward, 0);
        }
        for _ in 0..behind {
            w.push(Forward, 1);
            w.push(Backward, 1);
            w.push(Weight, 1);
        }
        // Three passes through either chunk for every micro-batch.
        while w.count(Forward, 1) < micros {
            if w.count(Forward, 0) < micros {
                w.push(Forward, 0);
            }
            w.push(Backward, 0);
            w.push(Weight, 0);
            w.push(Forward, 1);
            w.push(Backward, 1);
            w.push(Weight, 1);
        }
        // Others wait for gradients of inputs; those of parameters fill the end.
        for _ in 0..rank {
            w.push(Backward, 0);
            w.push(Backward, 1);
        }
        for _ in 0..behind {
            w.push(Backward, 0);
            w.push(Weight, 0);
        }
        for side in [1, 0] {
            while w.count(Weight, side) < micros {
                w.push(Weight, side);
            }
        }
        w.list.retain(|item| item.micro < task.micros);
        w.list
    };
    (0..ranks).map(rank).collect()
}
