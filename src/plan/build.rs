//! Writing a rank's plan down: slots are added one by one, ops in an order in which they would be right if each ran to
//! its end before the next starts. The waits that keep them right on concurrent lanes follow from the regions, and are
//! found here.

use crate::cluster::Rank;
use crate::model::Dtype;

use super::{Action, Lane, Op, OpId, Region, Segment, Slot, SlotId};

/// The slots of a rank while its plan is written.
#[derive(Debug, Default)]
pub struct Slots {
    list: Vec<Slot>,
}

impl Slots {
    /// Adds a slot and returns all of it. See [`Slot`] for the arguments.
    pub fn add(&mut self, name: impl Into<String>, elems: usize, dtype: Dtype, segment: Segment) -> Region {
        self.list.push(Slot { name: name.into(), elems, dtype, segment, holds: None });
        Region::new(self.list.len() - 1, 0..elems)
    }

    /// As [`Slots::add`], or nothing if it would be empty.
    pub fn add_some(
        &mut self,
        name: impl Into<String>,
        elems: usize,
        dtype: Dtype,
        segment: Segment,
    ) -> Option<Region> {
        (elems > 0).then(|| self.add(name, elems, dtype, segment))
    }

    /// The slot of a region.
    pub fn get_mut(&mut self, region: Region) -> &mut Slot {
        &mut self.list[region.slot]
    }

    /// All slots, in the order in which they were added.
    pub fn finish(self) -> Vec<Slot> {
        self.list
    }
}

/// A slot as large as the largest region that is ever taken of it; none at all if none is.
#[derive(Debug)]
pub struct Elastic {
    name: String,
    dtype: Dtype,
    segment: Segment,
    slot: Option<SlotId>,
}

impl Elastic {
    /// See [`Slot`] for the arguments.
    pub fn new(name: String, dtype: Dtype, segment: Segment) -> Self {
        Elastic { name, dtype, segment, slot: None }
    }

    /// The slot's first `len` elements.
    pub fn take(&mut self, slots: &mut Slots, len: usize) -> Region {
        let slot = match self.slot {
            Some(slot) => slot,
            None => slots.add(self.name.clone(), 0, self.dtype, self.segment).slot,
        };
        self.slot = Some(slot);
        slots.list[slot].elems = slots.list[slot].elems.max(len);
        Region::new(slot, 0..len)
    }
}

/// One use of a slot by an op that later ops may have to wait for.
#[derive(Debug)]
struct Use {
    op: OpId,
    lane: Lane,
    region: Region,
    writes: bool,
}

/// A list of ops in issue order.
#[derive(Debug)]
pub struct List {
    rank: Rank,
    ops: Vec<Op>,
    /// Of every op: for each lane (see [`Lane::index`]), how many of its ops are complete when this one is.
    done: Vec<Vec<usize>>,
    /// Of every lane: its last op.
    last: Vec<Option<OpId>>,
    /// Of every slot.
    uses: Vec<Vec<Use>>,
    /// Every op waits for the one before.
    serial: bool,
}

impl List {
    /// An empty list of a rank.
    pub fn new(rank: Rank) -> Self {
        List { rank, ops: Vec::new(), done: Vec::new(), last: Vec::new(), uses: Vec::new(), serial: false }
    }

    /// An empty list in which every op waits for the one before, whatever its lane: nothing overlaps.
    pub fn serial(rank: Rank) -> Self {
        List { serial: true, ..List::new(rank) }
    }

    /// Appends an op that waits for whatever it must not overtake: earlier writers of what it touches, and earlier
    /// readers of what it writes. Waits that others already imply are left out.
    pub fn push(&mut self, lane: Lane, action: Action) -> OpId {
        self.push_after(lane, action, &[])
    }

    /// As [`List::push`], for an op that also waits for ops that its regions do not ask for.
    pub fn push_after(&mut self, lane: Lane, action: Action, also: &[OpId]) -> OpId {
        let id = self.ops.len();
        let access = action.access(self.rank);
        let touches = || {
            let reads = access.reads.iter().map(|&region| (region, false));
            reads.chain(access.writes.iter().map(|&region| (region, true)))
        };
        let mut before: Vec<OpId> = touches()
            .flat_map(|(region, writes)| {
                let uses = self.uses.get(region.slot).into_iter().flatten();
                uses.filter(move |u| (writes || u.writes) && u.region.overlaps(&region)).map(|u| u.op)
            })
            .chain(also.iter().copied())
            .chain((self.serial && id > 0).then(|| id - 1))
            .collect();
        // The latest first: it implies most of the others.
        before.sort_unstable_by(|a, b| b.cmp(a));
        before.dedup();

        let index = lane.index();
        self.last.resize(self.last.len().max(index + 1), None);
        let mut done = self.last[index].map(|op| self.done[op].clone()).unwrap_or_default();
        done.resize(self.last.len(), 0);
        let mut waits = Vec::new();
        for op in before {
            let theirs = self.ops[op].lane.index();
            if done[theirs] < self.done[op][theirs] {
                waits.push(op);
                done.iter_mut().zip(&self.done[op]).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            }
        }
        waits.reverse();
        done[index] += 1;

        for (region, writes) in touches() {
            if self.uses.len() <= region.slot {
                self.uses.resize_with(region.slot + 1, Vec::new);
            }
            let uses = &mut self.uses[region.slot];
            // What this op is ordered behind need not be remembered where it covers it.
            uses.retain(|u| {
                let covered = region.start <= u.region.start && u.region.range().end <= region.range().end;
                !(covered && (writes || (!u.writes && u.lane == lane)))
            });
            uses.push(Use { op: id, lane, region, writes });
        }
        self.ops.push(Op { lane, waits, action });
        self.done.push(done);
        self.last[index] = Some(id);
        id
    }

    /// The ops.
    pub fn finish(self) -> Vec<Op> {
        self.ops
    }
}
