//! `zb-h1`: 1F1B whose backward is split, with the second halves in the bubble at the end. Worker i of p (from 1) keeps
//! p - i + 1 micro-batches whole and the rest of i - 1; a third of the bubble of 1F1B (papers.md §6.2).

use crate::plan::systems::{Entry, SystemOptions};

use super::handmade;
use super::stages::Placement;
use super::{DOMAIN, ENDS, Form, Pipeline};

/// See the module.
pub const ZB_H1: Entry = Entry {
    name: "zb-h1",
    summary: "1F1B with the backward split in two: about a third of its bubble, with the same number of micro-batches in flight",
    domain: DOMAIN,
    ends: ENDS,
    system: &Pipeline {
        form: |options| matches!(options, SystemOptions::ZbH1).then(|| Form::split(Placement::Round(1))),
        order: |task| handmade::order(task, 1),
    },
};
