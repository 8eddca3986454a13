//! `single`: one rank does everything. What all other systems are compared with.

use crate::cluster::Rank;
use crate::model::{Shards, Unit};
use crate::plan::build::Slots;
use crate::plan::{Job, RankPlan, Refusal, Work};

use super::local::{Local, list};
use super::{Layout, Schedule, System};

/// See the module.
pub struct Single;

impl System for Single {
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        let ranks = job.groups.ranks();
        if ranks != 1 {
            return Err(Refusal(format!("system \"single\" runs on one rank, not on {ranks}; try \"tawpipe\"")));
        }
        let shards = Shards::new(&job.shape, 1);
        Ok(Schedule { job: job.clone(), shards, layout: Layout::Uniform, splits: Vec::new() })
    }

    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        let Schedule { job, shards, .. } = schedule;
        let mut slots = Slots::default();
        let local = Local::new(&mut slots, job, shards, (0..shards.shards.len()).map(|shard| (shard, true)));
        let owned = |unit| {
            let place = shards.place(unit);
            let owned = &local.owned[place.shard];
            (owned.weights().sub(place.range.clone()), owned.accumulator.sub(place.range.clone()))
        };
        let works = || (0..job.batch.micros).map(|micro| Work { micro, chunk: 0 });
        let blocks = 0..job.shape.layers;
        let (head, head_gradient) = owned(Unit::Head);

        let train = list(rank, |list| {
            for work in works() {
                // The first micro-batch overwrites the sums of the last iteration.
                let later = work.micro > 0;
                local.load(list, work);
                local.forward(list, Unit::Embed, work, owned(Unit::Embed).0, true);
                for block in blocks.clone() {
                    local.forward(list, Unit::Block(block), work, owned(Unit::Block(block)).0, true);
                }
                local.head(list, work, head, Some((head_gradient, later)));
                for block in blocks.clone().rev() {
                    let (weights, gradient) = owned(Unit::Block(block));
                    local.backward(list, Unit::Block(block), work, Some(weights), gradient, later);
                }
                // A tied head has written the embedding's sum already.
                local.backward(list, Unit::Embed, work, None, owned(Unit::Embed).1, later || job.shape.tied);
            }
            local.norm(list);
            local.update(list);
        });
        let evaluate = list(rank, |list| {
            for work in works() {
                local.load(list, work);
                local.forward(list, Unit::Embed, work, owned(Unit::Embed).0, false);
                for block in blocks.clone() {
                    local.forward(list, Unit::Block(block), work, owned(Unit::Block(block)).0, false);
                }
                local.head(list, work, head, None);
            }
        });
        let prepare = list(rank, |list| local.prepare(list));
        RankPlan { rank, slots: slots.finish(), comm_lanes: 0, prepare, train, evaluate }
    }
}
