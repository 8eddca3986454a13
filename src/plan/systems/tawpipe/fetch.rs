//! How weights come to a rank: by a hop into its group, and from those who hold them there to all.

use crate::model::ShardId;
use crate::plan::build::List;
use crate::plan::collective::Collective;
use crate::plan::{Action, Algorithm, Call, OpId, Payload, Region, Segment};

use super::Way;
use super::course::{Course, Fetch};
use super::options::{Hops, Topology, WeightCache};
use super::rank::{Exchange, Writer};

impl Writer<'_> {
    /// Brings in, for every group, the weights that come in at this tick.
    pub fn fetch(&mut self, list: &mut List, course: &Course, tick: usize) {
        match self.options.hop {
            Hops::Direct => self.exchange_weights(list, course, tick),
            Hops::Collective => self.broadcast_hop(list, course, tick),
        }
        if let Some(fetch) = course.fetch(self.group, tick)
            && self.groups.size(self.group) > 1
        {
            self.spread(list, fetch);
        }
    }

    /// Messages from owners to those who hold their shards in other groups.
    fn exchange_weights(&mut self, list: &mut List, course: &Course, tick: usize) {
        let mut exchange = Exchange::default();
        for hop in course.weight_hops(tick) {
            let Payload::Weights(shard, _) = hop.payload else { unreachable!("weights hop") };
            // Only a receiver, whose group fetches the shard, needs the ring slot.
            let slot = course.fetch(self.group, tick).map_or(0, |fetch| fetch.slot);
            exchange.add(self.rank, hop, || self.held(shard, slot));
        }
        exchange.push(list, Way::WeightHop, self.turn());
    }

    /// One broadcast from the owner over those who hold the same part in their groups: a chain of chunks, so that every
    /// network card carries it once in and once out.
    fn broadcast_hop(&mut self, list: &mut List, course: &Course, tick: usize) {
        let fetch = course.fetch(self.group, tick).filter(|fetch| course.comes_over(fetch));
        let Some(Fetch { shard, slot, .. }) = fetch else { return };
        let Some((part, owner)) = self.holders.part(self.rank, shard).zip(self.holders.owner(self.rank, shard)) else {
            return;
        };
        let call = Call {
            comm: Way::WeightHop.comm(),
            what: Collective::Broadcast(owner),
            algorithm: Algorithm::Chain,
            region: self.held(shard, slot),
            scratch: None,
            payload: Payload::Weights(shard, part),
        };
        list.push_after(Way::WeightHop.lane(), Action::Collective(call), self.turn());
    }

    /// Gives a shard to all ranks of the group.
    fn spread(&mut self, list: &mut List, Fetch { shard, slot, .. }: Fetch) {
        let size = self.groups.size(self.group);
        let region = self.weights(shard, slot);
        let (what, algorithm) = match self.options.stripe {
            true => (Collective::AllGather, Algorithm::Ring),
            // A tree of whole messages while it is shallow, else a pipeline of chunks.
            false => {
                let shallow = size <= 4 && self.options.topology == Topology::Groups;
                let root = self.holders.gate(self.group, shard);
                (Collective::Broadcast(root), if shallow { Algorithm::Tree } else { Algorithm::Chain })
            }
        };
        // A piece that stays here is put in its place among the others.
        if let (true, Some(part)) = (self.options.stripe, self.holders.part(self.rank, shard)) {
            let (src, dst) = (self.held(shard, slot), region.sub(part));
            if src != dst {
                list.push(Way::Broadcast.lane(), Action::Cast { src, dst });
            }
        }
        let payload = Payload::Weights(shard, 0..region.len);
        let call = Call { comm: Way::Broadcast.comm(), what, algorithm, region, scratch: None, payload };
        self.spreads.push(list.push(Way::Broadcast.lane(), Action::Collective(call)));
    }

    /// What a hop waits for beside its regions. Into a ring slot weights come when it is free; but what is kept has a
    /// place from the start, and without an order the first shard would share the network cards with all others. As many
    /// are under way as there are groups: owners take turns, so that is one from every group.
    fn turn(&self) -> &[OpId] {
        let before = match self.options.weight_cache {
            WeightCache::None => None,
            WeightCache::Group => self.spreads.len().checked_sub(self.groups.count()),
        };
        before.map_or(&[], |at| &self.spreads[at..=at])
    }

    /// A whole shard's weights on this rank: where they stay, or in a ring slot.
    pub fn weights(&mut self, shard: ShardId, slot: usize) -> Region {
        let len = self.shards.shards[shard].len;
        match self.stays(shard) {
            Some(region) if region.len == len => region,
            _ => self.ring[slot].take(self.slots, len),
        }
    }

    /// The part of a shard's weights that this rank holds in its group: where it stays, or in its place in a ring slot.
    fn held(&mut self, shard: ShardId, slot: usize) -> Region {
        self.stays(shard).unwrap_or_else(|| {
            let part = self.holders.part(self.rank, shard).expect("a holder");
            self.ring[slot].take(self.slots, self.shards.shards[shard].len).sub(part)
        })
    }

    /// The part of a shard's weights that stays on this rank through the iteration: at home, or kept.
    fn stays(&mut self, shard: ShardId) -> Option<Region> {
        if let Some(owned) = self.local.own(shard) {
            return Some(owned.weights());
        }
        if self.options.weight_cache == WeightCache::None {
            return None;
        }
        let part = self.holders.part(self.rank, shard)?;
        let add = || self.slots.add(format!("shard {shard} cache"), part.len(), self.job.dtype, Segment::Cache);
        Some(*self.cache.entry(shard).or_insert_with(add))
    }
}
