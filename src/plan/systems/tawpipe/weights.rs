//! How weights come to a rank: by a hop from their owner to the group's staging rank, and from there to all ranks of the group.

use std::collections::BTreeMap;

use crate::model::ShardId;
use crate::plan::build::Elastic;
use crate::plan::collective::Collective;
use crate::plan::{Action, Algorithm, OpId, Payload, Region, Segment};

use super::channel::{Channel, Exchange};
use super::options::{Hops, Topology, WeightCache};
use super::order::Prefetch;
use super::rank::{Draft, Place};
use super::timetable::Timetable;

/// The weights of other ranks' shards on this rank, and its part in bringing them in.
pub struct Weights<'a> {
    at: Place<'a>,
    /// Weights that are used now or next.
    buffers: [Elastic; 2],
    /// Weights of (parts of) other groups' shards that this rank keeps for its group.
    cache: BTreeMap<ShardId, Region>,
    /// Ops of the present list that gave weights to all ranks of the group.
    broadcasts: Vec<OpId>,
}

impl<'a> Weights<'a> {
    pub fn new(at: Place<'a>) -> Self {
        let buffers = [0, 1].map(|i| Elastic::new(format!("ring {i}"), at.job.dtype, Segment::Ring));
        Weights { at, buffers, cache: BTreeMap::new(), broadcasts: Vec::new() }
    }

    /// A new list begins.
    pub fn begin(&mut self) {
        self.broadcasts.clear();
    }

    /// This rank's part in all transfers of weights of a time: hops into any group, and the broadcast in its own.
    pub fn bring_in(&mut self, draft: &mut Draft, timetable: &Timetable, time: usize) {
        match self.at.options.hop {
            Hops::Direct => self.hop_directly(draft, timetable, time),
            Hops::Collective => self.hop_together(draft, timetable, time),
        }
        if let Some(prefetch) = timetable.prefetch(self.at.group, time)
            && self.at.size() > 1
        {
            self.distribute(draft, prefetch);
        }
    }

    /// Messages from owners to the staging ranks of other groups.
    fn hop_directly(&mut self, draft: &mut Draft, timetable: &Timetable, time: usize) {
        let mut exchange = Exchange::default();
        for hop in timetable.weight_hops(time) {
            let Payload::Weights(shard, _) = hop.payload else { unreachable!("weights hop") };
            // Only a receiver, whose group needs the shard next, uses the buffer.
            let buffer = timetable.prefetch(self.at.group, time).map_or(0, |prefetch| prefetch.buffer);
            exchange.add(self.at.rank, hop, || self.part(draft, shard, buffer));
        }
        Channel::WeightHop.exchange(&mut draft.list, exchange, self.turn());
    }

    /// One broadcast from the owner to all staging ranks: a chain of chunks, so that every network card carries the shard
    /// once in and once out.
    fn hop_together(&mut self, draft: &mut Draft, timetable: &Timetable, time: usize) {
        let Place { storage, rank, group, .. } = self.at;
        let prefetch = timetable.prefetch(group, time).filter(|prefetch| timetable.hops_in(prefetch));
        let Some(Prefetch { shard, buffer, .. }) = prefetch else { return };
        let Some((part, owner)) = storage.part(rank, shard).zip(storage.owner(rank, shard)) else { return };
        let (how, region) = ((Collective::Broadcast(owner), Algorithm::Chain), self.part(draft, shard, buffer));
        let payload = Payload::Weights(shard, part);
        Channel::WeightHop.collective(&mut draft.list, how, region, None, payload, self.turn());
    }

    /// Gives a shard to all ranks of the group: by a broadcast from the owner or the staging rank, or by an all-gather of
    /// the pieces.
    fn distribute(&mut self, draft: &mut Draft, Prefetch { shard, buffer, .. }: Prefetch) {
        let Place { options, storage, rank, group, .. } = self.at;
        let region = self.region(draft, shard, buffer);
        let how = match options.stripe {
            true => (Collective::AllGather, Algorithm::Ring),
            // A tree of whole messages while it is shallow, else a pipeline of chunks.
            false => {
                let shallow = self.at.size() <= 4 && options.topology == Topology::Groups;
                let root = storage.staging_rank(group, shard);
                (Collective::Broadcast(root), if shallow { Algorithm::Tree } else { Algorithm::Chain })
            }
        };
        // A piece that stays on this rank is copied to its place among the others.
        if let (true, Some(part)) = (options.stripe, storage.part(rank, shard)) {
            let (src, dst) = (self.part(draft, shard, buffer), region.sub(part));
            if src != dst {
                draft.list.push(Channel::Broadcast.lane(), Action::Cast { src, dst });
            }
        }
        let payload = Payload::Weights(shard, 0..region.len);
        let op = Channel::Broadcast.collective(&mut draft.list, how, region, None, payload, &[]);
        self.broadcasts.push(op);
    }

    /// What a hop waits for beside its regions. Weights come into a buffer when it is free. But weights that are kept have a
    /// place from the start, and without an order the first shard would share the network cards with all others. So as many
    /// hops are under way as there are groups: owners take turns, so that is one from every group.
    fn turn(&self) -> &[OpId] {
        let before = match self.at.options.weight_cache {
            WeightCache::None => None,
            WeightCache::Group => self.broadcasts.len().checked_sub(self.at.groups().count()),
        };
        before.map_or(&[], |at| &self.broadcasts[at..=at])
    }

    /// A whole shard's weights on this rank: where they stay, or in a buffer.
    pub fn region(&mut self, draft: &mut Draft, shard: ShardId, buffer: usize) -> Region {
        let len = self.at.shards.elems(shard);
        match self.stays(draft, shard) {
            Some(region) if region.len == len => region,
            _ => self.buffers[buffer].take(draft.slots, len),
        }
    }

    /// The part of a shard's weights that this rank owns or stages: where it stays, or in its place in a buffer.
    fn part(&mut self, draft: &mut Draft, shard: ShardId, buffer: usize) -> Region {
        self.stays(draft, shard).unwrap_or_else(|| {
            let part = self.at.storage.part(self.at.rank, shard).expect("an owner or a staging rank");
            self.buffers[buffer].take(draft.slots, self.at.shards.elems(shard)).sub(part)
        })
    }

    /// The part of a shard's weights that stays on this rank through the iteration: its own, or kept for its group.
    fn stays(&mut self, draft: &mut Draft, shard: ShardId) -> Option<Region> {
        let Place { job, options, storage, local, rank, .. } = self.at;
        if let Some(owned) = local.own(shard) {
            return Some(owned.weights());
        }
        if options.weight_cache == WeightCache::None {
            return None;
        }
        let part = storage.part(rank, shard)?;
        let add = || draft.slots.add(format!("shard {shard} cache"), part.len(), job.dtype, Segment::Cache);
        Some(*self.cache.entry(shard).or_insert_with(add))
    }
}
