//! How an engine waits and what it records.

use std::time::Duration;

/// What the communication thread does while messages are on their way and do not move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    /// Sleeps some 50 µs between two looks, and leaves its core to the arithmetic.
    #[default]
    Nap,
    /// Looks all the time: for a core of its own.
    Spin,
}

/// Random pauses for tests: the order of a plan must not depend on how long anything takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delays {
    /// Longest pause before an op.
    pub max: Duration,
    /// Decides the pauses.
    pub seed: u64,
}

impl Delays {
    /// The next pause: none in half of all cases.
    pub(super) fn next(&mut self) -> Duration {
        // A linear congruential generator's high bits are random enough.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = (self.seed >> 33) as f64 / (1u64 << 31) as f64;
        self.max.mul_f64((2.0 * draw - 1.0).max(0.0))
    }
}

/// How an engine runs plans.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the communication thread waits.
    pub poll: Poll,
    /// How long nothing may move before the run fails.
    pub timeout: Duration,
    /// Whether to keep the start and end of every op.
    pub trace: bool,
    /// Random pauses, in tests.
    pub delays: Option<Delays>,
}

impl Default for Options {
    fn default() -> Self {
        Options { poll: Poll::Nap, timeout: Duration::from_secs(60), trace: false, delays: None }
    }
}
