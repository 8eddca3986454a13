//! Pictures of a timeline, measured or predicted: as SVG to look at, as a trace for ui.perfetto.dev.

mod gantt;
mod kind;
mod label;
mod moving;
mod perfetto;

pub use gantt::gantt;
pub use kind::Kind;
pub use perfetto::perfetto;

use crate::plan::systems::Schedule;
use crate::plan::{Lane, RankPlan, Timeline};

/// What the numbers of a timeline are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Forwards of one block, the unit in which papers draw schedules.
    Forwards,
}

/// A timeline with the plan whose training iteration it is.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Decisions that concern all ranks.
    pub schedule: &'a Schedule,
    /// All ranks' plans.
    pub plans: &'a [RankPlan],
    /// When the ops of their `train` lists ran.
    pub timeline: &'a Timeline,
    /// Unit of the timeline.
    pub unit: TimeUnit,
}

impl Picture<'_> {
    /// First start and last end of any op; `(0, 1)` for an empty timeline.
    fn limits(&self) -> (f64, f64) {
        let spans = || self.timeline.ranks.iter().flatten();
        let first = spans().map(|span| span.start).fold(f64::INFINITY, f64::min);
        let last = spans().map(|span| span.end).fold(f64::NEG_INFINITY, f64::max);
        if last > first { (first, last) } else { (0.0, 1.0) }
    }

    /// A lane's name: what its first communication is called.
    fn lane_name(&self, rank: usize, lane: Lane) -> String {
        let Lane::Comm(number) = lane else { return "compute".into() };
        let plan = &self.plans[rank];
        let comm = plan.train.iter().filter(|op| op.lane == lane).find_map(|op| op.action.comm());
        comm.map_or_else(|| format!("lane {number}"), |comm| self.schedule.splits[comm].name.to_string())
    }

    /// Share of the time from the first op of all ranks to the last in which a rank's compute lane runs nothing.
    pub fn idle(&self, rank: usize) -> f64 {
        let (first, last) = self.limits();
        let busy = self.timeline.ranks[rank].iter().filter(|span| span.lane == Lane::Compute);
        1.0 - busy.map(|span| span.seconds()).sum::<f64>() / (last - first)
    }
}
