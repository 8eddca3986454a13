//! Where gathered weights lie, and when they are gathered.

use crate::model::ShardId;

/// A step that needs a shard's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its number among all steps.
    pub index: usize,
    /// Whose weights.
    pub shard: ShardId,
}

/// Where a need finds its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Ring slot.
    pub slot: usize,
    /// The step before whose computation they are gathered; `None` if they are still there.
    pub fetch: Option<usize>,
}

/// Uses `slots` ring slots as a cache. Weights are gathered `prefetch` needs ahead, into a slot that none of the needs
/// until then uses, which is there if `slots > prefetch`; of several the one whose shard is needed last. So what is
/// still there at a turning point is used again: last block, head, last block; first block, embedding, first block.
pub fn uses(needs: &[Need], slots: usize, prefetch: usize) -> Vec<Use> {
    let shards = needs.iter().map(|need| need.shard + 1).max().unwrap_or(0);
    // Of every need: the next one of the same shard.
    let mut next = vec![usize::MAX; needs.len()];
    let mut upcoming = vec![usize::MAX; shards];
    for (index, need) in needs.iter().enumerate().rev() {
        next[index] = std::mem::replace(&mut upcoming[need.shard], index);
    }
    // Of every slot: the last need that used it.
    let mut last: Vec<Option<usize>> = vec![None; slots];
    let one = |index: usize| {
        let window = index.saturating_sub(prefetch);
        let found = last.iter().position(|last| last.is_some_and(|last| needs[last].shard == needs[index].shard));
        let slot = found.unwrap_or_else(|| {
            let free = (0..slots).filter(|&slot| last[slot].is_none_or(|last| last < window));
            // Of equals the first.
            let worth = |&slot: &usize| std::cmp::Reverse(last[slot].map_or(usize::MAX, |last| next[last]));
            free.min_by_key(worth).expect("more slots than needs in the window")
        });
        last[slot] = Some(index);
        Use { slot, fetch: found.is_none().then(|| needs[window].index) }
    };
    (0..needs.len()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up and down through shards, twice.
    fn needs(shards: usize) -> Vec<Need> {
        let once: Vec<ShardId> = (0..shards).chain((0..shards - 1).rev()).collect();
        let twice = once.iter().chain(&once).enumerate();
        twice.map(|(index, &shard)| Need { index, shard }).collect()
    }

    /// When a step computes, its slot holds its shard; weights never come into a slot in use, and no later than
    /// `prefetch` needs ahead.
    #[test]
    fn weights_are_there_in_time() {
        for shards in 1..9 {
            for prefetch in 1..5 {
                for slots in prefetch + 1..=(prefetch + 1).max(shards) {
                    let needs = needs(shards);
                    let uses = uses(&needs, slots, prefetch);
                    let mut held = vec![None; slots];
                    for at in 0..needs.len() {
                        for (ahead, one) in uses.iter().enumerate().filter(|(_, one)| one.fetch == Some(at)) {
                            assert_eq!(at, ahead.saturating_sub(prefetch));
                            let pending = uses[at..ahead].iter().any(|other| other.slot == one.slot);
                            assert!(!pending, "{shards} {prefetch} {slots}: need {ahead} overwrites what is needed");
                            held[one.slot] = Some(needs[ahead].shard);
                        }
                        assert_eq!(held[uses[at].slot], Some(needs[at].shard), "{shards} {prefetch} {slots} {at}");
                    }
                }
            }
        }
    }

    /// Two slots save one gather at an upper turning point and two at a lower one; as many slots as shards save all but the first of each.
    #[test]
    fn gathers_saved() {
        let fetched = |slots, prefetch| uses(&needs(5), slots, prefetch).iter().filter(|u| u.fetch.is_some()).count();
        // 0 1 2 3 4 | 3 2 1 0 | 0 1 2 3 4 | 3 2 1 0: what follows a bar is still there, and so is 1 after the second.
        assert_eq!(fetched(2, 1), 18 - 2 - 2);
        assert_eq!(fetched(5, 1), 5);
    }
}
