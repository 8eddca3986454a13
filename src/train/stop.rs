//! Ending early: signals and wall time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::exit::Exit;

/// Why a run should end at the next step boundary.
#[derive(Clone, Debug)]
pub struct Stop {
    signalled: Arc<AtomicBool>,
    started: Instant,
    deadline: Option<Instant>,
}

impl Stop {
    /// Watches SIGINT, SIGTERM and SIGUSR1 (what batch systems send before the end).
    pub fn watch() -> std::io::Result<Self> {
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, signalled.clone())?;
        }
        Ok(Stop { signalled, started: Instant::now(), deadline: None })
    }

    /// Watches the clock too: seconds since the watch began.
    pub fn within(mut self, wall_time: Option<f64>) -> Self {
        self.deadline = wall_time.map(|limit| self.started + Duration::from_secs_f64(limit));
        self
    }

    /// Never stops; for tests.
    pub fn never() -> Self {
        Stop { signalled: Arc::default(), started: Instant::now(), deadline: None }
    }

    /// What this rank knows.
    pub fn wanted(&self) -> Option<Exit> {
        if self.signalled.load(Ordering::Relaxed) {
            return Some(Exit::Signal);
        }
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline).then_some(Exit::WallTime)
    }
}
