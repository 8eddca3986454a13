//! Which ranks hold a shard: its owners at home, and in each other group those through whom it comes in and its gradient
//! goes out.

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::ShardId;
use crate::plan::Job;
use crate::plan::collective::piece;

use super::super::{GradSync, Layout, Schedule};
use super::options;
use super::options::{Hops, Topology, WeightCache};

/// See the module.
pub struct Holders {
    /// See [`groups`].
    pub groups: Groups,
    /// The rank of each group that holds each shard, where one does.
    gates: Vec<Vec<Rank>>,
    /// The group that owns each shard, if it travels.
    homes: Vec<Option<usize>>,
    lens: Vec<usize>,
    stripe: bool,
}

impl Holders {
    pub fn new(schedule: &Schedule) -> Self {
        let options = options(&schedule.job);
        let groups = groups(&schedule.job, options.topology);
        let lens: Vec<usize> = schedule.shards.shards.iter().map(|shard| shard.len).collect();
        let keeps = options.weight_cache == WeightCache::Group || options.grad_sync == GradSync::Iteration;
        // Collectives join ranks of equal index; what these keep is balanced by the choice of owners.
        let spreads = keeps && options.hop == Hops::Direct;
        let gates = |group| match &schedule.layout {
            Layout::Owners(owners) => gates(owners, &lens, &groups, group, spreads),
            _ => Vec::new(),
        };
        let homes = match &schedule.layout {
            Layout::Owners(owners) => owners.iter().map(|owner| owner.map(|owner| groups.group_of(owner))).collect(),
            Layout::Striped(homes) => homes.clone(),
            other => unreachable!("tawpipe lays shards out as {other:?}"),
        };
        let gates = (0..groups.count()).map(gates).collect();
        Holders { gates, homes, stripe: options.stripe, lens, groups }
    }

    /// The group that owns a shard; none if it does not travel.
    pub fn home(&self, shard: ShardId) -> Option<usize> {
        self.homes[shard]
    }

    /// The ranks of a group that hold (a part of) a shard, each with its part; the same parts in every group. One rank
    /// holds all of it, or with stripes every rank a piece.
    pub fn of(&self, group: usize, shard: ShardId) -> impl Iterator<Item = (Rank, Range<usize>)> + '_ {
        let ranks = match self.stripe {
            true => self.groups.members(group),
            false => self.gate(group, shard)..self.gate(group, shard) + 1,
        };
        let (len, count) = (self.lens[shard], ranks.len());
        let part = move |(index, rank)| (rank, piece(len, count, index));
        ranks.enumerate().map(part).filter(|(_, part)| !part.is_empty())
    }

    /// The part of a shard that a rank holds in its group.
    pub fn part(&self, rank: Rank, shard: ShardId) -> Option<Range<usize>> {
        self.home(shard)?;
        self.of(self.groups.group_of(rank), shard).find(|(holder, _)| *holder == rank).map(|(_, part)| part)
    }

    /// The owner of the part of a shard that a rank holds in its group.
    pub fn owner(&self, rank: Rank, shard: ShardId) -> Option<Rank> {
        let (home, group) = (self.home(shard)?, self.groups.group_of(rank));
        let mut pairs = self.of(group, shard).zip(self.of(home, shard));
        pairs.find(|((holder, _), _)| *holder == rank).map(|(_, (owner, _))| owner)
    }

    /// The rank of a group that holds a whole shard.
    pub fn gate(&self, group: usize, shard: ShardId) -> Rank {
        self.gates[group][shard]
    }
}

/// Groups inside which shards are shared out: those of the job, or all ranks in one if the topology is flat.
pub fn groups(job: &Job, topology: Topology) -> Groups {
    match topology {
        Topology::Groups => job.groups.clone(),
        Topology::Flat => Groups::new(&[job.groups.ranks()]),
    }
}

/// For each shard the rank of a group that holds it: the owner itself, or the one with the owner's local index (modulo
/// the group's size). If that `spreads`, because ranks keep what they hold through an iteration, it is the one that keeps
/// the fewest elements so far.
fn gates(owners: &[Option<Rank>], lens: &[usize], groups: &Groups, group: usize, spreads: bool) -> Vec<Rank> {
    let members = groups.members(group);
    let mut held = vec![0; members.len()];
    let gate = |(owner, len): (&Option<Rank>, &usize)| {
        // What does not travel needs no gate.
        let Some(owner) = *owner else { return members.start };
        let (home, local) = groups.locate(owner);
        let local = match home == group {
            true => local,
            false if !spreads => local % members.len(),
            false => (0..members.len()).min_by_key(|&local| held[local]).expect("a group has a rank"),
        };
        held[local] += if home == group { 0 } else { *len };
        members.start + local
    };
    owners.iter().zip(lens).map(gate).collect()
}
