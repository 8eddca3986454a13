//! What the ops of one rank need and do.

use crate::cluster::Rank;
use crate::model::{Dtype, ShardId, Unit};
use crate::plan::{Action, OpId, Region, stats};

use super::super::matching::Site;
use super::super::value::{Piece, State, Sum, Value};
use super::Replay;
use super::transfer::{align, plus, shift};

impl Replay<'_, '_> {
    pub(super) fn compute(&mut self, site: Site) {
        let (rank, op): (Rank, OpId) = site;
        let plans = self.check.plans;
        let action = &self.phase.ops(&plans[rank])[op].action;
        let layers = self.check.schedule.job.shape.layers;
        let half = self.check.schedule.job.batch.micro_tokens();
        match action {
            Action::Load { work, tokens } => self.set(rank, *tokens, 0, Value::Tokens(work.micro)),
            Action::Forward { unit, work, weights, input, output, saved, workspace } => {
                let micro = work.micro;
                self.weights(site, *unit, *weights);
                let layer = match unit {
                    Unit::Block(i) => {
                        self.expect(site, "input", *input, 0, &Value::Activation(micro, *i));
                        i + 1
                    }
                    _ => {
                        self.expect(site, "input", *input, 0, &Value::Tokens(micro));
                        0
                    }
                };
                self.set(rank, *output, 0, Value::Activation(micro, layer));
                self.keep(rank, *unit, micro, *saved);
                self.scratch(rank, *workspace);
                self.runs.entry((micro, *unit)).or_default().0 += 1;
            }
            Action::Recompute { unit, work, weights, input, saved, workspace } => {
                self.weights(site, *unit, *weights);
                if let Unit::Block(i) = unit {
                    self.expect(site, "input", *input, 0, &Value::Activation(work.micro, *i));
                }
                self.keep(rank, *unit, work.micro, Some(*saved));
                self.scratch(rank, *workspace);
            }
            Action::HeadLoss { work, weights, input, targets, gradient, loss, workspace } => {
                let micro = work.micro;
                self.weights(site, Unit::Head, *weights);
                self.expect(site, "input", *input, 0, &Value::Activation(micro, layers));
                self.expect(site, "targets", *targets, half, &Value::Tokens(micro));
                let runs = self.runs.entry((micro, Unit::Head)).or_default();
                runs.0 += 1;
                if let Some(into) = gradient {
                    runs.1 += 1;
                    self.set(rank, into.dx, 0, Value::Dx(micro, layers));
                    self.gradient(site, Unit::Head, micro, into.weights, into.accumulate);
                }
                let term = Sum::term(self.version, (micro, Unit::Head), self.explain);
                self.statistic(site, *loss, stats::LOSS, Value::Loss(term));
                self.scratch(rank, *workspace);
            }
            Action::Backward { unit, work, weights, input, saved, dx, gradient, accumulate, workspace } => {
                let micro = work.micro;
                if let Some(weights) = weights {
                    self.weights(site, *unit, *weights);
                }
                if let Unit::Block(i) = unit {
                    self.expect(site, "input", *input, 0, &Value::Activation(micro, *i));
                    if let Some(saved) = saved {
                        self.expect(site, "saved state", *saved, 0, &Value::Saved(micro, *i));
                    }
                    self.expect(site, "dx", *dx, 0, &Value::Dx(micro, i + 1));
                    self.set(rank, *dx, 0, Value::Dx(micro, *i));
                } else {
                    self.expect(site, "input", *input, 0, &Value::Tokens(micro));
                    self.expect(site, "dx", *dx, 0, &Value::Dx(micro, 0));
                }
                self.gradient(site, *unit, micro, *gradient, *accumulate);
                self.scratch(rank, *workspace);
                self.runs.entry((micro, *unit)).or_default().1 += 1;
            }
            Action::BackwardInput { unit, work, weights, input, saved, dx, pending, workspace } => {
                let (Unit::Block(i), micro) = (*unit, work.micro) else { unreachable!("structure asks for a block") };
                self.weights(site, *unit, *weights);
                self.expect(site, "input", *input, 0, &Value::Activation(micro, i));
                self.expect(site, "saved state", *saved, 0, &Value::Saved(micro, i));
                self.expect(site, "dx", *dx, 0, &Value::Dx(micro, i + 1));
                self.set(rank, *dx, 0, Value::Dx(micro, i));
                self.set(rank, *pending, 0, Value::Pending(micro, i));
                self.scratch(rank, *workspace);
            }
            Action::BackwardWeight { unit, work, pending, gradient, accumulate } => {
                let (Unit::Block(i), micro) = (*unit, work.micro) else { unreachable!("structure asks for a block") };
                self.expect(site, "pending state", *pending, 0, &Value::Pending(micro, i));
                self.gradient(site, *unit, micro, *gradient, *accumulate);
                self.runs.entry((micro, *unit)).or_default().1 += 1;
            }
            Action::Clear { dst } => self.set(rank, *dst, 0, Value::Zero),
            Action::Cast { src, dst } => {
                let mut pieces = shift(self.read(rank, *src), src.start, dst.start);
                for piece in &mut pieces {
                    self.not_junk(site, *src, &piece.value);
                    if let Value::State(state @ State::Master, ..) = &mut piece.value
                        && plans[rank].slots[dst.slot].dtype != Dtype::F32
                    {
                        *state = State::Rounded;
                    }
                }
                self.write(rank, *dst, pieces);
            }
            Action::Accumulate { src, dst } => {
                let (mine, theirs) = (self.read(rank, *dst), self.read(rank, *src));
                let sum = self.sum(site, *dst, mine, shift(theirs, src.start, dst.start));
                self.write(rank, *dst, sum);
            }
            Action::NormPartial { gradient, stats } => {
                let mut squares = Sum::default();
                for piece in self.whole_gradient(site, *gradient, None) {
                    if let Value::Gradient(shard, _) = piece.value {
                        let range = piece.origin..piece.origin + piece.range.len();
                        squares.add(&Sum::elements(self.version, shard, &range));
                    }
                }
                self.statistic(site, *stats, stats::SQUARES, Value::Squares(squares));
            }
            Action::Update { shard, range, gradient, step, stats: sums, master, moment1, moment2, home } => {
                self.whole_gradient(site, *gradient, Some((*shard, range.start)));
                let squares = self.squares();
                self.expect(site, "step", *step, 0, &Value::Step(self.version));
                self.expect(site, "statistics", sums.sub(stats::SQUARES..stats::SQUARES + 1), 0, &squares);
                let states = [(State::Master, master), (State::Moment1, moment1), (State::Moment2, moment2)];
                for (state, region) in states {
                    let value = |version| Value::State(state, *shard, version);
                    self.expect(site, "state", *region, range.start, &value(self.version));
                    self.set(rank, *region, range.start, value(self.version + 1));
                }
                if let Some(home) = home {
                    let exact = plans[rank].slots[home.slot].dtype == Dtype::F32;
                    let state = if exact { State::Master } else { State::Rounded };
                    self.set(rank, *home, range.start, Value::State(state, *shard, self.version + 1));
                }
            }
            Action::Exchange { .. } | Action::Collective(_) => unreachable!("communication is no op of one rank"),
        }
    }

    /// Weights must be the unit's, of the version of this iteration.
    fn weights(&mut self, site: Site, unit: Unit, region: Region) {
        let place = self.check.schedule.shards.place(unit).clone();
        let exact = self.check.schedule.job.dtype == Dtype::F32;
        let state = if exact { State::Master } else { State::Rounded };
        self.expect(site, "weights", region, place.range.start, &Value::State(state, place.shard, self.version));
    }

    fn keep(&mut self, rank: Rank, unit: Unit, micro: usize, saved: Option<Region>) {
        if let (Some(saved), Unit::Block(i)) = (saved, unit) {
            self.set(rank, saved, 0, Value::Saved(micro, i));
        }
    }

    fn scratch(&mut self, rank: Rank, workspace: Option<Region>) {
        if let Some(region) = workspace {
            self.set(rank, region, 0, Value::Junk);
        }
    }

    /// A unit's gradient of one micro-batch arrives in a region.
    fn gradient(&mut self, site: Site, unit: Unit, micro: usize, region: Region, accumulate: bool) {
        let place = self.check.schedule.shards.place(unit).clone();
        let term = Value::Gradient(place.shard, Sum::term(self.version, (micro, unit), self.explain));
        let new = vec![Piece { range: region.range(), origin: place.range.start, value: term }];
        let pieces = if accumulate { self.sum(site, region, self.read(site.0, region), new) } else { new };
        self.write(site.0, region, pieces);
    }

    /// Adds to one element of the statistics.
    fn statistic(&mut self, site: Site, region: Region, element: usize, value: Value) {
        if Some(region.slot) != self.stats_slot(site.0) || region.start != element {
            let place = self.check.region(site.0, region);
            self.complain(site, &format!("adds to {place} instead of element {element} of \"stats\""));
            return;
        }
        let new = vec![Piece { range: region.range(), origin: 0, value }];
        let sum = self.sum(site, region, self.read(site.0, region), new);
        self.write(site.0, region, sum);
    }

    /// A gradient that is used must hold every contribution exactly once (and be of this shard, from this element on).
    /// Returns what there should be.
    fn whole_gradient(&mut self, site: Site, region: Region, wanted: Option<(ShardId, usize)>) -> Vec<Piece> {
        let mut out = Vec::new();
        for piece in self.read(site.0, region) {
            let place = || self.check.region(site.0, Region::new(region.slot, piece.range.clone()));
            let at = wanted.map(|(shard, origin)| (shard, origin + (piece.range.start - region.start)));
            let Value::Gradient(shard, found) = &piece.value else {
                let place = place();
                self.complain(site, &format!("its gradient {place} should hold a gradient, found {}", piece.value));
                continue;
            };
            if at.is_some_and(|at| at != (*shard, piece.origin)) {
                let (shard, origin) = at.expect("just looked at");
                let text = format!(
                    "its gradient {} should hold the gradient of shard {shard} from element {origin} on, found {} from \
                     element {} on",
                    place(),
                    piece.value,
                    piece.origin
                );
                self.complain(site, &text);
                continue;
            }
            let range = piece.origin..piece.origin + piece.range.len();
            let parts: Vec<_> = self.whole[*shard]
                .iter()
                .filter(|(r, _)| r.start < range.end && range.start < r.end)
                .cloned()
                .collect();
            if let Some((_, whole)) = parts.iter().find(|(_, whole)| whole != found) {
                let difference = found.differs(whole);
                let place = place();
                self.complain(site, &format!("its gradient {place} of shard {shard} holds {difference}"));
            }
            out.push(piece);
        }
        out
    }

    pub(super) fn not_junk(&mut self, site: Site, region: Region, value: &Value) {
        if *value == Value::Junk {
            let place = self.check.region(site.0, region);
            self.complain(site, &format!("reads {place}, which holds {value}"));
        }
    }

    /// The sum of two lists of pieces over the same range.
    pub(super) fn sum(&mut self, site: Site, region: Region, mine: Vec<Piece>, theirs: Vec<Piece>) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut reported = false;
        for (mine, theirs) in align(&mine, &theirs) {
            match plus(&mine, &theirs) {
                Some(piece) => out.push(piece),
                None => {
                    if !std::mem::replace(&mut reported, true) {
                        let place = self.check.region(site.0, Region::new(region.slot, mine.range.clone()));
                        let text = format!(
                            "adds {} (from element {}) to {place}, which holds {} (from element {})",
                            theirs.value, theirs.origin, mine.value, mine.origin
                        );
                        self.complain(site, &text);
                    }
                    // As if there had been nothing.
                    out.push(theirs);
                }
            }
        }
        out
    }
}
