//! `gpipe`: all forwards, then all backwards (papers.md §6.1). Every stage keeps all micro-batches.

use crate::plan::systems::{Entry, SystemOptions};

use super::clock::{Item, Order, Pass};
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline, Task};

/// See the module.
pub const GPIPE: Entry = Entry {
    name: "gpipe",
    summary: "a pipeline: each rank has a stage of the model and sends activations on; all forwards, then all backwards",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| match options {
            SystemOptions::Gpipe(options) => Some(Form::whole(Placement::Round(1), options.blocking)),
            _ => None,
        },
        order,
    },
};

fn order(task: &Task) -> Order {
    let all = |chunk: usize, pass| (0..task.micros).map(move |micro| Item { pass, micro, chunk });
    (0..task.stages.ranks).map(|chunk| all(chunk, Pass::Forward).chain(all(chunk, Pass::Backward)).collect()).collect()
}
