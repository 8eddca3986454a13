//! Rule 4: two training iterations and an evaluation, replayed on symbols. Weights carry a version, gradients are sums
//! of contributions (micro-batch, unit), and every op must find exactly what it needs.
//!
//! Between lists only masters, moments and home copies survive: that is what a checkpoint restores. After a defect the
//! replay goes on as if the op had found what it needs, so that one fault is not reported a hundred times.

mod compute;
mod transfer;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cluster::Rank;
use crate::model::{Dtype, ShardId, Unit};
use crate::plan::{Region, Segment, SlotId, stats};

use super::matching::{Matching, Site};
use super::order::Event;
use super::value::{Contents, Piece, State, Sum, Value};
use super::{Check, Phase, Rule};

/// Where a defect is worth reporting no more.
const ENOUGH: usize = 50;

/// A list with what belongs together and an order in which it can happen.
pub type Ordered = (Phase, Matching, Vec<Event>);

impl Check<'_> {
    pub(super) fn replay(&mut self, lists: &[Ordered]) {
        let before = self.defects.len();
        Replay::new(self, false).run(lists);
        if self.defects.len() > before {
            // Once more, with every term kept, to put the defects into words.
            self.defects.truncate(before);
            Replay::new(self, true).run(lists);
        }
    }
}

struct Replay<'c, 'a> {
    check: &'c mut Check<'a>,
    explain: bool,
    phase: Phase,
    /// Updates so far.
    version: u64,
    memory: Vec<Vec<Contents>>,
    /// How often each unit of each micro-batch ran forward and backward.
    runs: BTreeMap<(usize, Unit), (usize, usize)>,
    /// Of each shard: the whole gradient of the present iteration, piece by piece.
    whole: Vec<Vec<(Range<usize>, Sum)>>,
    limit: usize,
}

impl<'c, 'a> Replay<'c, 'a> {
    fn new(check: &'c mut Check<'a>, explain: bool) -> Self {
        let memory = check.plans.iter().map(|plan| {
            let contents = plan.slots.iter().map(|slot| {
                let state = match slot.segment {
                    Segment::Master => Some(State::Master),
                    Segment::Moment1 => Some(State::Moment1),
                    Segment::Moment2 => Some(State::Moment2),
                    _ => None,
                };
                match (state, &slot.holds) {
                    (Some(state), Some(holds)) => {
                        Contents::new(slot.elems, holds.range.start, Value::State(state, holds.shard, 0))
                    }
                    _ => Contents::new(slot.elems, 0, Value::Junk),
                }
            });
            contents.collect()
        });
        let memory = memory.collect();
        let limit = check.defects.len() + ENOUGH;
        let (runs, whole) = (BTreeMap::new(), Vec::new());
        Replay { check, explain, phase: Phase::Prepare, version: 0, memory, runs, whole, limit }
    }

    fn run(&mut self, lists: &[Ordered]) {
        for phase in [Phase::Prepare, Phase::Train, Phase::Train, Phase::Evaluate] {
            if let Some(list) = lists.iter().find(|list| list.0 == phase) {
                self.pass(list);
            }
        }
    }

    fn pass(&mut self, (phase, matching, order): &Ordered) {
        self.phase = *phase;
        self.begin();
        for event in order {
            if self.check.defects.len() >= self.limit {
                return;
            }
            match *event {
                Event::Local(site) => self.compute(site),
                Event::Message(index) => self.message(&matching.pairs[index]),
                Event::Call(index) => self.call(&matching.calls[index]),
            }
        }
        self.end();
    }

    /// What the training loop does before a list, and what it must not count on.
    fn begin(&mut self) {
        self.runs.clear();
        self.whole = (0..self.check.schedule.shards.shards.len()).map(|shard| self.expected(shard)).collect();
        for (rank, plan) in self.check.plans.iter().enumerate() {
            for (id, slot) in plan.slots.iter().enumerate() {
                let value = match (slot.segment, slot.name.as_str()) {
                    (Segment::Master | Segment::Moment1 | Segment::Moment2 | Segment::Home, _) => continue,
                    (Segment::Scalars, "step") => Value::Step(self.version),
                    (Segment::Scalars, "stats") => Value::Zero,
                    _ => Value::Junk,
                };
                self.memory[rank][id] = Contents::new(slot.elems, 0, value);
            }
        }
    }

    /// A shard's whole gradient: from every micro-batch, each unit that uses an element.
    fn expected(&self, shard: ShardId) -> Vec<(Range<usize>, Sum)> {
        let shards = &self.check.schedule.shards;
        let places = || shards.units.iter().filter(|(_, place)| place.shard == shard);
        let mut cuts: Vec<usize> = places().flat_map(|(_, place)| [place.range.start, place.range.end]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let sum = |range: Range<usize>| {
            let mut sum = Sum::default();
            for (unit, _) in places().filter(|(_, p)| p.range.start <= range.start && range.end <= p.range.end) {
                for micro in 0..self.check.schedule.job.batch.micros {
                    sum.add(&Sum::term(self.version, (micro, *unit), self.explain));
                }
            }
            (range, sum)
        };
        cuts.windows(2).map(|cut| sum(cut[0]..cut[1])).collect()
    }

    /// All losses of the global batch.
    fn losses(&self) -> Value {
        let mut sum = Sum::default();
        for micro in 0..self.check.schedule.job.batch.micros {
            sum.add(&Sum::term(self.version, (micro, Unit::Head), self.explain));
        }
        Value::Loss(sum)
    }

    /// The squares of all elements of all gradients.
    fn squares(&self) -> Value {
        let mut sum = Sum::default();
        for (shard, all) in self.check.schedule.shards.shards.iter().enumerate() {
            sum.add(&Sum::elements(self.version, shard, &(0..all.len)));
        }
        Value::Squares(sum)
    }

    /// What a list must leave behind.
    fn end(&mut self) {
        let version = self.version + u64::from(self.phase == Phase::Train);
        let name = self.phase.name();
        for rank in 0..self.memory.len() {
            for (id, slot) in self.check.plans[rank].slots.iter().enumerate() {
                let state = match slot.segment {
                    Segment::Master => State::Master,
                    Segment::Moment1 => State::Moment1,
                    Segment::Moment2 => State::Moment2,
                    Segment::Home if slot.dtype == Dtype::F32 => State::Master,
                    Segment::Home => State::Rounded,
                    _ => continue,
                };
                let Some(holds) = &slot.holds else { continue };
                let wanted = Value::State(state, holds.shard, version);
                self.leaves(rank, Region::new(id, 0..slot.elems), holds.range.start, &wanted);
            }
            if self.phase != Phase::Prepare
                && let Some(slot) = self.stats_slot(rank)
            {
                let (losses, squares) = (self.losses(), self.squares());
                self.leaves(rank, Region::new(slot, stats::LOSS..stats::LOSS + 1), 0, &losses);
                if self.phase == Phase::Train {
                    self.leaves(rank, Region::new(slot, stats::SQUARES..stats::SQUARES + 1), 0, &squares);
                }
            }
        }
        if self.phase != Phase::Prepare {
            let once = (1, usize::from(self.phase == Phase::Train));
            let micros = self.check.schedule.job.batch.micros;
            let units: Vec<Unit> = self.check.schedule.shards.units.iter().map(|(unit, _)| *unit).collect();
            for (micro, unit) in (0..micros).flat_map(|micro| units.iter().map(move |&unit| (micro, unit))) {
                self.runs.entry((micro, unit)).or_default();
            }
            for ((micro, unit), runs) in std::mem::take(&mut self.runs) {
                let expected = if micro < micros { once } else { (0, 0) };
                if runs != expected {
                    let text = format!(
                        "{name}: {unit} of micro-batch {micro} runs {} times forward and {} times backward, not {} and {}",
                        runs.0, runs.1, expected.0, expected.1
                    );
                    self.check.report(Rule::Replay, text);
                }
            }
        }
        self.version = version;
    }

    fn stats_slot(&self, rank: Rank) -> Option<SlotId> {
        let slots = &self.check.plans[rank].slots;
        slots.iter().position(|slot| slot.segment == Segment::Scalars && slot.name == "stats")
    }

    fn read(&self, rank: Rank, region: Region) -> Vec<Piece> {
        self.memory[rank][region.slot].read(&region.range())
    }

    fn write(&mut self, rank: Rank, region: Region, pieces: Vec<Piece>) {
        self.memory[rank][region.slot].write(&region.range(), pieces);
    }

    /// Fills a region with one value whose own elements start at `origin`.
    fn set(&mut self, rank: Rank, region: Region, origin: usize, value: Value) {
        self.write(rank, region, vec![Piece { range: region.range(), origin, value }]);
    }

    /// What is wrong with a region that should hold `wanted` from its element `origin` on.
    fn wrong(&self, rank: Rank, region: Region, origin: usize, wanted: &Value) -> Option<String> {
        self.read(rank, region).into_iter().find_map(|piece| {
            let at = origin + (piece.range.start - region.start);
            if piece.value == *wanted && (piece.origin == at || self.pointlike(wanted)) {
                return None;
            }
            let place = self.check.region(rank, Region::new(region.slot, piece.range.clone()));
            let difference = match (&piece.value, wanted) {
                (found, wanted) if found == wanted => {
                    format!("found it from element {} instead of {at}", piece.origin)
                }
                (Value::Loss(found), Value::Loss(sum)) => format!("found {}", found.differs(sum)),
                (found, _) => format!("found {found}"),
            };
            Some(format!("{place} should hold {wanted}, {difference}"))
        })
    }

    /// Values whose elements are not numbered.
    fn pointlike(&self, value: &Value) -> bool {
        matches!(value, Value::Zero | Value::Loss(_) | Value::Squares(_) | Value::Step(_))
    }

    /// Reports an op that does not find what it needs.
    fn expect(&mut self, site: Site, what: &str, region: Region, origin: usize, wanted: &Value) {
        if let Some(wrong) = self.wrong(site.0, region, origin, wanted) {
            self.complain(site, &format!("its {what} {wrong}"));
        }
    }

    /// Reports a rank that ends a list without what it should have.
    fn leaves(&mut self, rank: Rank, region: Region, origin: usize, wanted: &Value) {
        if let Some(wrong) = self.wrong(rank, region, origin, wanted) {
            let text = format!("rank {rank}, at the end of {}: {wrong}", self.phase.name());
            self.check.report(Rule::Replay, text);
        }
    }

    fn complain(&mut self, site: Site, text: &str) {
        let text = format!("{}: {text}", self.check.at(self.phase, site.0, site.1));
        self.check.report(Rule::Replay, text);
    }
}
