//! Rule 1: per communicator, all members call the same collectives in the same order, and messages of two ranks match
//! in order with equal contents.

use std::collections::BTreeMap;
use std::fmt;

use crate::cluster::Rank;
use crate::model::Dtype;
use crate::plan::collective::Collective;
use crate::plan::{Action, Algorithm, CommId, Lane, Message, OpId, Payload};

use super::{Check, Phase, Rule};

/// An op of a rank.
pub type Site = (Rank, OpId);

/// A message from its sender's op to its receiver's, each with its number in the op's list.
#[derive(Debug)]
pub struct Pair {
    pub from: (Site, usize),
    pub to: (Site, usize),
}

/// What belongs together.
#[derive(Debug, Default)]
pub struct Matching {
    pub pairs: Vec<Pair>,
    /// Members of each collective call, ranks ascending.
    pub calls: Vec<Vec<Site>>,
}

/// One end of a message: the op, its number in the op's list, and the message.
type End<'a> = (Site, usize, &'a Message);

/// All messages of one communicator from one rank to another, as each of the two sees them.
#[derive(Default)]
struct Ends<'a> {
    sends: Vec<End<'a>>,
    recvs: Vec<End<'a>>,
}

impl Check<'_> {
    /// Matches a list's messages and collectives over all ranks.
    pub(super) fn matching(&mut self, phase: Phase) -> Matching {
        let plans = self.plans;
        let mut matching = Matching::default();
        let mut calls: BTreeMap<(CommId, Rank), Vec<Site>> = BTreeMap::new();
        let mut ends: BTreeMap<(CommId, Rank, Rank), Ends> = BTreeMap::new();
        let mut lanes: BTreeMap<(CommId, Rank), Lane> = BTreeMap::new();
        for (rank, plan) in plans.iter().enumerate() {
            for (id, op) in phase.ops(plan).iter().enumerate() {
                let Some(comm) = op.action.comm() else { continue };
                let lane = *lanes.entry((comm, rank)).or_insert(op.lane);
                if lane != op.lane {
                    let text = format!(
                        "{} uses communicator \"{}\" on {:?}, which earlier ops use on {lane:?}; one communicator \
                         belongs to one lane",
                        self.at(phase, rank, id),
                        self.schedule.splits[comm].name,
                        op.lane
                    );
                    self.report(Rule::Matching, text);
                }
                if let Action::Exchange { sends, recvs, .. } = &op.action {
                    for (index, message) in sends.iter().enumerate() {
                        let ends = ends.entry((comm, rank, message.peer)).or_default();
                        ends.sends.push(((rank, id), index, message));
                    }
                    for (index, message) in recvs.iter().enumerate() {
                        let ends = ends.entry((comm, message.peer, rank)).or_default();
                        ends.recvs.push(((rank, id), index, message));
                    }
                } else {
                    calls.entry((comm, rank)).or_default().push((rank, id));
                }
            }
        }
        for (way, ends) in &ends {
            self.messages(phase, *way, ends, &mut matching);
        }
        for (comm, split) in self.schedule.splits.iter().enumerate() {
            for set in &split.sets {
                let of = |rank: &Rank| calls.get(&(comm, *rank)).map_or(&[][..], Vec::as_slice);
                let lists: Vec<&[Site]> = set.iter().map(of).collect();
                self.collectives(phase, comm, set, &lists, &mut matching);
            }
        }
        matching
    }

    /// Messages of one communicator from one rank to another.
    fn messages(
        &mut self,
        phase: Phase,
        (comm, from, to): (CommId, Rank, Rank),
        Ends { sends, recvs }: &Ends,
        matching: &mut Matching,
    ) {
        let name = self.schedule.splits[comm].name;
        for (number, (send, recv)) in sends.iter().zip(recvs).enumerate() {
            if self.contents(from, send.2) != self.contents(to, recv.2) {
                let words = |rank, message| {
                    let (payload, len, dtype) = self.contents(rank, message);
                    format!("{payload} as {len} {} elements", dtype.name())
                };
                let text = format!(
                    "message {number} from rank {from} to rank {to} on \"{name}\": {} sends {}, but {} receives {}",
                    self.at(phase, send.0.0, send.0.1),
                    words(from, send.2),
                    self.at(phase, recv.0.0, recv.0.1),
                    words(to, recv.2)
                );
                self.report(Rule::Matching, text);
                return;
            }
            matching.pairs.push(Pair { from: (send.0, send.1), to: (recv.0, recv.1) });
        }
        if let Some((site, _, message)) = sends.get(recvs.len()) {
            let text = format!(
                "{} sends {} to rank {to}, which never receives it: \"{name}\" has {} sends from rank {from} to rank \
                 {to}, and {} receives",
                self.at(phase, site.0, site.1),
                message.payload,
                sends.len(),
                recvs.len()
            );
            self.report(Rule::Matching, text);
        }
        if let Some((site, _, message)) = recvs.get(sends.len()) {
            let text = format!(
                "{} waits for {} from rank {from}, which never sends it: \"{name}\" has {} sends from rank {from} to \
                 rank {to}, and {} receives",
                self.at(phase, site.0, site.1),
                message.payload,
                sends.len(),
                recvs.len()
            );
            self.report(Rule::Matching, text);
        }
    }

    /// Collectives of one communicator of one set.
    fn collectives(&mut self, phase: Phase, comm: CommId, set: &[Rank], lists: &[&[Site]], matching: &mut Matching) {
        let name = self.schedule.splits[comm].name;
        let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
        for number in 0..longest {
            let first = lists.iter().find_map(|list| list.get(number)).expect("the longest list has it");
            let expected = self.call(phase, *first);
            for (&rank, list) in set.iter().zip(lists) {
                let found = list.get(number).map(|&site| (site, self.call(phase, site)));
                let text = match found {
                    Some((_, found)) if found == expected => continue,
                    Some(((rank, op), found)) => format!(
                        "collective {number} on \"{name}\": {} calls {found}, but rank {} calls {expected}",
                        self.at(phase, rank, op),
                        first.0
                    ),
                    None => format!(
                        "collective {number} on \"{name}\": rank {rank} never takes part in {expected} of {}",
                        self.at(phase, first.0, first.1)
                    ),
                };
                self.report(Rule::Matching, text);
                return;
            }
            matching.calls.push(lists.iter().map(|list| list[number]).collect());
        }
    }

    /// What both ends of a message must agree on.
    fn contents<'m>(&self, rank: Rank, message: &'m Message) -> (&'m Payload, usize, Dtype) {
        let slot = &self.plans[rank].slots[message.region.slot];
        (&message.payload, message.region.len, slot.dtype)
    }

    /// What all members of a collective must agree on.
    fn call(&self, phase: Phase, (rank, op): Site) -> Call<'_> {
        let plan = &self.plans[rank];
        let Action::Collective(call) = &phase.ops(plan)[op].action else { unreachable!("only collectives are listed") };
        let dtype = plan.slots[call.region.slot].dtype;
        Call { what: call.what, payload: &call.payload, len: call.region.len, dtype, algorithm: call.algorithm }
    }
}

/// What all members of a collective must agree on.
#[derive(PartialEq)]
struct Call<'a> {
    what: Collective,
    payload: &'a Payload,
    len: usize,
    dtype: Dtype,
    algorithm: Algorithm,
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Collective::Broadcast(root) => write!(f, "broadcast from rank {root}")?,
            Collective::Reduce(root) => write!(f, "reduce to rank {root}")?,
            Collective::AllReduce => write!(f, "all-reduce")?,
            Collective::AllGather => write!(f, "all-gather")?,
            Collective::ReduceScatter => write!(f, "reduce-scatter")?,
        }
        write!(f, " of {} as {} {} elements by {:?}", self.payload, self.len, self.dtype.name(), self.algorithm)
    }
}
