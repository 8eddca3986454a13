//! Every op alone: its regions exist, have the sizes and types that its work needs, and it waits for earlier ops only.

use std::ops::Range;

use crate::cluster::Rank;
use crate::model::{Dtype, ShardId, Unit, footprint};
use crate::plan::collective::{Collective, scratch as scratch_of, steps};
use crate::plan::{Action, Lane, OpId, Region, Segment, stats, step};

use super::{Check, Phase, Rule};

/// What a region must be: its part in the op, the region, its type and number of elements.
type Need = (&'static str, Region, Dtype, Size);

enum Size {
    Exactly(usize),
    AtLeast(usize),
}

impl Check<'_> {
    /// Looks at everything that needs no other op.
    pub(super) fn structure(&mut self) {
        let ranks = self.schedule.job.groups.ranks();
        if self.plans.len() != ranks || self.plans.iter().enumerate().any(|(rank, plan)| plan.rank != rank) {
            self.report(Rule::Structure, format!("there must be one plan for each of {ranks} ranks, in order"));
            return;
        }
        self.splits();
        self.scalars();
        self.homes();
        for rank in 0..ranks {
            for phase in Phase::ALL {
                for op in 0..phase.ops(&self.plans[rank]).len() {
                    if let Err(text) = self.op(phase, rank, op) {
                        let text = format!("{}: {text}", self.at(phase, rank, op));
                        self.report(Rule::Structure, text);
                    }
                }
            }
        }
    }

    fn splits(&mut self) {
        let ranks = self.plans.len();
        for split in &self.schedule.splits {
            let mut seen = vec![false; ranks];
            let fresh = split.sets.iter().flatten().all(|&r| r < ranks && !std::mem::replace(&mut seen[r], true));
            if !fresh || !split.sets.iter().all(|set| set.is_sorted()) {
                let text = format!("communicator \"{}\": its sets must be disjoint, of ascending ranks", split.name);
                self.report(Rule::Structure, text);
            }
        }
    }

    /// What the training loop fills, reads and looks up by name is there once.
    fn scalars(&mut self) {
        for (rank, plan) in self.plans.iter().enumerate() {
            for (name, segment) in
                [("step", Segment::Scalars), ("stats", Segment::Scalars), ("tokens", Segment::Tokens)]
            {
                let count = plan.slots.iter().filter(|slot| slot.segment == segment && slot.name == name).count();
                if count != 1 {
                    let text = format!("rank {rank} has {count} slots \"{name}\" of segment {segment:?}, not 1");
                    self.report(Rule::Structure, text);
                }
            }
        }
    }

    /// Masters have their moments, and of every element of every shard there is exactly one primary master. That copies
    /// agree with it is for the replay to show.
    fn homes(&mut self) {
        let plans = self.plans;
        let mut primaries: Vec<(ShardId, Range<usize>, Rank)> = Vec::new();
        for (rank, plan) in plans.iter().enumerate() {
            for slot in &plan.slots {
                let Some(holds) = &slot.holds else { continue };
                let len = self.schedule.shards.shards.get(holds.shard).map_or(0, |shard| shard.len);
                if holds.range.len() != slot.elems || holds.range.end > len {
                    let text = format!(
                        "rank {rank}: \"{}\" of {} elements holds {:?} of shard {}, which has {len}",
                        slot.name, slot.elems, holds.range, holds.shard
                    );
                    self.report(Rule::Structure, text);
                }
                if slot.segment != Segment::Master {
                    continue;
                }
                for segment in [Segment::Master, Segment::Moment1, Segment::Moment2] {
                    let twins = plan.slots.iter().filter(|s| s.segment == segment && s.holds == slot.holds).count();
                    if twins != 1 {
                        let text = format!(
                            "rank {rank} has {twins} slots of segment {segment:?} that hold what \"{}\" holds, not 1",
                            slot.name
                        );
                        self.report(Rule::Structure, text);
                    }
                }
                if holds.primary {
                    primaries.push((holds.shard, holds.range.clone(), rank));
                }
            }
        }
        primaries.sort_by_key(|(shard, range, _)| (*shard, range.start));
        let mut primaries = primaries.into_iter().peekable();
        for (id, shard) in self.schedule.shards.shards.iter().enumerate() {
            let mut end = 0;
            while let Some((_, range, rank)) = primaries.next_if(|(shard, ..)| *shard == id) {
                if range.start != end {
                    let text = format!(
                        "rank {rank} has the primary master of shard {id} from element {}, but the ones before end at {end}",
                        range.start
                    );
                    self.report(Rule::Structure, text);
                }
                end = range.end;
            }
            if end != shard.len {
                let text = format!("the primary masters of shard {id} end at element {end} of {}", shard.len);
                self.report(Rule::Structure, text);
            }
        }
    }

    fn op(&self, phase: Phase, rank: Rank, id: OpId) -> Result<(), String> {
        let plan = &self.plans[rank];
        let op = &phase.ops(plan)[id];
        if let Some(wait) = op.waits.iter().find(|&&wait| wait >= id) {
            return Err(format!("waits for op {wait}, which is not issued earlier"));
        }
        if let Lane::Comm(lane) = op.lane
            && lane >= plan.comm_lanes
        {
            return Err(format!("runs on communication lane {lane} of {}", plan.comm_lanes));
        }
        let access = op.action.access(rank);
        for region in access.reads.iter().chain(&access.writes) {
            let elems = plan.slots.get(region.slot).map(|slot| slot.elems);
            if elems.is_none_or(|elems| region.range().end > elems) {
                return Err(format!("{} lies outside its slot", self.region(rank, *region)));
            }
        }
        if op.action.comm().is_some() {
            self.communication(rank, op.lane, &op.action)?;
        }
        for (what, region, dtype, size) in self.needs(rank, &op.action)? {
            let found = plan.slots[region.slot].dtype;
            let (fits, wanted) = match size {
                Size::Exactly(len) => (region.len == len, format!("{len}")),
                Size::AtLeast(len) => (region.len >= len, format!("at least {len}")),
            };
            if !fits || found != dtype {
                return Err(format!(
                    "its {what} is {} of {} {} elements, but must have {wanted} {} elements",
                    self.region(rank, region),
                    region.len,
                    found.name(),
                    dtype.name()
                ));
            }
        }
        Ok(())
    }

    /// Communicators, members and algorithms.
    fn communication(&self, rank: Rank, lane: Lane, action: &Action) -> Result<(), String> {
        let comm = action.comm().expect("called for communication");
        let splits = &self.schedule.splits;
        let split = splits.get(comm).ok_or_else(|| format!("communicator {comm} of {}", splits.len()))?;
        let set = split.set_of(rank).ok_or_else(|| format!("is no member of \"{}\"", split.name))?;
        if lane == Lane::Compute {
            return Err("communicates on the compute lane".into());
        }
        let member = |what: &str, other: Rank| {
            let inside = set.contains(&other);
            if inside { Ok(()) } else { Err(format!("{what} rank {other} is not in its set of \"{}\"", split.name)) }
        };
        let (what, algorithm) = match action {
            Action::Exchange { sends, recvs, .. } => {
                for message in sends.iter().chain(recvs) {
                    member("peer", message.peer)?;
                    if message.peer == rank {
                        return Err("sends to itself or receives from itself".into());
                    }
                }
                return Ok(());
            }
            Action::Collective(call) => (call.what, call.algorithm),
            _ => unreachable!("has a communicator"),
        };
        if let Collective::Broadcast(root) | Collective::Reduce(root) = what {
            member("root", root)?;
        }
        let known = steps(what, algorithm, set, rank, 0).is_some();
        if known { Ok(()) } else { Err(format!("there is no {algorithm:?} for {what:?}")) }
    }

    /// What the regions of an op must be, as far as it does not depend on other ranks.
    fn needs(&self, rank: Rank, action: &Action) -> Result<Vec<Need>, String> {
        use Size::{AtLeast, Exactly};
        let job = &self.schedule.job;
        let shards = &self.schedule.shards;
        let tokens = job.batch.micro_tokens();
        let wide = Exactly(tokens * job.shape.dim);
        let wide_too = || Exactly(tokens * job.shape.dim);
        let dtype_of = |region: &Region| self.plans[rank].slots[region.slot].dtype;
        let foot = |unit| footprint(&job.shape, unit, job.dtype, job.recompute, job.batch.micro, job.batch.seq);
        let check_unit = |unit: Unit| match unit {
            Unit::Block(i) if i >= job.shape.layers => Err(format!("the model has only {} blocks", job.shape.layers)),
            _ => Ok(shards.place(unit).range.len()),
        };
        let scratch = |unit: Unit, workspace: &Option<Region>| -> Result<Option<Need>, String> {
            let need = foot(unit).workspace;
            match workspace {
                None if need > 0 => Err(format!("has no workspace, but needs {need} bytes")),
                None => Ok(None),
                Some(region) => Ok(Some(("workspace", *region, Dtype::Byte, AtLeast(need)))),
            }
        };
        let weights = |unit, region: &Region| -> Result<Need, String> {
            Ok(("weights", *region, job.dtype, Exactly(check_unit(unit)?)))
        };
        let gradient = |unit, region: &Region| -> Result<Need, String> {
            Ok(("gradient", *region, Dtype::F32, Exactly(check_unit(unit)?)))
        };
        let saved = |unit, region: &Region| ("saved", *region, Dtype::Byte, AtLeast(foot(unit).saved));
        let block = |unit: Unit| match unit {
            Unit::Block(_) => Ok(unit),
            other => Err(format!("the backward of {other} is not split")),
        };
        let mut needs = Vec::new();
        match action {
            Action::Load { tokens: region, .. } => needs.push(("tokens", *region, Dtype::I32, Exactly(2 * tokens))),
            Action::Forward { unit, weights: w, input, output, saved: keep, workspace, .. } => {
                needs.push(weights(*unit, w)?);
                needs.push(match unit {
                    Unit::Embed => ("input", *input, Dtype::I32, Exactly(tokens)),
                    Unit::Block(_) => ("input", *input, job.dtype, wide),
                    Unit::Head => return Err("the head's forward is HeadLoss".into()),
                });
                needs.push(("output", *output, job.dtype, wide_too()));
                needs.extend(keep.as_ref().map(|region| saved(*unit, region)));
                needs.extend(scratch(*unit, workspace)?);
            }
            Action::Recompute { unit, weights: w, input, saved: keep, workspace, .. } => {
                needs.push(weights(*unit, w)?);
                needs.push(("input", *input, job.dtype, wide));
                needs.push(saved(*unit, keep));
                needs.extend(scratch(*unit, workspace)?);
            }
            Action::HeadLoss { weights: w, input, targets, gradient: into, loss, workspace, .. } => {
                needs.push(weights(Unit::Head, w)?);
                needs.push(("input", *input, job.dtype, wide));
                needs.push(("targets", *targets, Dtype::I32, Exactly(tokens)));
                needs.push(("loss", *loss, Dtype::F64, Exactly(1)));
                if let Some(into) = into {
                    needs.push(("dx", into.dx, job.dtype, wide_too()));
                    needs.push(gradient(Unit::Head, &into.weights)?);
                }
                needs.extend(scratch(Unit::Head, workspace)?);
            }
            Action::Backward { unit, weights: w, input, saved: kept, dx, gradient: into, workspace, .. } => {
                needs.push(gradient(*unit, into)?);
                needs.push(("dx", *dx, job.dtype, wide));
                needs.extend(scratch(*unit, workspace)?);
                match unit {
                    Unit::Embed => needs.push(("input", *input, Dtype::I32, Exactly(tokens))),
                    Unit::Block(_) => {
                        needs.push(("input", *input, job.dtype, wide_too()));
                        needs.push(weights(*unit, w.as_ref().ok_or("a block's backward needs weights")?)?);
                        match kept {
                            Some(region) => needs.push(saved(*unit, region)),
                            None if foot(*unit).saved > 0 => return Err("has nothing saved to read".into()),
                            None => {}
                        }
                    }
                    Unit::Head => return Err("the head's backward is part of HeadLoss".into()),
                }
            }
            Action::BackwardInput { unit, weights: w, input, saved: kept, dx, pending, workspace, .. } => {
                needs.push(weights(block(*unit)?, w)?);
                needs.push(("input", *input, job.dtype, wide));
                needs.push(saved(*unit, kept));
                needs.push(("dx", *dx, job.dtype, wide_too()));
                needs.push(("pending", *pending, Dtype::Byte, AtLeast(foot(*unit).pending)));
                needs.extend(scratch(*unit, workspace)?);
            }
            Action::BackwardWeight { unit, pending, gradient: into, .. } => {
                needs.push(gradient(block(*unit)?, into)?);
                needs.push(("pending", *pending, Dtype::Byte, AtLeast(foot(*unit).pending)));
            }
            Action::Clear { .. } => {}
            Action::Cast { src, dst } => {
                if let Some(bad) = [src, dst].into_iter().find(|r| !matches!(dtype_of(r), Dtype::F32 | Dtype::Bf16)) {
                    return Err(format!("casts {}, which is {}", self.region(rank, *bad), dtype_of(bad).name()));
                }
                needs.push(("source", *src, dtype_of(src), Exactly(dst.len)));
            }
            Action::Accumulate { src, dst } => {
                needs.push(("source", *src, dtype_of(src), Exactly(dst.len)));
                needs.push(("sum", *dst, Dtype::F32, Exactly(src.len)));
            }
            Action::NormPartial { gradient, stats } => {
                needs.push(("gradient", *gradient, Dtype::F32, Exactly(gradient.len)));
                needs.push(("statistic", *stats, Dtype::F64, Exactly(1)));
            }
            Action::Update { shard, range, gradient, step: scalars, stats: sums, master, moment1, moment2, home } => {
                let len = shards.shards.get(*shard).map_or(0, |shard| shard.len);
                if range.end > len {
                    return Err(format!("shard {shard} has {len} elements"));
                }
                for (what, region) in
                    [("gradient", gradient), ("master", master), ("first moment", moment1), ("second moment", moment2)]
                {
                    needs.push((what, *region, Dtype::F32, Exactly(range.len())));
                }
                needs.extend(home.map(|region| ("home", region, job.dtype, Exactly(range.len()))));
                needs.push(("step", *scalars, Dtype::F64, Exactly(step::LEN)));
                needs.push(("statistics", *sums, Dtype::F64, Exactly(stats::LEN)));
            }
            Action::Exchange { .. } => {}
            Action::Collective(call) => {
                let members = self.schedule.splits[call.comm].set_of(rank).map_or(1, <[Rank]>::len);
                match (scratch_of(call.what, call.algorithm, call.region.len, members), call.scratch) {
                    (Some(_), None) => return Err("has no scratch to receive what it adds".into()),
                    (Some(len), Some(region)) => {
                        needs.push(("scratch", region, dtype_of(&call.region), AtLeast(len)));
                    }
                    (None, Some(_)) => return Err("has scratch that nothing uses".into()),
                    (None, None) => {}
                }
            }
        }
        Ok(needs)
    }
}
