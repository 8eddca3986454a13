//! Who owns which shard.

use crate::cluster::{Groups, Rank};
use crate::model::{ShardId, Shards};

/// The owner of every shard that `lives` on one rank alone, in model order: the group with the fewest elements per rank
/// so far (the lowest of equals), and in it the rank with the fewest elements (again the lowest). For as many equal
/// shards as ranks, in equal groups, this is the paper's rule: shard s belongs to local rank s div G of group s mod G,
/// so that consecutive shards live in consecutive groups.
pub fn owners(shards: &Shards, groups: &Groups, lives: impl Fn(ShardId) -> bool) -> Vec<Option<Rank>> {
    let mut load = vec![0; groups.ranks()];
    let owner = |(id, len): (ShardId, usize)| {
        lives(id).then(|| {
            let total = |group| groups.members(group).map(|rank| load[rank]).sum::<usize>();
            // a/b < c/d as a d < c b, to stay exact.
            let group = (0..groups.count())
                .min_by(|&a, &b| (total(a) * groups.size(b)).cmp(&(total(b) * groups.size(a))))
                .expect("a cluster has a group");
            let rank = groups.members(group).min_by_key(|&rank| load[rank]).expect("a group has a rank");
            load[rank] += len;
            rank
        })
    };
    shards.shards.iter().map(|shard| shard.len).enumerate().map(owner).collect()
}
