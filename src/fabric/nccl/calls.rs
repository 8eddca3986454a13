//! A communication op of a plan as calls of NCCL.
//!
//! Each call works on whole views, so that this file needs no library and its tests no GPU. Members are numbered within
//! their set, as NCCL numbers the ranks of a communicator.

use std::ops::Range;

use crate::cluster::Rank;
use crate::device::{Memory, View};
use crate::plan::collective::{Collective, piece};
use crate::plan::{Action, CommId, Split};

/// One call of NCCL, on one member. Sums are in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `ncclSend`.
    Send {
        /// What leaves.
        data: View,
        /// The member that receives it.
        to: usize,
    },
    /// `ncclRecv`.
    Receive {
        /// Where it comes.
        into: View,
        /// The member that sends it.
        from: usize,
    },
    /// `ncclBroadcast`.
    Broadcast {
        /// The root's is read, everyone else's written.
        data: View,
        /// Who has it.
        root: usize,
    },
    /// `ncclReduce`.
    Reduce {
        /// Read; the root's becomes the sum.
        data: View,
        /// Who gets the sum.
        root: usize,
    },
    /// `ncclAllReduce`.
    AllReduce {
        /// Becomes the sum.
        data: View,
    },
    /// `ncclAllGather`, of pieces of equal length.
    AllGather {
        /// All pieces.
        data: View,
        /// This member's.
        own: Range<usize>,
    },
    /// `ncclReduceScatter`, of pieces of equal length.
    ReduceScatter {
        /// All pieces.
        data: View,
        /// This member's, which becomes the sum.
        own: Range<usize>,
    },
}

/// What a communication op calls, as one group: the calls start together and the op is over when all are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// On which communicator.
    pub comm: CommId,
    /// The ranks without which it does not end, as numbered in the world.
    pub peers: Vec<Rank>,
    /// In which order: that in which NCCL matches what two members send each other.
    pub list: Vec<Call>,
}

/// The calls of an action on a rank's memory; `None` if the action does not communicate.
///
/// NCCL wants pieces of equal length, a plan cuts a region between cache lines (see [`piece`]). Where that gives pieces of
/// different lengths, a gather is a group of broadcasts, one from each member, and a reduce-scatter a group of reductions,
/// one to each: NCCL runs a group as one kernel. The algorithm that the plan names is that of the MPI fabric and of the
/// byte tables; NCCL chooses its own.
///
/// # Panics
/// If the action does not fit the splits: the checker finds such plans.
pub fn calls(action: &Action, rank: Rank, splits: &[Split], memory: &Memory) -> Option<Calls> {
    let comm = action.comm()?;
    let members = splits[comm].set_of(rank).expect("a member of the communicator");
    let at = |rank: Rank| members.binary_search(&rank).expect("a member of the communicator");
    let list = match action {
        Action::Exchange { sends, recvs, .. } => {
            let sends = sends.iter().map(|m| Call::Send { data: memory.view(m.region), to: at(m.peer) });
            let recvs = recvs.iter().map(|m| Call::Receive { into: memory.view(m.region), from: at(m.peer) });
            sends.chain(recvs).collect()
        }
        Action::Collective(_) if members.len() == 1 => Vec::new(),
        Action::Collective(call) => {
            let data = memory.view(call.region);
            let n = members.len();
            let pieces: Vec<Range<usize>> = (0..n).map(|i| piece(data.len(), n, i)).collect();
            let own = pieces[at(rank)].clone();
            let equal = pieces.iter().all(|piece| piece.len() == own.len());
            // One call for each member's piece.
            let each = |call: fn(View, usize) -> Call| {
                let some = pieces.iter().enumerate().filter(|(_, piece)| !piece.is_empty());
                some.map(|(root, piece)| call(data.sub(piece.clone()), root)).collect()
            };
            match call.what {
                Collective::Broadcast(root) => vec![Call::Broadcast { data, root: at(root) }],
                Collective::Reduce(root) => vec![Call::Reduce { data, root: at(root) }],
                Collective::AllReduce => vec![Call::AllReduce { data }],
                Collective::AllGather if equal => vec![Call::AllGather { data, own }],
                Collective::AllGather => each(|data, root| Call::Broadcast { data, root }),
                Collective::ReduceScatter if equal => vec![Call::ReduceScatter { data, own }],
                Collective::ReduceScatter => each(|data, root| Call::Reduce { data, root }),
            }
        }
        _ => unreachable!("only these have a communicator"),
    };
    let mut peers = match action {
        Action::Exchange { sends, recvs, .. } => sends.iter().chain(recvs).map(|message| message.peer).collect(),
        _ => members.iter().copied().filter(|&member| member != rank).collect::<Vec<_>>(),
    };
    peers.sort_unstable();
    peers.dedup();
    Some(Calls { comm, peers, list })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dtype;
    use crate::plan::collective::steps;
    use crate::plan::{Algorithm, Message, Payload, Region, Segment, Slot};

    fn memory(len: usize) -> Memory {
        let segment = Segment::Workspace;
        Memory::new(&[Slot { name: "data".into(), elems: len, dtype: Dtype::F32, segment, holds: None }])
    }

    fn values(memory: &Memory) -> Vec<f32> {
        // SAFETY: host memory of this type that nobody writes to.
        unsafe { memory.slot(0).slice::<f32>() }.to_vec()
    }

    /// Does what NCCL promises for one collective call of all members, `calls[i]` being member i's.
    fn perform(calls: &[&Call]) {
        // SAFETY: host memory of this type; views of different members do not overlap.
        let slice = |view: &View| unsafe { view.slice_mut::<f32>() };
        let views: Vec<View> = calls
            .iter()
            .map(|call| match call {
                Call::Broadcast { data, .. }
                | Call::Reduce { data, .. }
                | Call::AllReduce { data }
                | Call::AllGather { data, .. }
                | Call::ReduceScatter { data, .. } => *data,
                other => panic!("{other:?} is no collective"),
            })
            .collect();
        assert!(views.iter().all(|view| view.len() == views[0].len()), "members disagree on the count");
        let old: Vec<Vec<f32>> = views.iter().map(|view| slice(view).to_vec()).collect();
        let sum: Vec<f32> = (0..views[0].len()).map(|e| old.iter().map(|o| o[e]).sum()).collect();
        for (i, call) in calls.iter().enumerate() {
            match call {
                Call::Broadcast { data, root } => slice(data).copy_from_slice(&old[*root]),
                Call::Reduce { data, root } if *root == i => slice(data).copy_from_slice(&sum),
                Call::Reduce { .. } => {}
                Call::AllReduce { data } => slice(data).copy_from_slice(&sum),
                Call::ReduceScatter { data, own } => slice(&data.sub(own.clone())).copy_from_slice(&sum[own.clone()]),
                Call::AllGather { data, own } => {
                    assert_eq!((own.start, own.len() * calls.len()), (i * own.len(), data.len()), "NCCL's own layout");
                    for (other, old) in old.iter().enumerate() {
                        let piece = other * own.len()..(other + 1) * own.len();
                        slice(&data.sub(piece.clone())).copy_from_slice(&old[piece]);
                    }
                }
                _ => unreachable!("only collectives come here"),
            }
        }
    }

    /// What the members hold after a collective, and which calls it was made of.
    fn run(what: Collective, members: &[Rank], len: usize) -> (Vec<Vec<f32>>, Vec<Call>) {
        let splits = [Split { name: "some", sets: vec![vec![0], members.to_vec()] }];
        let memories: Vec<Memory> = members.iter().map(|_| memory(len)).collect();
        let algorithm = Algorithm::Ring;
        let (region, payload) = (Region::new(0, 0..len), Payload::Scalars);
        let action = Action::Collective(crate::plan::Call { comm: 0, what, algorithm, region, scratch: None, payload });
        for (i, memory) in memories.iter().enumerate() {
            let data: Vec<f32> = (0..len).map(|e| ((e % 97 + 1) << (2 * i)) as f32).collect();
            // SAFETY: host memory of this type that nobody else uses.
            unsafe { memory.slot(0).slice_mut() }.copy_from_slice(&data);
        }
        let all: Vec<Calls> =
            members.iter().zip(&memories).map(|(&rank, m)| calls(&action, rank, &splits, m).unwrap()).collect();
        assert!(all.iter().all(|calls| calls.comm == 0 && calls.list.len() == all[0].list.len()));
        for number in 0..all[0].list.len() {
            perform(&all.iter().map(|calls| &calls.list[number]).collect::<Vec<_>>());
        }
        (memories.iter().map(values).collect(), all[0].list.clone())
    }

    /// Where members must hold the same after a collective, by NCCL's calls and by the plan's own steps: the elements that
    /// the collective promises.
    #[test]
    fn collectives_give_what_the_plan_promises() {
        for n in 2..6 {
            let members: Vec<Rank> = (0..n).map(|i| 3 * i + 2).collect();
            for len in [1, 7, 64 * n, 128 * (n + 1), 60] {
                let initial = |i: usize, e: usize| ((e % 97 + 1) << (2 * i)) as f32;
                let sum = |e: usize| (0..n).map(|i| initial(i, e)).sum::<f32>();
                for (at, &root) in members.iter().enumerate() {
                    let (got, _) = run(Collective::Broadcast(root), &members, len);
                    assert!(got.iter().all(|r| (0..len).all(|e| r[e] == initial(at, e))), "broadcast of {n}");
                    let (got, _) = run(Collective::Reduce(root), &members, len);
                    assert!((0..len).all(|e| got[at][e] == sum(e)), "reduce of {n}");
                }
                let (got, _) = run(Collective::AllReduce, &members, len);
                assert!(got.iter().all(|r| (0..len).all(|e| r[e] == sum(e))), "all-reduce of {n}");
                let (got, scatter) = run(Collective::ReduceScatter, &members, len);
                let (all, gather) = run(Collective::AllGather, &members, len);
                for (i, got) in got.iter().enumerate() {
                    let own = piece(len, n, i);
                    assert!(own.clone().all(|e| got[e] == sum(e)), "reduce-scatter of {len} on {n}");
                    assert!(all.iter().all(|r| own.clone().all(|e| r[e] == initial(i, e))), "gather of {len} on {n}");
                }
                // Equal pieces are one call of NCCL's own; others a group with one call a piece, and none for empty ones.
                let equal = (0..n).all(|i| piece(len, n, i).len() * n == len);
                let pieces = (0..n).filter(|&i| !piece(len, n, i).is_empty()).count();
                for list in [&scatter, &gather] {
                    assert_eq!(list.len(), if equal { 1 } else { pieces }, "{len} on {n}");
                }
            }
        }
    }

    /// A member's pieces are those of the plan's steps: what it is left with by a reduce-scatter is what it sends first in
    /// an all-gather.
    #[test]
    fn pieces_are_the_plans() {
        let members = [4, 5, 9];
        for len in [60, 192, 128 * 5] {
            for (i, &me) in members.iter().enumerate() {
                let steps = steps(Collective::AllGather, Algorithm::Ring, &members, me, len).unwrap();
                assert_eq!(steps[0].send.as_ref().unwrap().range, piece(len, 3, i));
            }
        }
    }

    /// Messages keep the plan's order, name members and not ranks, and lie where the plan says; a set of one has nothing to
    /// call.
    #[test]
    fn exchanges() {
        let splits = [Split { name: "some", sets: vec![vec![1, 4, 7], vec![2]] }];
        let memory = memory(100);
        let message = |peer, range| Message { peer, region: Region::new(0, range), payload: Payload::Scalars };
        let sends = vec![message(7, 0..10), message(1, 10..30), message(7, 30..31)];
        let action = Action::Exchange { comm: 0, sends, recvs: vec![message(1, 50..100)] };
        let view = |range: Range<usize>| memory.slot(0).sub(range);
        let wanted = vec![
            Call::Send { data: view(0..10), to: 2 },
            Call::Send { data: view(10..30), to: 0 },
            Call::Send { data: view(30..31), to: 2 },
            Call::Receive { into: view(50..100), from: 0 },
        ];
        assert_eq!(calls(&action, 4, &splits, &memory), Some(Calls { comm: 0, peers: vec![1, 7], list: wanted }));
        let alone = Action::Collective(crate::plan::Call {
            comm: 0,
            what: Collective::AllReduce,
            algorithm: Algorithm::Flat,
            region: Region::new(0, 0..3),
            scratch: None,
            payload: Payload::Scalars,
        });
        assert_eq!(calls(&alone, 2, &splits, &memory), Some(Calls { comm: 0, peers: vec![], list: vec![] }));
        assert_eq!(calls(&Action::Clear { dst: Region::new(0, 0..3) }, 2, &splits, &memory), None);
    }
}
