//! How long a plan takes if every op takes a given time and messages none: lanes, waits and messages, nothing else.

use std::collections::BTreeMap;

use tawpipe::cluster::Rank;
use tawpipe::plan::{Action, CommId, Op, OpId, RankPlan};

/// When every rank's ops ran.
pub struct Pace {
    /// Of each rank: start and end of each op.
    pub ops: Vec<Vec<(f64, f64)>>,
}

impl Pace {
    /// When the last op that takes time ends.
    pub fn end(&self) -> f64 {
        self.ops.iter().flatten().filter(|(start, end)| end > start).map(|op| op.1).fold(0.0, f64::max)
    }

    /// The longest time that a rank has no work between its first op that takes time and its last.
    pub fn bubble(&self) -> f64 {
        let idle = |ops: &Vec<(f64, f64)>| {
            let work: Vec<_> = ops.iter().filter(|(start, end)| end > start).collect();
            let busy: f64 = work.iter().map(|(start, end)| end - start).sum();
            let first = work.iter().map(|op| op.0).fold(f64::INFINITY, f64::min);
            work.iter().map(|op| op.1).fold(first, f64::max) - first - busy
        };
        self.ops.iter().map(idle).fold(0.0, f64::max)
    }
}

/// Runs training lists without collectives (they come after all else in a pipeline and are passed over).
pub fn pace(plans: &[RankPlan], time: impl Fn(&Action) -> f64) -> Pace {
    let lists: Vec<&[Op]> = plans.iter().map(|plan| plan.train.as_slice()).collect();
    // The other end of every message: its number on its way.
    let mut partner: BTreeMap<(Rank, OpId), (Rank, OpId)> = BTreeMap::new();
    let mut sends: BTreeMap<(CommId, Rank, Rank), Vec<(Rank, OpId)>> = BTreeMap::new();
    let mut recvs = sends.clone();
    for (rank, list) in lists.iter().enumerate() {
        for (id, op) in list.iter().enumerate() {
            if let Action::Exchange { comm, sends: out, recvs: into } = &op.action {
                assert_eq!(out.len() + into.len(), 1);
                out.iter().for_each(|m| sends.entry((*comm, rank, m.peer)).or_default().push((rank, id)));
                into.iter().for_each(|m| recvs.entry((*comm, m.peer, rank)).or_default().push((rank, id)));
            }
        }
    }
    for (way, from) in &sends {
        for (&from, &to) in from.iter().zip(&recvs[way]) {
            partner.insert(from, to);
            partner.insert(to, from);
        }
    }
    let mut done: Vec<Vec<Option<(f64, f64)>>> = lists.iter().map(|list| vec![None; list.len()]).collect();
    let previous: Vec<Vec<Option<OpId>>> = lists.iter().map(|list| previous_of_lane(list)).collect();
    loop {
        let mut moved = false;
        for rank in 0..lists.len() {
            for id in 0..lists[rank].len() {
                if done[rank][id].is_some() {
                    continue;
                }
                let ready = |(rank, id): (Rank, OpId)| -> Option<f64> {
                    let before = lists[rank][id].waits.iter().chain(&previous[rank][id]);
                    before.map(|&op| done[rank][op].map(|op| op.1)).try_fold(0.0, |a: f64, b| Some(a.max(b?)))
                };
                let Some(mut start) = ready((rank, id)) else { continue };
                let other = partner.get(&(rank, id));
                if let Some(&other) = other {
                    let Some(theirs) = ready(other) else { continue };
                    start = start.max(theirs);
                }
                let end = start + time(&lists[rank][id].action);
                for (rank, id) in std::iter::once((rank, id)).chain(other.copied()) {
                    done[rank][id] = Some((start, end));
                }
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    Pace { ops: done.into_iter().map(|list| list.into_iter().map(|op| op.expect("runs")).collect()).collect() }
}

fn previous_of_lane(list: &[Op]) -> Vec<Option<OpId>> {
    let mut last = BTreeMap::new();
    list.iter().enumerate().map(|(id, op)| last.insert(op.lane, id)).collect()
}
