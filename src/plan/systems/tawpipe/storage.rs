//! Device-bound storage: which ranks own a shard, and which ranks stage it in each other group, that is, receive its weights
//! and send its gradient.

use std::ops::Range;

use crate::cluster::{Groups, Rank};
use crate::model::ShardId;
use crate::plan::Job;
use crate::plan::collective::piece;

use super::super::{GradSync, Layout, Schedule};
use super::options;
use super::options::{Hops, Topology, WeightCache};

/// Where shards live. With stripes every rank of the owner's group owns a piece of the shard, and every rank of another group
/// stages the piece of equal index; without, one rank of a group owns or stages all of it.
pub struct Storage {
    /// See [`groups`].
    pub groups: Groups,
    /// Of each group, for each shard: the rank that owns or stages it. Empty with stripes.
    staging_ranks: Vec<Vec<Rank>>,
    /// The group that owns each shard; none if the shard is replicated.
    owner_groups: Vec<Option<usize>>,
    /// Elements of each shard.
    lens: Vec<usize>,
    stripe: bool,
}

impl Storage {
    pub fn new(schedule: &Schedule) -> Self {
        let options = options(&schedule.job);
        let groups = groups(&schedule.job, options.topology);
        let lens: Vec<usize> = schedule.shards.shards.iter().map(|shard| shard.len).collect();
        let keeps = options.weight_cache == WeightCache::Group || options.grad_sync == GradSync::Iteration;
        // Collective hops join ranks of equal index; what these keep is balanced by the choice of owners.
        let balanced = keeps && options.hop == Hops::Direct;
        let staging_ranks = |group| match &schedule.layout {
            Layout::Owners(owners) => staging_ranks(owners, &lens, &groups, group, balanced),
            _ => Vec::new(),
        };
        let owner_groups = match &schedule.layout {
            Layout::Owners(owners) => owners.iter().map(|owner| owner.map(|owner| groups.group_of(owner))).collect(),
            Layout::Striped(owner_groups) => owner_groups.clone(),
            other => unreachable!("tawpipe lays shards out as {other:?}"),
        };
        let staging_ranks = (0..groups.count()).map(staging_ranks).collect();
        Storage { staging_ranks, owner_groups, stripe: options.stripe, lens, groups }
    }

    /// The group that owns a shard; none if it is replicated.
    pub fn owner_group(&self, shard: ShardId) -> Option<usize> {
        self.owner_groups[shard]
    }

    /// The ranks of a group that own or stage (a part of) a shard, each with its part; the same parts in every group.
    pub fn parts(&self, group: usize, shard: ShardId) -> impl Iterator<Item = (Rank, Range<usize>)> + '_ {
        let ranks = match self.stripe {
            true => self.groups.members(group),
            false => self.staging_rank(group, shard)..self.staging_rank(group, shard) + 1,
        };
        let (len, count) = (self.lens[shard], ranks.len());
        let part = move |(index, rank)| (rank, piece(len, count, index));
        ranks.enumerate().map(part).filter(|(_, part)| !part.is_empty())
    }

    /// The part of a shard that a rank owns or stages.
    pub fn part(&self, rank: Rank, shard: ShardId) -> Option<Range<usize>> {
        self.owner_group(shard)?;
        self.parts(self.groups.group_of(rank), shard).find(|(other, _)| *other == rank).map(|(_, part)| part)
    }

    /// The owner of the part of a shard that a rank owns or stages.
    pub fn owner(&self, rank: Rank, shard: ShardId) -> Option<Rank> {
        let (home, group) = (self.owner_group(shard)?, self.groups.group_of(rank));
        let mut pairs = self.parts(group, shard).zip(self.parts(home, shard));
        pairs.find(|((other, _), _)| *other == rank).map(|(_, (owner, _))| owner)
    }

    /// The rank of a group that owns or stages a whole shard.
    pub fn staging_rank(&self, group: usize, shard: ShardId) -> Rank {
        self.staging_ranks[group][shard]
    }
}

/// Groups inside which shards are shared out: those of the job, or all ranks in one if the topology is flat.
pub fn groups(job: &Job, topology: Topology) -> Groups {
    match topology {
        Topology::Groups => job.groups.clone(),
        Topology::Flat => Groups::new(&[job.groups.ranks()]),
    }
}

/// For each shard the rank of a group that owns or stages it: the owner itself, or the rank with the owner's local index
/// (modulo the group's size). If staging is `balanced`, because ranks keep what they stage for a whole iteration, it is the
/// one that stages the fewest elements so far.
fn staging_ranks(owners: &[Option<Rank>], lens: &[usize], groups: &Groups, group: usize, balanced: bool) -> Vec<Rank> {
    let members = groups.members(group);
    let mut staged = vec![0; members.len()];
    let staging_rank = |(owner, len): (&Option<Rank>, &usize)| {
        // What is replicated is not staged.
        let Some(owner) = *owner else { return members.start };
        let (home, local) = groups.locate(owner);
        if home == group {
            return owner;
        }
        let local = match balanced {
            false => local % members.len(),
            true => (0..members.len()).min_by_key(|&local| staged[local]).expect("a group has a rank"),
        };
        staged[local] += *len;
        members.start + local
    };
    owners.iter().zip(lens).map(staging_rank).collect()
}
