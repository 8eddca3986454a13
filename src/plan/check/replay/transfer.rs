//! What messages and collectives carry.

use crate::cluster::Rank;
use crate::plan::{Action, Payload, Region};

use super::super::matching::{Pair, Site};
use super::super::value::{Piece, State, Value};
use super::Replay;

impl Replay<'_, '_> {
    pub(super) fn message(&mut self, pair: &Pair) {
        let plans = self.check.plans;
        let end = |((rank, op), index): (Site, usize), send: bool| match &self.phase.ops(&plans[rank])[op].action {
            Action::Exchange { sends, recvs, .. } => {
                if send {
                    &sends[index]
                } else {
                    &recvs[index]
                }
            }
            _ => unreachable!("messages belong to exchanges"),
        };
        let (from, to) = (end(pair.from, true), end(pair.to, false));
        self.payload(pair.from.0, from.region, &from.payload);
        let pieces = shift(self.read(pair.from.0.0, from.region), from.region.start, to.region.start);
        self.write(pair.to.0.0, to.region, pieces);
    }

    pub(super) fn call(&mut self, sites: &[Site]) {
        let plans = self.check.plans;
        let action = |(rank, op): Site| &self.phase.ops(&plans[rank])[op].action;
        let actions: Vec<(Site, &Action)> = sites.iter().map(|&site| (site, action(site))).collect();
        if let Action::Broadcast { root, .. } = actions[0].1 {
            let mut source = None;
            for &(site, action) in &actions {
                if let (true, Action::Broadcast { region, payload, .. }) = (site.0 == *root, action) {
                    self.payload(site, *region, payload);
                    source = Some((self.read(*root, *region), region.start));
                }
            }
            let (pieces, start) = source.expect("the root is a member");
            for (site, action) in actions {
                if let (true, Action::Broadcast { region, .. }) = (site.0 != *root, action) {
                    self.write(site.0, *region, shift(pieces.clone(), start, region.start));
                }
            }
            return;
        }
        // A sum: onto the root, or to all.
        let mut sum: Option<(Vec<Piece>, usize)> = None;
        for &(site, action) in &actions {
            let (Action::Reduce { region, payload, .. } | Action::AllReduce { region, payload, .. }) = action else {
                unreachable!("members of a collective call the same")
            };
            self.payload(site, *region, payload);
            let mine = self.read(site.0, *region);
            sum = Some(match sum {
                None => (mine, region.start),
                Some((so_far, start)) => {
                    (self.sum(site, *region, mine, shift(so_far, start, region.start)), region.start)
                }
            });
        }
        let (pieces, start) = sum.expect("a collective has members");
        for ((rank, _), action) in actions {
            let (region, scratch, gets) = match action {
                Action::Reduce { region, scratch, root, .. } => (*region, Some(*scratch), rank == *root),
                Action::AllReduce { region, scratch, .. } => (*region, *scratch, true),
                _ => unreachable!("a sum"),
            };
            if gets {
                self.write(rank, region, shift(pieces.clone(), start, region.start));
            } else {
                self.junk(rank, region);
            }
            if let Some(scratch) = scratch {
                self.junk(rank, scratch);
            }
        }
    }

    fn junk(&mut self, rank: Rank, region: Region) {
        self.set(rank, region, 0, Value::Junk);
    }

    /// What leaves a rank must be what the op says.
    fn payload(&mut self, site: Site, region: Region, payload: &Payload) {
        let version = self.version;
        for piece in self.read(site.0, region) {
            let fits = match (payload, &piece.value) {
                (Payload::Weights(shard), Value::State(State::Master | State::Rounded, found, v)) => {
                    let whole = self.check.schedule.shards.shards[*shard].len == region.len;
                    found == shard && *v == version && whole && piece.origin == piece.range.start - region.start
                }
                (Payload::Gradient(shard, range), Value::Gradient(found, _)) => {
                    found == shard && piece.origin == range.start + (piece.range.start - region.start)
                }
                (Payload::Gradient(..), Value::Zero) => true,
                (Payload::Scalars, Value::Loss(_) | Value::Squares(_) | Value::Zero) => true,
                _ => false,
            };
            if !fits {
                let place = self.check.region(site.0, Region::new(region.slot, piece.range.clone()));
                let wanted = match payload {
                    Payload::Weights(shard) => format!("all weights of shard {shard} version {version}"),
                    other => other.to_string(),
                };
                self.complain(site, &format!("sends {wanted} from {place}, which holds {}", piece.value));
                return;
            }
        }
    }
}

/// Pieces of a region that starts at `from`, moved to one that starts at `to`.
pub fn shift(mut pieces: Vec<Piece>, from: usize, to: usize) -> Vec<Piece> {
    for piece in &mut pieces {
        piece.range = piece.range.start - from + to..piece.range.end - from + to;
    }
    pieces
}

/// Two lists of pieces over the same range, cut at each other's ends.
pub fn align(a: &[Piece], b: &[Piece]) -> Vec<(Piece, Piece)> {
    let cuts = |x: &Piece, y: &Piece| {
        let range = x.range.start.max(y.range.start)..x.range.end.min(y.range.end);
        let cut = |piece: &Piece| Piece {
            origin: piece.origin + (range.start - piece.range.start),
            range: range.clone(),
            value: piece.value.clone(),
        };
        (cut(x), cut(y))
    };
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        out.push(cuts(x, y));
        i += usize::from(x.range.end <= y.range.end);
        j += usize::from(y.range.end <= x.range.end);
    }
    out
}

/// The sum of two pieces over the same range, if it means anything.
pub fn plus(a: &Piece, b: &Piece) -> Option<Piece> {
    let value = match (&a.value, &b.value) {
        (Value::Zero, _) if b.value != Value::Junk => return Some(b.clone()),
        (_, Value::Zero) if a.value != Value::Junk => return Some(a.clone()),
        (Value::Gradient(s, x), Value::Gradient(t, y)) if s == t && a.origin == b.origin => {
            let mut sum = x.clone();
            sum.add(y);
            Value::Gradient(*s, sum)
        }
        (Value::Loss(x), Value::Loss(y)) => {
            let mut sum = x.clone();
            sum.add(y);
            Value::Loss(sum)
        }
        (Value::Squares(x), Value::Squares(y)) => {
            let mut sum = x.clone();
            sum.add(y);
            Value::Squares(sum)
        }
        _ => return None,
    };
    Some(Piece { value, ..a.clone() })
}
