//! How a collective moves its bytes: who sends what to whom, in which order.
//!
//! The one place that knows. The fabric runs these steps, the byte tables count them, and the simulator prices them.

use std::ops::Range;

use crate::cluster::Rank;

use super::{Algorithm, REDUCE_CHUNK, REDUCE_CHUNKS};

/// What a collective does with its region; roots are numbered as in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collective {
    /// From the root to all.
    Broadcast(Rank),
    /// Sum onto the root.
    Reduce(Rank),
    /// Sum to all.
    AllReduce,
    /// Every member's [`piece`] of the region to all.
    AllGather,
    /// Sum; every member gets its [`piece`] of it.
    ReduceScatter,
}

/// The part of a region of `len` elements that belongs to member `index` of `members`. A region of whole cache lines, as
/// shards are, is cut between cache lines.
pub fn piece(len: usize, members: usize, index: usize) -> Range<usize> {
    let grain = if len.is_multiple_of(GRAIN) { GRAIN } else { 1 };
    let cut = |i: usize| i * (len / grain) / members * grain;
    cut(index)..cut(index + 1)
}

/// Elements of a cache line or more, whatever the dtype.
const GRAIN: usize = 64;

/// One message of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The other rank, as numbered in the world.
    pub peer: Rank,
    /// Elements of the collective's region.
    pub range: Range<usize>,
}

/// What one member does at a time: its messages start together, and the step is over when they are. The steps of
/// matching members never wait for each other in a circle, even if a send lasts until it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Leaves the region.
    pub send: Option<Part>,
    /// Comes into the region.
    pub recv: Option<Part>,
    /// What comes in is added to what is there, instead of replacing it.
    pub sum: bool,
}

/// What the member `me` of a set does for a collective over `len` elements, or `None` if `algorithm` does not exist
/// for it. `members` ascend; a set of one has nothing to do.
///
/// | | algorithms |
/// |---|---|
/// | broadcast | [`Algorithm::Chain`] from the root on in ring order, in chunks; [`Algorithm::Tree`], whole |
/// | reduce | [`Algorithm::Chain`] from the rank behind the root round to the root, in chunks |
/// | all-gather, reduce-scatter | [`Algorithm::Ring`] |
/// | all-reduce | [`Algorithm::Flat`] through the lowest rank, whole; [`Algorithm::Ring`], in as many chunks as members |
///
/// # Panics
/// If `me` or the root is no member.
pub fn steps(what: Collective, algorithm: Algorithm, members: &[Rank], me: Rank, len: usize) -> Option<Vec<Step>> {
    let at = |rank: Rank| members.iter().position(|&m| m == rank).expect("a member of the set");
    let n = members.len();
    // Everything below counts members from `first` on, round the ring.
    let from = |first: usize| (at(me) + n - first) % n;
    let rank = |first: usize, index: usize| members[(first + index) % n];
    Some(match (what, algorithm) {
        (Collective::Broadcast(root), Algorithm::Chain) => {
            let first = at(root);
            chain(from(first), n, len, |index| rank(first, index), false)
        }
        (Collective::Broadcast(root), Algorithm::Tree) => {
            let first = at(root);
            tree(from(first), n, len, |index| rank(first, index))
        }
        (Collective::Reduce(root), Algorithm::Chain) => {
            let first = (at(root) + 1) % n;
            chain(from(first), n, len, |index| rank(first, index), true)
        }
        (Collective::AllReduce, Algorithm::Flat) => flat(at(me), members, len),
        (Collective::AllReduce, Algorithm::Ring) => ring(at(me), members, len, 0..2 * (n - 1)),
        (Collective::ReduceScatter, Algorithm::Ring) => ring(at(me), members, len, 0..n - 1),
        (Collective::AllGather, Algorithm::Ring) => ring(at(me), members, len, n - 1..2 * (n - 1)),
        _ => return None,
    })
}

fn send(peer: Rank, range: Range<usize>) -> Step {
    Step { send: Some(Part { peer, range }), recv: None, sum: false }
}

fn receive(peer: Rank, range: Range<usize>, sum: bool) -> Step {
    Step { send: None, recv: Some(Part { peer, range }), sum }
}

/// Member 0 sends to 1, 1 to 2, and so on; a chunk is passed on while the next one comes in.
fn chain(me: usize, n: usize, len: usize, rank: impl Fn(usize) -> Rank, sum: bool) -> Vec<Step> {
    if n == 1 {
        return Vec::new();
    }
    let chunks = len.div_ceil(REDUCE_CHUNK);
    let chunk = |i: usize| i * REDUCE_CHUNK..((i + 1) * REDUCE_CHUNK).min(len);
    let receives = me > 0;
    let sends = me + 1 < n;
    // Who both receives and sends is one chunk behind with sending.
    let lag = usize::from(receives && sends);
    (0..chunks + lag)
        .map(|i| Step {
            recv: (receives && i < chunks).then(|| Part { peer: rank(me - 1), range: chunk(i) }),
            send: (sends && i >= lag).then(|| Part { peer: rank(me + 1), range: chunk(i - lag) }),
            sum,
        })
        .collect()
}

/// Member m receives from m without its lowest set bit, and sends to m plus every lower bit, widest subtree first.
fn tree(me: usize, n: usize, len: usize, rank: impl Fn(usize) -> Rank) -> Vec<Step> {
    let mut steps = Vec::new();
    let lowest = if me == 0 { n.next_power_of_two() } else { me & me.wrapping_neg() };
    if me > 0 {
        steps.push(receive(rank(me - lowest), 0..len, false));
    }
    let mut bit = lowest / 2;
    while bit > 0 {
        if me + bit < n {
            steps.push(send(rank(me + bit), 0..len));
        }
        bit /= 2;
    }
    steps
}

/// Everyone's values to member 0, summed in rank order, and the sum back.
fn flat(me: usize, members: &[Rank], len: usize) -> Vec<Step> {
    if me > 0 {
        return vec![send(members[0], 0..len), receive(members[0], 0..len, false)];
    }
    let others = &members[1..];
    let gather = others.iter().map(|&peer| receive(peer, 0..len, true));
    gather.chain(others.iter().map(|&peer| send(peer, 0..len))).collect()
}

/// Rounds of a ring all-reduce: in the first n - 1 every piece is summed while it travels from the member behind its
/// own round to its own; in the other n - 1 it travels round once more.
fn ring(me: usize, members: &[Rank], len: usize, rounds: Range<usize>) -> Vec<Step> {
    let n = members.len();
    let part = |peer: usize, i: usize| {
        let range = piece(len, n, i % n);
        (!range.is_empty()).then(|| Part { peer: members[peer % n], range })
    };
    rounds
        .map(|k| Step {
            send: part(me + 1, me + 3 * n - k - 1),
            recv: part(me + n - 1, me + 3 * n - k - 2),
            sum: k < n - 1,
        })
        .collect()
}

/// Elements that a sum over a region of `len` elements needs as scratch, to receive what it adds; `None` if it needs none.
pub fn scratch(what: Collective, algorithm: Algorithm, len: usize, members: usize) -> Option<usize> {
    match (what, algorithm) {
        (Collective::Reduce(_), _) => Some(len.min(REDUCE_CHUNKS * REDUCE_CHUNK)),
        (Collective::AllReduce | Collective::ReduceScatter, Algorithm::Ring) => {
            (0..members).map(|i| piece(len, members, i).len()).max()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs all members' steps on real values, a send lasting until it is received, and returns everyone's region.
    fn run(what: Collective, algorithm: Algorithm, members: &[Rank], regions: &[Vec<u64>]) -> Vec<Vec<u64>> {
        let n = members.len();
        let len = regions[0].len();
        let plans: Vec<_> = members.iter().map(|&me| steps(what, algorithm, members, me, len).unwrap()).collect();
        let mut regions = regions.to_vec();
        let mut at = vec![0; n];
        // Halves of a member's current step that are done: (sent, received).
        let mut done = vec![(false, false); n];
        loop {
            let mut moved = false;
            for i in 0..n {
                let Some(step) = plans[i].get(at[i]) else { continue };
                if let (Some(part), false) = (&step.send, done[i].0) {
                    let j = members.iter().position(|&m| m == part.peer).unwrap();
                    let Some(other) = plans[j].get(at[j]) else { continue };
                    if let (Some(into), false) = (&other.recv, done[j].1)
                        && into.peer == members[i]
                    {
                        assert_eq!(into.range, part.range);
                        for e in part.range.clone() {
                            regions[j][e] = if other.sum { regions[j][e] + regions[i][e] } else { regions[i][e] };
                        }
                        (done[i].0, done[j].1, moved) = (true, true, true);
                    }
                }
            }
            for i in 0..n {
                if let Some(step) = plans[i].get(at[i])
                    && (step.send.is_none() || done[i].0)
                    && (step.recv.is_none() || done[i].1)
                {
                    (at[i], done[i], moved) = (at[i] + 1, (false, false), true);
                }
            }
            if !moved {
                break;
            }
        }
        assert!((0..n).all(|i| at[i] == plans[i].len()), "stuck: {what:?} {algorithm:?} {members:?}");
        regions
    }

    /// Every algorithm ends, and gives every member what the collective promises, for any set, root and length.
    #[test]
    fn collectives_do_what_they_promise() {
        for n in 1..9 {
            let members: Vec<Rank> = (0..n).map(|i| 3 * i + 2).collect();
            for len in [1, 2, 7, 3 * REDUCE_CHUNK / 2] {
                let regions: Vec<Vec<u64>> =
                    (0..n).map(|i| (0..len).map(|e| (e as u64 + 1) << (4 * i)).collect()).collect();
                let sum: Vec<u64> = (0..len).map(|e| regions.iter().map(|r| r[e]).sum()).collect();
                for algorithm in [Algorithm::Flat, Algorithm::Ring] {
                    let got = run(Collective::AllReduce, algorithm, &members, &regions);
                    assert!(got.iter().all(|r| *r == sum), "{algorithm:?} of {n}");
                }
                let got = run(Collective::ReduceScatter, Algorithm::Ring, &members, &regions);
                for (i, region) in got.iter().enumerate() {
                    assert_eq!(region[piece(len, n, i)], sum[piece(len, n, i)], "reduce-scatter of {n}");
                }
                let got = run(Collective::AllGather, Algorithm::Ring, &members, &regions);
                let all: Vec<u64> = (0..n).flat_map(|i| regions[i][piece(len, n, i)].to_vec()).collect();
                assert!(got.iter().all(|r| *r == all), "all-gather of {n}");
                for (index, &root) in members.iter().enumerate() {
                    for algorithm in [Algorithm::Chain, Algorithm::Tree] {
                        let got = run(Collective::Broadcast(root), algorithm, &members, &regions);
                        assert!(got.iter().all(|r| *r == regions[index]), "{algorithm:?} of {n}");
                    }
                    let got = run(Collective::Reduce(root), Algorithm::Chain, &members, &regions);
                    assert_eq!(got[index], sum, "reduce of {n}");
                }
            }
        }
    }
}
