//! `1f1b`: as soon as a stage can run a backward it does, so that stage i of p keeps p - i micro-batches at most
//! (PipeDream-flush, papers.md §6.1).

use crate::plan::systems::{Entry, SystemOptions};

use super::clock::{Item, Order, Pass};
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline, Task};

/// See the module.
pub const ONE_F_ONE_B: Entry = Entry {
    name: "1f1b",
    summary: "a pipeline: each rank has a stage of the model and sends activations on; every backward as soon as possible, so that few micro-batches are in flight",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| match options {
            SystemOptions::OneFOneB(options) => Some(Form::whole(Placement::Round(1), options.blocking)),
            _ => None,
        },
        order,
    },
};

fn order(task: &Task) -> Order {
    let stage = |chunk: usize| {
        let item = |pass, micro| Item { pass, micro, chunk };
        let warm = (task.stages.ranks - 1 - chunk).min(task.micros);
        let mut list: Vec<Item> = (0..warm).map(|micro| item(Pass::Forward, micro)).collect();
        for micro in 0..task.micros {
            if micro + warm < task.micros {
                list.push(item(Pass::Forward, micro + warm));
            }
            list.push(item(Pass::Backward, micro));
        }
        list
    };
    (0..task.stages.ranks).map(stage).collect()
}
