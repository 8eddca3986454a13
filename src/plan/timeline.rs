//! When ops ran: measured by the engine or predicted by the simulator, in one form, so that either can be drawn.

use super::{Lane, OpId};

/// One op's time on one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What ran it.
    pub lane: Lane,
    /// Which op of the rank's list.
    pub op: OpId,
    /// When it started, in seconds since the iteration began on this rank.
    pub start: f64,
    /// When it was complete, in the same seconds.
    pub end: f64,
}

impl Span {
    /// Seconds from start to end.
    pub fn seconds(&self) -> f64 {
        self.end - self.start
    }
}

/// The spans of an iteration, one list a rank. Within a list, spans of one lane follow each other in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// Spans of every rank.
    pub ranks: Vec<Vec<Span>>,
}

impl Timeline {
    /// Seconds from the beginning to the end of the last op of any rank.
    pub fn seconds(&self) -> f64 {
        self.ranks.iter().flatten().map(|span| span.end).fold(0.0, f64::max)
    }
}
