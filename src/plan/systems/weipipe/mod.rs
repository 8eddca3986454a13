//! `weipipe` and `weipipe-naive` (WeiPipe, PPoPP 2025): weights travel round a ring of all ranks, and every rank works
//! through its own micro-batches with what comes by.
//!
//! The blocks are cut into as many runs as there are ranks; some are empty if there are fewer blocks. Turn by turn,
//! three flows move from each rank to the next: the weights for forward, the weights for backward, and with the latter
//! the gradients, to which each rank adds its own. Rank r begins at turn r. `weipipe` (Interleave) does a forward of one
//! round and a backward of the round before in the same turn; `weipipe-naive` does all forwards of a round, then all its
//! backwards, so that in each turn one of the two flows of weights only passes by. Embedding and head live on every
//! rank, and their gradients are all-reduced once an iteration.
//!
//! The released code sends the backward weights the other way and so mixes up layers; this is the construction that
//! computes the right gradients. It also leaves out what nobody uses. The paper counts three shards from each rank to the
//! next in every turn; here, of the K rounds of N turns of a pass, rank r receives K N - 1 + r weights in each flow and
//! K N gradients (rank 0: (K - 1) N), because weights go no further than their last use, and because a sum leaves the
//! ring for its owner as soon as it is complete, instead of at the end with all others.
//!
//! Read [`ring`] (what is where in which turn), then [`rank`] (one rank's ops).

mod rank;
mod ring;

use crate::cluster::Rank;
use crate::model::Shards;
use crate::plan::{CommId, Job, Lane, RankPlan, Refusal, Split};

use super::{Entry, Layout, Schedule, System};
use ring::Order;

/// See the module.
struct Weipipe(Order);

/// Line of the table of systems.
pub const WEIPIPE: Entry = Entry {
    name: "weipipe",
    summary: "weights and gradients go round a ring of ranks; in each turn a rank computes a forward of one round and a backward of another",
    domain: "any number of ranks in any groups; any number of layers",
    ends: "on every rank",
    system: &Weipipe(Order::Interleave),
};

/// Line of the table of systems.
pub const WEIPIPE_NAIVE: Entry = Entry {
    name: "weipipe-naive",
    summary: "weights and gradients go round a ring of ranks; in each turn a rank computes either a forward or a backward",
    domain: "any number of ranks in any groups; any number of layers",
    ends: "on every rank",
    system: &Weipipe(Order::Naive),
};

/// A communication lane, which is also the number of its split.
#[derive(Clone, Copy)]
enum Flow {
    Forward,
    Backward,
    Gradient,
    /// Embedding and head.
    AllReduce,
}

impl Flow {
    fn lane(self) -> Lane {
        Lane::Comm(self as usize)
    }

    fn comm(self) -> CommId {
        self as usize
    }
}

impl System for Weipipe {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let ranks = job.groups.ranks();
        let runs = (0..ranks).map(|run| ring::blocks(job, run).len());
        let shards = Shards::cut(&job.shape, runs);
        // Embedding and an untied head are the shards before and behind the blocks.
        let mut owners = vec![None; shards.shards.len()];
        for (run, shard) in ring::runs(job).into_iter().enumerate() {
            if let Some(shard) = shard {
                owners[shard] = Some(ring::owner(ranks, run));
            }
        }
        let flow = |name| Split { name, sets: vec![(0..ranks).collect()] };
        let splits = ["forward flow", "backward flow", "gradient flow", "all-reduce"].map(flow).into();
        Ok(Schedule { job: job.clone(), shards, layout: Layout::Owners(owners), splits })
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        rank::plan(schedule, self.0, rank)
    }
}
