//! `auto = true`: which weights and gradients a group keeps, by the memory there is.

use crate::plan::tables::{memory, traffic};
use crate::plan::{Job, Refusal};

use super::super::{GradSync, Schedule, SystemOptions, schedule};
use super::options;
use super::options::{TawpipeOptions, WeightCache};

/// The schedule that moves the fewest bytes between groups among those that fit the job's memory: without a limit the
/// one that keeps everything. If none fits, the smallest, for the caller to refuse.
pub fn schedule_within(job: &Job) -> Result<Schedule, Refusal> {
    let choice = |weight_cache, grad_sync| {
        let options = TawpipeOptions { weight_cache, grad_sync, auto: false, ..options(job).clone() };
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
