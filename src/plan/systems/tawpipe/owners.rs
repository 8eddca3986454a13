//! Who owns which shard.

use crate::cluster::{Groups, Rank};
use crate::model::{ShardId, Shards};

/// The owner of every shard that `lives` on one rank alone, in model order: the group with the fewest elements per rank
/// so far (the lowest of equals), and in it the rank with the fewest elements (again the lowest). For as many equal
/// shards as ranks, in equal groups, this is the paper's rule: shard s belongs to local rank s div G of group s mod G,
/// so that consecutive shards live in consecutive groups.
///
/// Where ranks of equal index in their groups (`columns`) share what one of them owns, the index whose ranks have the
/// fewest elements decides between ranks that have equally many.
pub fn owners(shards: &Shards, groups: &Groups, lives: impl Fn(ShardId) -> bool, columns: bool) -> Vec<Option<Rank>> {
    let mut load = vec![0; groups.ranks()];
    let mut column = vec![0; groups.sizes().into_iter().max().unwrap_or(0)];
    let owner = |(id, len): (ShardId, usize)| {
        lives(id).then(|| {
            let total = |group| groups.members(group).map(|rank| load[rank]).sum::<usize>();
            // a/b < c/d as a d < c b, to stay exact.
            let group = (0..groups.count())
                .min_by(|&a, &b| (total(a) * groups.size(b)).cmp(&(total(b) * groups.size(a))))
                .expect("a cluster has a group");
            let members = groups.members(group);
            let shared = |rank: Rank| if columns { column[rank - members.start] } else { 0 };
            let rank = members.clone().min_by_key(|&rank| (load[rank], shared(rank))).expect("a group has a rank");
            load[rank] += len;
            column[rank - members.start] += len;
            rank
        })
    };
    shards.shards.iter().map(|shard| shard.len).enumerate().map(owner).collect()
}
