//! Ending early: signals and wall time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::exit::Exit;
use crate::fabric::Control;

const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGUSR1, "SIGUSR1")];

/// What ends a run early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This signal.
    Signal(i32),
    /// `run.wall_time` has passed.
    WallTime,
}

impl Cause {
    /// As a number for messages between ranks; 0 is no cause, and a signal is the greatest.
    pub fn encode(cause: Option<Cause>) -> u64 {
        match cause {
            None => 0,
            Some(Cause::WallTime) => 1,
            Some(Cause::Signal(signal)) => 1 + u64::from(signal.unsigned_abs()),
        }
    }

    /// Back from a number.
    pub fn decode(number: u64) -> Option<Cause> {
        match number {
            0 => None,
            1 => Some(Cause::WallTime),
            _ => i32::try_from(number - 1).ok().map(Cause::Signal),
        }
    }

    /// How the program ends, once a checkpoint is written.
    pub fn exit(self) -> Exit {
        match self {
            Cause::Signal(_) => Exit::Signal,
            Cause::WallTime => Exit::WallTime,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::WallTime => f.write_str("run.wall_time is over"),
            Cause::Signal(signal) => match SIGNALS.iter().find(|(number, _)| number == signal) {
                Some((_, name)) => write!(f, "{name} received"),
                None => write!(f, "signal {signal} received"),
            },
        }
    }
}

/// Why a run should end soon.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The signal that has come; 0 for none.
    signal: Arc<AtomicUsize>,
    started: Instant,
    deadline: Option<Instant>,
}

impl Stop {
    /// Watches SIGINT, SIGTERM and SIGUSR1 (what batch systems send before the end).
    pub fn watch() -> std::io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for (number, _) in SIGNALS {
            signal_hook::flag::register_usize(number, signal.clone(), number.unsigned_abs() as usize)?;
        }
        Ok(Stop { signal, started: Instant::now(), deadline: None })
    }

    /// Watches the clock too: seconds since the watch began. A time beyond what the clock can tell never comes.
    pub fn within(mut self, wall_time: Option<f64>) -> Self {
        let limit = wall_time.and_then(|limit| Duration::try_from_secs_f64(limit).ok());
        self.deadline = limit.and_then(|limit| self.started.checked_add(limit));
        self
    }

    /// Never stops; for tests.
    pub fn never() -> Self {
        Stop::when(Arc::default())
    }

    /// Stops as if this signal had come, once `signal` holds its number; for tests.
    pub fn when(signal: Arc<AtomicUsize>) -> Self {
        Stop { signal, started: Instant::now(), deadline: None }
    }

    /// What this rank knows.
    pub fn wanted(&self) -> Option<Cause> {
        match self.signal.load(Ordering::Relaxed) {
            0 => self.deadline.filter(|deadline| Instant::now() >= *deadline).map(|_| Cause::WallTime),
            signal => i32::try_from(signal).ok().map(Cause::Signal),
        }
    }

    /// Collective. What any rank knows, on all ranks alike.
    pub fn agreed(&self, control: &dyn Control) -> Option<Cause> {
        let mine = Cause::encode(self.wanted());
        let mut verdict = Vec::new();
        if let Some(all) = control.gather(&mine.to_le_bytes()) {
            let known = all.iter().map(|bytes| bytemuck::pod_read_unaligned::<u64>(bytes));
            verdict = known.max().unwrap_or(0).to_le_bytes().to_vec();
        }
        control.broadcast(0, &mut verdict);
        Cause::decode(bytemuck::pod_read_unaligned(&verdict))
    }
}
