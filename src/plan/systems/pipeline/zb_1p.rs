//! `zb-1p`: the schedule with the shortest bubble that the scheduler finds with as many micro-batches in flight as there
//! are stages, as in 1F1B (papers.md §6.2).

use crate::plan::systems::{Entry, SystemOptions};

use super::search;
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline};

/// See the module.
pub const ZB_1P: Entry = Entry {
    name: "zb-1p",
    summary: "the split backward ordered by a search over measured costs, with as many micro-batches in flight as stages",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| matches!(options, SystemOptions::Zb1p).then(|| Form::split(Placement::Round(1))),
        order: |task| search::order(task, task.stages.ranks),
    },
};
