//! The cut of the model into stages.

use std::ops::Range;

use crate::cluster::{Costs, Rank, UnitCost};
use crate::model::{Recompute, Unit};
use crate::plan::{Job, Refusal};

/// How chunks (runs of units, the first holding the embedding and the last the head) are dealt to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This many chunks a rank, round the ranks again and again.
    Round(usize),
    /// Two chunks a rank, up the ranks and down again: the last rank's chunks are neighbours.
    V,
}

impl Placement {
    /// Chunks of each rank.
    pub fn chunks(self) -> usize {
        match self {
            Placement::Round(chunks) => chunks,
            Placement::V => 2,
        }
    }
}

/// Who computes what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stages {
    /// Number of ranks.
    pub ranks: usize,
    /// Dealing of chunks.
    pub placement: Placement,
    /// Of each chunk: its units by their place in the model (0: embedding).
    pub units: Vec<Range<usize>>,
}

impl Stages {
    /// Cuts a job's model, the dearest chunk being as cheap as possible.
    ///
    /// # Errors
    /// If there are more chunks than units.
    pub fn new(job: &Job, placement: Placement) -> Result<Self, Refusal> {
        let (ranks, units) = (job.groups.ranks(), job.shape.layers + 2);
        let chunks = ranks.saturating_mul(placement.chunks());
        if chunks > units {
            let stages = match placement.chunks() {
                1 => format!("{ranks} stages, one a rank"),
                each => format!("{chunks} stages, {each} on each of {ranks} ranks"),
            };
            return Err(Refusal(format!(
                "system \"{}\" cuts the model into {stages}, but it has only {units} units: embedding, {} blocks, head",
                job.system.name(),
                job.shape.layers
            )));
        }
        let costs: Vec<f64> = unit_costs(job).iter().map(UnitCost::total).collect();
        Ok(Stages { ranks, placement, units: cut(&costs, chunks) })
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.units.len()
    }

    /// Who computes a chunk.
    pub fn rank(&self, chunk: usize) -> Rank {
        match self.placement {
            Placement::V if chunk >= self.ranks => 2 * self.ranks - 1 - chunk,
            Placement::Round(_) | Placement::V => chunk % self.ranks,
        }
    }

    /// A rank's chunks, in model order.
    pub fn of(&self, rank: Rank) -> impl Iterator<Item = usize> + '_ {
        (0..self.chunks()).filter(move |&chunk| self.rank(chunk) == rank)
    }
}

/// Costs of every unit of a job, recomputation counted; those of the textbook if the job says that all is free.
fn unit_costs(job: &Job) -> Vec<UnitCost> {
    let total = job.costs.embed.total() + job.costs.block.total() + job.costs.head.total();
    let costs = if total > 0.0 { job.costs } else { Costs::unit() };
    let mut block = costs.block;
    if job.recompute == Recompute::Block {
        block.backward_input += block.forward;
    }
    let mut list = vec![costs.embed];
    list.extend((0..job.shape.layers).map(|_| block));
    list.push(costs.head);
    list
}

/// Times of the items of every chunk and of a transfer, in the unit of the job's costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Durations {
    /// Of each chunk: the forward; the head's belongs to the backward.
    pub forward: Vec<f64>,
    /// Of each chunk: the backward; if that is split, the part that others wait for.
    pub backward: Vec<f64>,
    /// Of each chunk: the rest of a split backward.
    pub weight: Vec<f64>,
    /// Of a message.
    pub hop: f64,
}

impl Durations {
    /// For the whole backward, or one `split` in two.
    pub fn new(job: &Job, stages: &Stages, split: bool) -> Self {
        let units = unit_costs(job);
        let head = units.len() - 1;
        let sum = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
            stages.units.iter().map(|chunk| chunk.clone().map(of).sum()).collect()
        };
        // Only blocks have a backward that can be split, and the head's forward is one op with its backward.
        let splits = |unit: usize| split && unit != 0 && unit != head;
        Durations {
            forward: sum(&|unit| if unit == head { 0.0 } else { units[unit].forward }),
            backward: sum(&|unit| {
                let cost = units[unit];
                match unit {
                    _ if unit == head => cost.total(),
                    _ if splits(unit) => cost.backward_input,
                    _ => cost.backward_input + cost.backward_weight,
                }
            }),
            weight: sum(&|unit| if splits(unit) { units[unit].backward_weight } else { 0.0 }),
            hop: job.costs.hop,
        }
    }
}

/// The unit at a place in the model.
pub fn unit(place: usize, layers: usize) -> Unit {
    match place {
        0 => Unit::Embed,
        _ if place == layers + 1 => Unit::Head,
        _ => Unit::Block(place - 1),
    }
}

/// Cuts a row of costs into runs of at least one: the dearest run as cheap as possible, and among such cuts the one with
/// the smallest sum of squares, so that the other runs are even too; of equals the one with the shorter first runs,
/// because earlier stages keep more micro-batches.
fn cut(costs: &[f64], runs: usize) -> Vec<Range<usize>> {
    // The bound that the first pass finds is a sum of the same terms, taken in another order.
    let dearest = best(costs, runs, f64::INFINITY, f64::max, |x| x).0;
    let bound = dearest * (1.0 + 1e-9);
    let (_, cuts) = best(costs, runs, bound, |a, b| a + b, |x| x * x);
    cuts.windows(2).map(|ends| ends[0]..ends[1]).collect()
}

/// The cut whose runs, none dearer than `bound`, have the least `join` of `price`s, and that least.
fn best(
    costs: &[f64],
    runs: usize,
    bound: f64,
    join: impl Fn(f64, f64) -> f64,
    price: impl Fn(f64) -> f64,
) -> (f64, Vec<usize>) {
    let n = costs.len();
    // Of the first `end` units in the runs so far: the least, and where the last run starts.
    let mut least = vec![f64::INFINITY; n + 1];
    least[0] = 0.0;
    let mut starts = Vec::with_capacity(runs);
    for run in 1..=runs {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut from = vec![0; n + 1];
        // Every run before and after this one has at least one unit.
        for end in run..=n - (runs - run) {
            let mut cost = 0.0;
            for start in (run - 1..end).rev() {
                cost += costs[start];
                if cost > bound || price(cost) > next[end] {
                    break;
                }
                let all = join(least[start], price(cost));
                if all <= next[end] && all < f64::INFINITY {
                    (next[end], from[end]) = (all, start);
                }
            }
        }
        least = next;
        starts.push(from);
    }
    let mut cuts = vec![n];
    for from in starts.iter().rev() {
        cuts.push(from[cuts[cuts.len() - 1]]);
    }
    cuts.reverse();
    (least[n], cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(costs: &[f64], runs: usize) -> Vec<usize> {
        cut(costs, runs).iter().map(Range::len).collect()
    }

    /// No cut of a small row has a cheaper dearest run, and every run has a unit.
    #[test]
    fn dearest_run_is_cheapest() {
        let costs = [0.0, 3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        let n = costs.len();
        for runs in 1..=n {
            // All ways to set runs - 1 cuts between n units.
            let ways = (0..1u32 << (n - 1)).filter(|ways| ways.count_ones() as usize == runs - 1);
            let dearest = |cuts: &[Range<usize>]| {
                cuts.iter().map(|run| costs[run.clone()].iter().sum::<f64>()).fold(0.0, f64::max)
            };
            let least = ways.map(|ways| {
                let mut ends = vec![0];
                ends.extend((1..n).filter(|i| ways >> (i - 1) & 1 == 1));
                ends.push(n);
                dearest(&ends.windows(2).map(|w| w[0]..w[1]).collect::<Vec<_>>())
            });
            let ours = cut(&costs, runs);
            assert!(ours.iter().all(|run| !run.is_empty()) && ours[0].start == 0 && ours[runs - 1].end == n);
            assert_eq!(dearest(&ours), least.fold(f64::INFINITY, f64::min), "{runs} runs: {ours:?}");
        }
    }

    /// Free ends do not make equal stages unequal; a dear head takes blocks off the last stage; ties make early stages
    /// short.
    #[test]
    fn even_stages() {
        assert_eq!(lengths(&[0.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 0.0], 4), [3, 2, 2, 3]);
        assert_eq!(lengths(&[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0], 4), [3, 2, 2, 1]);
        assert_eq!(lengths(&[0.0, 1.0, 1.0, 1.0, 0.0], 2), [2, 3]);
        assert_eq!(lengths(&[0.0; 5], 3).iter().sum::<usize>(), 5);
    }
}
