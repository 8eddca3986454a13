//! What messages and collectives carry.

use std::ops::Range;

use crate::cluster::Rank;
use crate::plan::collective::{Collective, piece};
use crate::plan::{Action, Call, Payload, Region};

use super::super::Phase;
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
        let calls: Vec<(Site, &Call)> = sites
            .iter()
            .map(|&site| match &self.phase.ops(&plans[site.0])[site.1].action {
                Action::Collective(call) => (site, call),
                _ => unreachable!("members of a collective call it"),
            })
            .collect();
        let (what, len, members) = (calls[0].1.what, calls[0].1.region.len, calls.len());
        let own = |index: usize| piece(len, members, index);
        // The result, as if its region began at element 0.
        let result = match what {
            Collective::Broadcast(root) => {
                let &(site, call) = calls.iter().find(|(site, _)| site.0 == root).expect("the root is a member");
                self.contribution(site, call, 0..len)
            }
            Collective::AllGather => {
                let parts = calls.iter().enumerate();
                parts.flat_map(|(index, &(site, call))| self.contribution(site, call, own(index))).collect()
            }
            Collective::Reduce(_) | Collective::AllReduce | Collective::ReduceScatter => {
                let mut sum: Option<Vec<Piece>> = None;
                for &(site, call) in &calls {
                    let mine = self.contribution(site, call, 0..len);
                    sum = Some(match sum {
                        None => mine,
                        Some(so_far) => self.sum(site, call.region, mine, so_far),
                    });
                }
                sum.expect("a collective has members")
            }
        };
        for (index, (site, call)) in calls.into_iter().enumerate() {
            let gets = match what {
                Collective::Reduce(root) if root != site.0 => 0..0,
                Collective::ReduceScatter => own(index),
                _ => 0..len,
            };
            let promised = result.iter().filter_map(|piece| piece.cut(&gets)).collect();
            if gets.len() < len {
                self.junk(site.0, call.region);
            }
            self.write(site.0, call.region.sub(gets), shift(promised, 0, call.region.start));
            if let Some(scratch) = call.scratch {
                self.junk(site.0, scratch);
            }
        }
    }

    /// What a member brings to a collective from a part of its region, as if the region began at element 0.
    fn contribution(&mut self, site: Site, call: &Call, part: Range<usize>) -> Vec<Piece> {
        let payload = match &call.payload {
            Payload::Weights(shard, all) => Payload::Weights(*shard, all.start + part.start..all.start + part.end),
            Payload::Gradient(shard, all) => Payload::Gradient(*shard, all.start + part.start..all.start + part.end),
            other => other.clone(),
        };
        let region = call.region.sub(part);
        self.payload(site, region, &payload);
        shift(self.read(site.0, region), call.region.start, 0)
    }

    fn junk(&mut self, rank: Rank, region: Region) {
        self.set(rank, region, 0, Value::Junk);
    }

    /// What leaves a rank must be what the op says.
    fn payload(&mut self, site: Site, region: Region, payload: &Payload) {
        let version = self.version;
        // Updated weights may be sent too, to whoever keeps a copy: that they are not used too early, and that copies are
        // of one version at last, is looked at there.
        let current = |v| v == version || (self.phase == Phase::Train && v == version + 1);
        for piece in self.read(site.0, region) {
            let fits = match (payload, &piece.value) {
                (Payload::Weights(shard, range), Value::State(State::Master | State::Rounded, found, v)) => {
                    let at = range.start + (piece.range.start - region.start);
                    found == shard && current(*v) && range.len() == region.len && piece.origin == at
                }
                (Payload::Gradient(shard, range), Value::Gradient(found, _)) => {
                    found == shard && piece.origin == range.start + (piece.range.start - region.start)
                }
                (Payload::Gradient(..), Value::Zero) => true,
                (Payload::Activation(work, layer), Value::Activation(micro, found)) => {
                    (*micro, found) == (work.micro, layer) && piece.origin == piece.range.start - region.start
                }
                (Payload::Dx(work, layer), Value::Dx(micro, found)) => {
                    (*micro, found) == (work.micro, layer) && piece.origin == piece.range.start - region.start
                }
                (Payload::Scalars, Value::Loss(_) | Value::Squares(_) | Value::Zero) => true,
                _ => false,
            };
            if !fits {
                let place = self.check.region(site.0, Region::new(region.slot, piece.range.clone()));
                let wanted = match payload {
                    Payload::Weights(..) => format!("{payload} version {version}"),
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
