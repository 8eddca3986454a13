//! `zb-h2`: as `zb-h1` with twice the micro-batches in flight, which closes the bubble between the first and the last
//! item of every stage if forward and both halves of backward take equal times (papers.md §6.2).

use crate::plan::systems::{Entry, SystemOptions};

use super::handmade;
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline};

/// See the module.
pub const ZB_H2: Entry = Entry {
    name: "zb-h2",
    summary: "1F1B with the backward split in two and twice the micro-batches in flight, for the shortest bubble",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| matches!(options, SystemOptions::ZbH2).then(|| Form::split(Placement::Round(1))),
        order: |task| handmade::order(task, 2),
    },
};
