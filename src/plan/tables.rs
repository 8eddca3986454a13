//! Memory and bytes of a plan, from its slots and communication alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

use serde::Serialize;

use crate::cluster::{Groups, Rank};

use super::collective::steps;
use super::{Action, Op, Payload, RankPlan, Segment, Slot, Split};

/// Bytes of a rank's slots, by what they are for.
pub fn memory(slots: &[Slot]) -> BTreeMap<Segment, usize> {
    let mut table = BTreeMap::new();
    for slot in slots {
        *table.entry(slot.segment).or_default() += slot.bytes();
    }
    table
}

/// Bytes sent over one link or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Weights, gradients, activations.
    pub data: usize,
    /// Scalars.
    pub control: usize,
}

/// Bytes of one pass over a list of ops, by link class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Weights, gradients and activations between ranks of one group.
    pub intra: usize,
    /// Weights, gradients and activations between groups.
    pub inter: usize,
    /// Scalars, over any link.
    pub control: usize,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.intra += other.intra;
        self.inter += other.inter;
        self.control += other.control;
    }
}

/// What a rank sends to each other rank in one pass over one of its lists.
///
/// # Panics
/// If the plan is so wrong that a collective has no steps: the checker's business.
pub fn sent(splits: &[Split], plan: &RankPlan, ops: &[Op]) -> BTreeMap<Rank, Bytes> {
    let mut table: BTreeMap<Rank, Bytes> = BTreeMap::new();
    let mut add = |to: Rank, payload: &Payload, bytes: usize| {
        let entry = table.entry(to).or_default();
        match payload {
            Payload::Scalars => entry.control += bytes,
            _ => entry.data += bytes,
        }
    };
    // A plan repeats few different collectives many times: elements to each peer.
    let mut known: HashMap<_, BTreeMap<Rank, usize>> = HashMap::new();
    for op in ops {
        let call = match &op.action {
            Action::Exchange { sends, .. } => {
                for message in sends {
                    add(message.peer, &message.payload, message.region.len * width(plan, message.region.slot));
                }
                continue;
            }
            Action::Collective(call) => call,
            _ => continue,
        };
        let (comm, what, algorithm, region) = (call.comm, call.what, call.algorithm, call.region);
        let elems = known.entry((comm, what, algorithm, region.len)).or_insert_with(|| {
            let members = splits[comm].set_of(plan.rank).expect("a member of its communicator");
            let steps = steps(what, algorithm, members, plan.rank, region.len);
            let mut elems: BTreeMap<Rank, usize> = BTreeMap::new();
            for part in steps.expect("an algorithm of this collective").into_iter().filter_map(|step| step.send) {
                *elems.entry(part.peer).or_default() += part.range.len();
            }
            elems
        });
        for (&to, elems) in elems.iter() {
            add(to, &call.payload, elems * width(plan, region.slot));
        }
    }
    table
}

fn width(plan: &RankPlan, slot: usize) -> usize {
    plan.slots[slot].dtype.bytes()
}

/// What a rank sends in one pass over one of its lists, by link class.
pub fn traffic(groups: &Groups, splits: &[Split], plan: &RankPlan, ops: &[Op]) -> Traffic {
    let mut traffic = Traffic::default();
    let group = groups.group_of(plan.rank);
    for (to, bytes) in sent(splits, plan, ops) {
        traffic.control += bytes.control;
        if groups.group_of(to) == group {
            traffic.intra += bytes.data;
        } else {
            traffic.inter += bytes.data;
        }
    }
    traffic
}
