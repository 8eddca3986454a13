//! `auto = true`: which weights and gradients a group keeps, by the memory there is, and how shards hop.

use crate::plan::tables::{memory, traffic};
use crate::plan::{Job, Refusal};

use super::super::{GradSync, Schedule, SystemOptions, schedule};
use super::holders::groups;
use super::options::{Hops, TawpipeOptions, WeightCache};
use super::{can_hop_together, options};

/// The schedule that moves the fewest bytes between groups among those that fit the job's memory: without a limit the
/// one that keeps everything. If none fits, the smallest, for the caller to refuse.
///
/// Hops are collectives where they can be and there are more than two groups: as many bytes, which all network cards
/// carry at once instead of one after the other.
pub fn schedule_within(job: &Job) -> Result<Schedule, Refusal> {
    let groups = groups(job);
    let together = groups.count() > 2 && can_hop_together(options(job), &groups).is_ok();
    let hop = if together { Hops::Collective } else { options(job).hop };
    let choice = |weight_cache, grad_sync| {
        let options = TawpipeOptions { weight_cache, grad_sync, hop, auto: false, ..options(job).clone() };
        schedule(&Job { system: SystemOptions::Tawpipe(options), ..job.clone() })
    };
    let all = choice(WeightCache::Group, GradSync::Iteration)?;
    let Some(limit) = job.memory else { return Ok(all) };
    let mut candidates = vec![all];
    candidates.push(choice(WeightCache::Group, GradSync::Round)?);
    candidates.push(choice(WeightCache::None, GradSync::Iteration)?);
    candidates.push(choice(WeightCache::None, GradSync::Round)?);
    let weighed = candidates.into_iter().map(|schedule| {
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
