//! When a transfer really moves. A receive is posted long before its message is sent, so that an op's start says little; from
//! the starts on all ranks follows when both sides were there.

use std::collections::HashMap;

use crate::cluster::Rank;
use crate::plan::collective::Collective;
use crate::plan::{Action, CommId, OpId, RankPlan, Split, Timeline};

/// Of every rank's ops that communicate, the moment from which something moves: between start and end of the op.
pub struct Moving {
    ranks: Vec<HashMap<OpId, f64>>,
}

type Site = (Rank, OpId);

impl Moving {
    /// For a timeline of these plans.
    pub fn new(plans: &[RankPlan], splits: &[Split], timeline: &Timeline) -> Moving {
        let starts: Vec<HashMap<OpId, f64>> =
            timeline.ranks.iter().map(|spans| spans.iter().map(|span| (span.op, span.start)).collect()).collect();
        let start = |(rank, op): Site| starts.get(rank).and_then(|ops| ops.get(&op)).copied();
        // Messages and collectives match in the order of the ranks' lists.
        let mut sends: HashMap<(CommId, Rank, Rank), Vec<Site>> = HashMap::new();
        let mut recvs = sends.clone();
        let mut calls: HashMap<(CommId, Rank, usize), Vec<Site>> = HashMap::new();
        for plan in plans {
            let mut called: HashMap<CommId, usize> = HashMap::new();
            for (op, action) in plan.train.iter().map(|op| &op.action).enumerate() {
                let site = (plan.rank, op);
                match action {
                    Action::Exchange { comm, sends: out, recvs: into } => {
                        out.iter().for_each(|m| sends.entry((*comm, plan.rank, m.peer)).or_default().push(site));
                        into.iter().for_each(|m| recvs.entry((*comm, m.peer, plan.rank)).or_default().push(site));
                    }
                    Action::Collective(call) => {
                        let count = called.entry(call.comm).or_default();
                        let first = splits[call.comm].set_of(plan.rank).map_or(plan.rank, |set| set[0]);
                        calls.entry((call.comm, first, *count)).or_default().push(site);
                        *count += 1;
                    }
                    _ => {}
                }
            }
        }
        let mut ranks: Vec<HashMap<OpId, f64>> = vec![HashMap::new(); plans.len()];
        let mut moves = |(rank, op): Site, time: f64| {
            // Of several messages of an op the first counts.
            let known = ranks[rank].entry(op).or_insert(time);
            *known = known.min(time);
        };
        for (way, from) in &sends {
            for (&sender, &receiver) in from.iter().zip(recvs.get(way).map_or(&[][..], Vec::as_slice)) {
                if let (Some(a), Some(b)) = (start(sender), start(receiver)) {
                    moves(sender, a.max(b));
                    moves(receiver, a.max(b));
                }
            }
        }
        for sites in calls.values() {
            let mut there: Vec<(f64, Site)> = sites.iter().filter_map(|&site| Some((start(site)?, site))).collect();
            there.sort_by(|a, b| a.0.total_cmp(&b.0));
            for &(mine, site) in &there {
                moves(site, together(plans, &there, mine, site));
            }
        }
        Moving { ranks }
    }

    /// When an op that started at `start` began to move something; `None` of ops that do not communicate.
    pub fn since(&self, rank: Rank, op: OpId, start: f64, end: f64) -> Option<f64> {
        self.ranks.get(rank)?.get(&op).map(|time| time.clamp(start, end.max(start)))
    }
}

/// When a member of a collective has somebody to talk to: the root of a broadcast or a reduction; the root itself, as soon as any
/// other member is there; in all others, where everything passes all members, the last one. `there` is sorted by time.
fn together(plans: &[RankPlan], there: &[(f64, Site)], mine: f64, (rank, op): Site) -> f64 {
    let Action::Collective(call) = &plans[rank].train[op].action else { return mine };
    let last = there.last().map_or(mine, |(time, _)| *time);
    let root = match call.what {
        Collective::Broadcast(root) | Collective::Reduce(root) => root,
        _ => return last,
    };
    let of = |wanted: &dyn Fn(Rank) -> bool| there.iter().find(|(_, (other, _))| wanted(*other)).map(|(time, _)| *time);
    let partner = if rank == root { of(&|other| other != rank) } else { of(&|other| other == root) };
    mine.max(partner.unwrap_or(mine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Costs, Groups};
    use crate::model::{Dtype, ModelShape, Recompute};
    use crate::plan::systems::{SystemOptions, schedule};
    use crate::plan::{Batch, Job, Span};

    /// A transfer moves from when the later of its two sides has begun, however early the other was; a collective from when
    /// its root, or for the root any other member, is there.
    #[test]
    fn both_sides_must_be_there() {
        let shape = ModelShape {
            dim: 64,
            layers: 4,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            ffn: 128,
            vocab: 256,
            tied: false,
            rope_theta: 1e4,
            norm_eps: 1e-5,
            extra: Default::default(),
        };
        let job = Job {
            shape,
            groups: Groups::new(&[2, 2]),
            batch: Batch { seq: 64, micro: 1, micros: 4 },
            dtype: Dtype::F32,
            grad_dtype: Dtype::F32,
            recompute: Recompute::Block,
            costs: Costs::unit(),
            memory: None,
            system: SystemOptions::defaults("tawpipe"),
        };
        let schedule = schedule(&job).unwrap();
        let plans = schedule.ranks();
        // Every op takes a second from its rank's number on: rank 3 is always last.
        let span = |rank: usize, op: usize, lane| Span { lane, op, start: rank as f64, end: 10.0 };
        let spans = |plan: &RankPlan| {
            plan.train.iter().enumerate().map(|(id, op)| span(plan.rank, id, op.lane)).collect::<Vec<_>>()
        };
        let timeline = Timeline { ranks: plans.iter().map(spans).collect() };
        let moving = Moving::new(&plans, &schedule.splits, &timeline);
        let (mut messages, mut calls) = (0, 0);
        for plan in &plans {
            let start = plan.rank as f64;
            for (id, op) in plan.train.iter().enumerate() {
                let since = moving.since(plan.rank, id, start, 10.0);
                match &op.action {
                    Action::Exchange { sends, recvs, .. } => {
                        let first = sends.iter().chain(recvs).map(|message| message.peer).min().unwrap();
                        assert_eq!(since, Some(start.max(first as f64)), "{}", op.action);
                        messages += 1;
                    }
                    Action::Collective(call) => {
                        let set = schedule.splits[call.comm].set_of(plan.rank).unwrap();
                        let others = || set.iter().copied().filter(|&rank| rank != plan.rank);
                        let wanted = match call.what {
                            Collective::Broadcast(root) | Collective::Reduce(root) if root != plan.rank => root,
                            Collective::Broadcast(_) | Collective::Reduce(_) => others().min().unwrap(),
                            _ => others().max().unwrap(),
                        };
                        assert_eq!(since, Some(start.max(wanted as f64)), "{}", op.action);
                        calls += 1;
                    }
                    _ => assert_eq!(since, None),
                }
            }
        }
        assert!(messages > 10 && calls > 10);
    }
}
