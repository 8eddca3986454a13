//! Rule 3: two ops that touch the same memory, one of them writing, are ordered by lanes and waits of their own rank.
//! An order that exists only through another rank does not count.

use crate::cluster::Rank;
use crate::plan::{Op, OpId, Region};

use super::{Check, Phase, Rule};

/// One use of a slot: the op, its place in its lane, the region, and whether it is written.
struct Use {
    op: OpId,
    place: usize,
    region: Region,
    writes: bool,
}

impl Check<'_> {
    pub(super) fn races(&mut self, phase: Phase) {
        for rank in 0..self.plans.len() {
            self.rank_races(phase, rank);
        }
    }

    fn rank_races(&mut self, phase: Phase, rank: Rank) {
        let ops = phase.ops(&self.plans[rank]);
        let lanes = lane_count(ops);
        // Of every op: how many ops of each lane are complete before it starts.
        let mut before: Vec<Vec<usize>> = Vec::with_capacity(ops.len());
        let mut place = Vec::with_capacity(ops.len());
        let mut last: Vec<Option<OpId>> = vec![None; lanes];
        // Of every slot and lane.
        let mut uses: Vec<Vec<Use>> = (0..lanes * self.plans[rank].slots.len()).map(|_| Vec::new()).collect();
        for (id, op) in ops.iter().enumerate() {
            let lane = op.lane.index();
            let mut clock = vec![0; lanes];
            for &earlier in op.waits.iter().chain(&last[lane]) {
                let theirs: &Vec<usize> = &before[earlier];
                clock.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
                let lane = ops[earlier].lane.index();
                clock[lane] = clock[lane].max(place[earlier]);
            }
            place.push(last[lane].map_or(1, |previous| place[previous] + 1));
            last[lane] = Some(id);

            let access = op.action.access(rank);
            let reads = access.reads.iter().map(|&region| (region, false));
            let touched: Vec<(Region, bool)> =
                reads.chain(access.writes.iter().map(|&region| (region, true))).collect();
            for (index, (a, writes)) in touched.iter().enumerate() {
                if let Some((b, _)) = touched[..index].iter().find(|(b, w)| (*w || *writes) && a.overlaps(b)) {
                    let text = format!(
                        "{} itself uses {} and {}, which overlap, and writes one of them",
                        self.at(phase, rank, id),
                        self.region(rank, *a),
                        self.region(rank, *b)
                    );
                    self.report(Rule::Race, text);
                }
            }
            for &(region, writes) in &touched {
                for (other, &seen) in clock.iter().enumerate().filter(|(other, _)| *other != lane) {
                    let list = &uses[region.slot * lanes + other];
                    let concurrent = list.iter().rev().take_while(|u| u.place > seen);
                    let clash = concurrent.filter(|u| (u.writes || writes) && u.region.overlaps(&region)).last();
                    if let Some(clash) = clash {
                        let verb = |writes| if writes { "writes" } else { "reads" };
                        let text = format!(
                            "race on rank {rank}: {} {} {} without waiting for {}, which {} it",
                            self.at(phase, rank, id),
                            verb(writes),
                            self.region(rank, region),
                            self.at(phase, rank, clash.op),
                            verb(clash.writes)
                        );
                        self.report(Rule::Race, text);
                    }
                }
            }
            for (region, writes) in touched {
                let list = &mut uses[region.slot * lanes + lane];
                list.push(Use { op: id, place: place[id], region, writes });
            }
            before.push(clock);
        }
    }
}

fn lane_count(ops: &[Op]) -> usize {
    ops.iter().map(|op| op.lane.index() + 1).max().unwrap_or(0)
}
