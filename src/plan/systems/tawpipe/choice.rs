//! What is left to the program: which weights and gradients a group keeps, by the memory there is, and how shards hop.

use crate::plan::tables::{memory, traffic};
use crate::plan::{Job, Refusal};

use super::super::{GradSync, Schedule, SystemOptions, schedule};
use super::options::{Choice, Hops, Preset, TawpipeOptions, WeightCache};
use super::storage::groups;
use super::{asked, can_hop_together};

/// The schedule that moves the fewest bytes between groups among those that fit the job's memory: without a limit the
/// one that keeps everything. If none fits, the smallest, for the caller to refuse. Options that are set stay.
///
/// Hops are collectives where they can be and there are more than two groups: as many bytes, which all network cards
/// carry at once instead of one after the other.
pub fn schedule_within(job: &Job) -> Result<Schedule, Refusal> {
    let mut candidates = candidates(job).into_iter().map(|options| {
        let system = SystemOptions::Tawpipe(options);
        schedule(&Job { system, ..job.clone() })
    });
    let all = candidates.next().expect("there are candidates")?;
    let Some(limit) = job.memory else { return Ok(all) };
    let rest: Vec<Schedule> = candidates.collect::<Result<_, _>>()?;
    // What keeps most sends least: if it fits, nothing else is planned, which takes long for a thousand ranks.
    if rest.is_empty() || all.peak() <= limit {
        return Ok(all);
    }
    let weighed = std::iter::once(all).chain(rest).map(|schedule| {
        let (mut peak, mut between) = (0, 0);
        for rank in 0..job.groups.ranks() {
            let plan = schedule.rank(rank);
            peak = peak.max(memory(&plan.slots).values().sum::<usize>());
            between += traffic(&job.groups, &schedule.splits, &plan, &plan.train).inter;
        }
        // What does not fit comes last, the smallest first.
        let order = if peak <= limit { (false, between, peak) } else { (true, peak, between) };
        (order, schedule)
    });
    let (_, best) = weighed.min_by_key(|(order, _)| *order).expect("there are candidates");
    Ok(best)
}

/// What the options leave open, in every channel; first what keeps most.
fn candidates(job: &Job) -> Vec<TawpipeOptions> {
    let asked = asked(job);
    let blocks_per_shard = asked.blocks_per_shard.is().unwrap_or(match asked.preset {
        Preset::Auto => 1,
        Preset::Paper => job.shape.layers.div_ceil(job.groups.ranks()),
    });
    let groups = groups(job, asked.topology);
    let hop = asked.hop.is().unwrap_or(match groups.count() > 2 && can_hop_together(asked.stagger, &groups).is_ok() {
        true => Hops::Collective,
        false => Hops::Direct,
    });
    // Inside one group nothing crosses: there is nothing to save.
    let (mut caches, mut syncs) = (vec![WeightCache::None], vec![GradSync::Round]);
    if groups.count() > 1 {
        (caches, syncs) = (vec![WeightCache::Group, WeightCache::None], vec![GradSync::Iteration, GradSync::Round]);
    }
    let caches = asked.weight_cache.is().map_or(caches, |cache| vec![cache]);
    let syncs = asked.grad_sync.is().map_or(syncs, |sync| vec![sync]);
    let mut candidates = Vec::new();
    for &weight_cache in &caches {
        for &grad_sync in &syncs {
            candidates.push(TawpipeOptions {
                blocks_per_shard: Choice::Is(blocks_per_shard),
                hop: Choice::Is(hop),
                weight_cache: Choice::Is(weight_cache),
                grad_sync: Choice::Is(grad_sync),
                auto: None,
                ..asked.clone()
            });
        }
    }
    candidates
}
