//! `zb-2p`: as `zb-1p` with twice as many micro-batches in flight as there are stages (papers.md §6.2).

use crate::plan::systems::{Entry, SystemOptions};

use super::search;
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline};

/// See the module.
pub const ZB_2P: Entry = Entry {
    name: "zb-2p",
    summary: "the split backward ordered by a search over measured costs, with twice as many micro-batches in flight as stages",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| matches!(options, SystemOptions::Zb2p).then(|| Form::split(Placement::Round(1))),
        order: |task| search::order(task, 2 * task.stages.ranks),
    },
};
