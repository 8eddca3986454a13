//! `toy`: every rank has all weights, takes its own micro-batches, and at the end all gradients are summed.
//!
//! The example of docs/add-a-system.md, which shows this file. It is compiled and checked with the tests, but not in the
//! table: `ddp` is what it wants to be.

use crate::cluster::Rank;
use crate::model::{Dtype, Shards, Unit};
use crate::plan::build::{Elastic, List, Slots};
use crate::plan::collective::{Collective, scratch};
use crate::plan::{Action, Algorithm, Call, Job, Lane, Payload, RankPlan, Refusal, Segment, Split, Work};

use super::local::{Local, list};
use super::{Layout, Schedule, System};

/// See the module.
pub struct Toy;

/// The one communication lane; its communicator has the same number.
const SUM: Lane = Lane::Comm(0);

impl System for Toy {
    /// What concerns all ranks: whether the job can run, how the model is cut, who talks to whom.
    fn schedule(&self, job: &Job) -> Result<Schedule, Refusal> {
        if job.grad_dtype != Dtype::F32 {
            return Err(Refusal("system \"toy\" sums gradients in f32; remove run.grad_dtype".into()));
        }
        let world = vec![(0..job.groups.ranks()).collect()];
        Ok(Schedule {
            job: job.clone(),
            shards: Shards::new(&job.shape, 1),
            layout: Layout::Uniform,
            splits: vec![Split { name: "sum", sets: world }],
        })
    }

    /// One rank's memory and its three lists.
    fn rank(&self, schedule: &Schedule, rank: Rank) -> RankPlan {
        let Schedule { job, shards, .. } = schedule;
        let ranks = job.groups.ranks();
        let mut slots = Slots::default();
        // Master, moments and accumulator of every shard; of all the copies, rank 0's counts in the norm and is saved.
        let local = Local::new(&mut slots, job, shards, (0..shards.shards.len()).map(|shard| (shard, rank == 0)));
        let mut sum_scratch = Elastic::new("sum scratch".into(), Dtype::F32, Segment::Gradient);
        let works = || (rank..job.batch.micros).step_by(ranks).map(|micro| Work { micro, chunk: 0 });
        let owned = |unit| {
            let place = shards.place(unit);
            let owned = &local.owned[place.shard];
            (owned.weights().sub(place.range.clone()), owned.accumulator.sub(place.range.clone()))
        };
        let forward = |list: &mut List, work, training| {
            local.load(list, work);
            for unit in units(job) {
                local.forward(list, unit, work, owned(unit).0, training);
            }
        };

        let train = list(rank, |list| {
            for work in works() {
                forward(list, work, true);
                // A rank's first micro-batch overwrites the sums of the last iteration.
                let later = work.micro >= ranks;
                let (weights, gradient) = owned(Unit::Head);
                local.head(list, work, weights, Some((gradient, later)));
                for unit in units(job).rev() {
                    let (weights, gradient) = owned(unit);
                    // The embedding's backward reads no weights, and a tied head has written its sum already.
                    let embed = unit == Unit::Embed;
                    let add = later || (embed && job.shape.tied);
                    local.backward(list, unit, work, (!embed).then_some(weights), gradient, add);
                }
            }
            for owned in &local.owned {
                if works().next().is_none() {
                    list.push(Lane::Compute, Action::Clear { dst: owned.accumulator });
                }
                let (what, algorithm, len) = (Collective::AllReduce, Algorithm::Ring, owned.accumulator.len);
                let call = Call {
                    comm: 0,
                    what,
                    algorithm,
                    region: owned.accumulator,
                    scratch: scratch(what, algorithm, len, ranks).map(|len| sum_scratch.take(&mut slots, len)),
                    payload: Payload::Gradient(owned.shard, 0..len),
                };
                if ranks > 1 {
                    list.push(SUM, Action::Collective(call));
                }
            }
            local.norm(list);
            if ranks > 1 {
                local.sum_stats(list, SUM, 0);
            }
            local.update(list);
        });
        let evaluate = list(rank, |list| {
            for work in works() {
                forward(list, work, false);
                local.head(list, work, owned(Unit::Head).0, None);
            }
            if ranks > 1 {
                local.sum_stats(list, SUM, 0);
            }
        });
        let prepare = list(rank, |list| local.prepare(list));
        RankPlan { rank, slots: slots.finish(), comm_lanes: 1, prepare, train, evaluate }
    }
}

/// Embedding and blocks, upwards.
fn units(job: &Job) -> impl DoubleEndedIterator<Item = Unit> {
    std::iter::once(Unit::Embed).chain((0..job.shape.layers).map(Unit::Block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Costs, Groups};
    use crate::model::{ModelShape, Recompute};
    use crate::plan::Batch;
    use crate::plan::check::check;
    use crate::plan::systems::SystemOptions;

    fn job(groups: &[usize], layers: usize, micros: usize, tied: bool) -> Job {
        let (rope_theta, norm_eps) = (1e4, 1e-5);
        let (dim, heads, head_dim) = (8, 2, 4);
        Job {
            shape: ModelShape {
                dim,
                layers,
                heads,
                kv_heads: 1,
                head_dim,
                ffn: 12,
                vocab: 40,
                tied,
                rope_theta,
                norm_eps,
                extra: Default::default(),
            },
            groups: Groups::new(groups),
            batch: Batch { seq: 4, micro: 2, micros },
            dtype: Dtype::Bf16,
            grad_dtype: Dtype::F32,
            recompute: Recompute::Block,
            costs: Costs::unit(),
            memory: None,
            // A system of the table has options of its own here.
            system: SystemOptions::Single,
        }
    }

    fn plans(job: &Job) -> (Schedule, Vec<RankPlan>) {
        let schedule = Toy.schedule(job).unwrap();
        let plans = (0..job.groups.ranks()).map(|rank| Toy.rank(&schedule, rank)).collect();
        (schedule, plans)
    }

    /// Over its domain the plan is right: also with more ranks than micro-batches, and with a tied head.
    #[test]
    fn checks_clean() {
        for groups in [&[1][..], &[2], &[3, 1], &[2, 2, 2]] {
            for (layers, micros, tied) in [(1, 1, false), (3, 4, true), (2, 9, false)] {
                let job = job(groups, layers, micros, tied);
                let (schedule, plans) = plans(&job);
                let found = check(&schedule, &plans);
                assert!(found.is_ok(), "{job:?}: {:?}", found.err());
            }
        }
    }

    /// The checker would have noticed a gradient that is not summed.
    #[test]
    fn a_missing_sum_is_found() {
        let (schedule, mut plans) = plans(&job(&[2], 2, 4, false));
        for plan in &mut plans {
            let sum = plan
                .train
                .iter()
                .rposition(|op| matches!(&op.action, Action::Collective(call) if call.payload != Payload::Scalars));
            let region = match &plan.train[sum.unwrap()].action {
                Action::Collective(call) => call.region,
                _ => unreachable!(),
            };
            // An op that does nothing useful in its place keeps the numbers of the others.
            plan.train[sum.unwrap()].action = Action::Cast { src: region, dst: region };
        }
        assert!(check(&schedule, &plans).is_err());
    }

    /// A ring all-reduce sends (N-1)/N of every gradient twice from every rank.
    #[test]
    fn bytes_are_those_of_a_ring() {
        let (schedule, plans) = plans(&job(&[4], 2, 4, false));
        let summary = check(&schedule, &plans).unwrap();
        let elems: usize = schedule.shards.shards.iter().map(|shard| shard.len).sum();
        assert_eq!(summary.traffic().intra, 2 * 3 * elems * 4);
    }

    /// What it cannot do, it says in a sentence for the user.
    #[test]
    fn refuses_other_gradients() {
        let job = Job { grad_dtype: Dtype::Bf16, ..job(&[2], 1, 2, false) };
        assert!(Toy.schedule(&job).unwrap_err().0.contains("run.grad_dtype"));
    }
}
