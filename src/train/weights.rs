//! What a rank's memory starts with, and what of it goes into a checkpoint.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::checkpoint::{Piece, PieceMut, pieces, pieces_mut};
use crate::device::{DeviceError, Memory};
use crate::model::init;
use crate::plan::systems::Schedule;
use crate::plan::{Action, Holding, RankPlan, Segment, SlotId};

/// The slots of one run of parameters: master weights and both moments.
#[derive(Clone, Copy, Debug)]
struct Owned {
    slots: [SlotId; 3],
}

/// Every run of parameters that a rank keeps.
fn owned(plan: &RankPlan) -> impl Iterator<Item = Owned> + '_ {
    let slots = plan.slots.iter().enumerate();
    slots.filter(|(_, slot)| slot.segment == Segment::Master).map(|(id, master)| {
        let twin = |segment| {
            let same = |slot: &&crate::plan::Slot| slot.segment == segment && slot.holds == master.holds;
            let found = plan.slots.iter().find(same).expect("a master has its moments");
            plan.slots.iter().position(|slot| std::ptr::eq(slot, found)).expect("just found")
        };
        Owned { slots: [id, twin(Segment::Moment1), twin(Segment::Moment2)] }
    })
}

/// Elements that a thread initialises at a time.
const PIECE: usize = 1 << 16;

/// Fills the masters with initial weights, by this rank's part of the cores that its group shares.
pub fn initialise(schedule: &Schedule, plan: &RankPlan, memory: &Memory, seed: u64) -> Result<(), DeviceError> {
    let groups = &schedule.job.groups;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / groups.size(groups.group_of(plan.rank))).max(1);
    let pool = (threads > 1).then(|| rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok()).flatten();
    let mut values = Vec::new();
    for Owned { slots } in owned(plan) {
        let place = plan.slots[slots[0]].holds.as_ref().expect("masters hold parameters");
        for param in &schedule.shards.shards[place.shard].params {
            let start = param.offset.max(place.range.start);
            let end = (param.offset + param.len()).min(place.range.end);
            if start < end {
                values.resize(end - start, 0.0);
                let piece = |(number, piece): (usize, &mut [f32])| {
                    init(seed, param, start - param.offset + number * PIECE, piece);
                };
                match &pool {
                    Some(pool) => pool.install(|| values.par_chunks_mut(PIECE).enumerate().for_each(piece)),
                    None => values.chunks_mut(PIECE).enumerate().for_each(piece),
                }
                let here = start - place.range.start..end - place.range.start;
                memory.upload(memory.slot(slots[0]).sub(here), &values)?;
            }
        }
    }
    Ok(())
}

/// See [`super::Session::nonfinite_gradients`].
pub fn nonfinite_gradients(
    schedule: &Schedule,
    plan: &RankPlan,
    memory: &Memory,
) -> Result<(usize, Vec<(usize, String)>), DeviceError> {
    let (mut tensors, mut bad) = (0, Vec::new());
    for op in &plan.train {
        let Action::Update { shard, range, gradient, master, .. } = &op.action else { continue };
        if !plan.slots[master.slot].holds.as_ref().is_some_and(|holding| holding.primary) {
            continue;
        }
        let values = &memory.floats(gradient.slot)?[gradient.range()];
        for param in &schedule.shards.shards[*shard].params {
            let (start, end) = (param.offset.max(range.start), (param.offset + param.len()).min(range.end));
            if start < end {
                tensors += 1;
                if values[start - range.start..end - range.start].iter().any(|value| !value.is_finite()) {
                    bad.push((*shard, param.name.clone()));
                }
            }
        }
    }
    Ok((tensors, bad))
}

/// Values of a rank's masters and moments, on their way from a file.
pub struct Incoming {
    /// One entry a run of parameters: weights, first and second moment.
    buffers: Vec<[Vec<f32>; 3]>,
}

impl Incoming {
    /// Buffers for everything a rank keeps; `moments` where training continues.
    pub fn new(plan: &RankPlan, moments: bool) -> Self {
        let zeros = |slot: SlotId, wanted: bool| if wanted { vec![0.0; plan.slots[slot].elems] } else { Vec::new() };
        let buffers =
            owned(plan).map(|o| [zeros(o.slots[0], true), zeros(o.slots[1], moments), zeros(o.slots[2], moments)]);
        Incoming { buffers: buffers.collect() }
    }

    /// Where each tensor is to be read to.
    pub fn pieces<'a>(&'a mut self, schedule: &'a Schedule, plan: &'a RankPlan) -> Vec<PieceMut<'a>> {
        let runs = owned(plan).zip(&mut self.buffers);
        runs.flat_map(|(run, [weights, moment1, moment2])| {
            let place = plan.slots[run.slots[0]].holds.as_ref().expect("masters hold parameters");
            let moments = (!moment1.is_empty()).then_some([&mut moment1[..], &mut moment2[..]]);
            pieces_mut(&schedule.shards.shards[place.shard], place.range.clone(), weights, moments)
        })
        .collect()
    }

    /// Moves everything into the rank's memory.
    pub fn store(self, plan: &RankPlan, memory: &Memory) -> Result<(), DeviceError> {
        for (run, values) in owned(plan).zip(self.buffers) {
            for (slot, values) in run.slots.into_iter().zip(values).filter(|(_, values)| !values.is_empty()) {
                memory.upload(memory.slot(slot), &values)?;
            }
        }
        Ok(())
    }
}

/// What a rank writes into a checkpoint: of what it keeps, everything of which it has the primary copy.
pub struct Outgoing<'a> {
    /// One entry a run of parameters: its shard and elements, weights, first and second moment.
    runs: Vec<(&'a Holding, [Cow<'a, [f32]>; 3])>,
}

impl<'a> Outgoing<'a> {
    /// Copies what the host cannot read where it lies.
    pub fn new(plan: &'a RankPlan, memory: &'a Memory) -> Result<Self, DeviceError> {
        let place = |run: &Owned| plan.slots[run.slots[0]].holds.as_ref().expect("masters hold parameters");
        let runs = owned(plan).map(|run| (place(&run), run)).filter(|(place, _)| place.primary).map(|(place, run)| {
            let [weights, moment1, moment2] = run.slots.map(|slot| memory.floats(slot));
            Ok((place, [weights?, moment1?, moment2?]))
        });
        Ok(Outgoing { runs: runs.collect::<Result<_, _>>()? })
    }

    /// The tensors, or the parts of tensors.
    pub fn pieces<'b>(&'b self, schedule: &'b Schedule) -> Vec<Piece<'b>> {
        let pieces = |(place, [weights, moment1, moment2]): &'b (&Holding, [Cow<[f32]>; 3])| {
            pieces(&schedule.shards.shards[place.shard], place.range.clone(), weights, moment1, moment2)
        };
        self.runs.iter().flat_map(pieces).collect()
    }
}
