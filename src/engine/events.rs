//! Which ops are complete, and how the two threads of a rank wait for each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::plan::OpId;

use super::EngineError;
use super::script::Phase;

/// A pass over one of a plan's lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Number of the pass, from 1.
    pub number: u64,
    pub phase: Phase,
    /// When it began.
    pub begin: Instant,
}

/// What changes rarely, under the lock.
#[derive(Debug, Default)]
struct Signals {
    /// The latest pass, and whether the communication thread is still at it.
    pass: Option<Pass>,
    communicating: bool,
    stop: bool,
    failure: Option<EngineError>,
}

/// Completion of ops and the condition variable that both threads sleep on.
#[derive(Debug)]
pub(super) struct Events {
    /// For every op, the last pass in which it was completed: nothing needs to be reset between passes.
    done: Vec<AtomicU64>,
    /// For every op, the last pass in which it was put on its lane.
    put: Vec<AtomicU64>,
    /// Grows with every completion.
    ticks: AtomicU64,
    /// The compute lane is inside an op.
    computing: AtomicBool,
    signals: Mutex<Signals>,
    changed: Condvar,
}

impl Events {
    /// For lists of at most this many ops.
    pub fn new(ops: usize) -> Self {
        Events {
            done: (0..ops).map(|_| AtomicU64::new(0)).collect(),
            put: (0..ops).map(|_| AtomicU64::new(0)).collect(),
            ticks: AtomicU64::new(0),
            computing: AtomicBool::new(false),
            signals: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Signals> {
        // Every change under the lock is a single store, so a panic elsewhere leaves nothing half done.
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, signals: MutexGuard<'a, Signals>, limit: Option<Duration>) -> MutexGuard<'a, Signals> {
        match limit {
            None => self.changed.wait(signals).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => self.changed.wait_timeout(signals, limit).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Whether all these ops are complete in a pass.
    pub fn complete(&self, ops: &[OpId], pass: u64) -> bool {
        ops.iter().all(|&op| self.done[op].load(Ordering::Acquire) == pass)
    }

    /// Marks an op complete: what it wrote is visible to whoever sees it complete.
    pub fn set_complete(&self, op: OpId, pass: u64) {
        self.done[op].store(pass, Ordering::Release);
        self.ticks.fetch_add(1, Ordering::AcqRel);
        // Taking the lock keeps the waiter from falling asleep between its look and its sleep.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Says that an op is on its lane: whether it is complete is for its lanes to say.
    pub fn set_put(&self, op: OpId, pass: u64) {
        self.put[op].store(pass, Ordering::Release);
    }

    /// Whether an op is on its lane.
    pub fn is_put(&self, op: OpId, pass: u64) -> bool {
        self.put[op].load(Ordering::Acquire) == pass
    }

    /// A number that grows with every completion.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Acquire)
    }

    /// Sleeps until an op is completed after `ticks` was read, but not longer than `limit`.
    pub fn sleep(&self, ticks: u64, limit: Duration) {
        let signals = self.lock();
        if self.ticks() == ticks && !signals.stop {
            drop(self.wait(signals, Some(limit)));
        }
    }

    /// Says whether the compute lane is inside an op.
    pub fn set_computing(&self, computing: bool) {
        self.computing.store(computing, Ordering::Relaxed);
    }

    /// Whether the compute lane is inside an op.
    pub fn computing(&self) -> bool {
        self.computing.load(Ordering::Relaxed)
    }

    /// Compute lane: waits until these ops are complete, and returns for how long.
    pub fn wait_for(&self, ops: &[OpId], pass: u64) -> Result<Duration, EngineError> {
        if self.complete(ops, pass) {
            return Ok(Duration::ZERO);
        }
        self.wait_until(|_| self.complete(ops, pass))
    }

    /// Compute lane: waits until the communication thread has ended the pass, and returns for how long.
    pub fn join(&self) -> Result<Duration, EngineError> {
        self.wait_until(|signals| !signals.communicating)
    }

    fn wait_until(&self, ready: impl Fn(&Signals) -> bool) -> Result<Duration, EngineError> {
        let start = Instant::now();
        let mut signals = self.lock();
        loop {
            if let Some(failure) = &signals.failure {
                return Err(failure.clone());
            }
            if ready(&signals) {
                return Ok(start.elapsed());
            }
            signals = self.wait(signals, None);
        }
    }

    /// Compute lane: wakes the communication thread, if there is one, for a pass.
    pub fn begin(&self, pass: Pass, communicate: bool) -> Result<(), EngineError> {
        let mut signals = self.lock();
        if let Some(failure) = &signals.failure {
            return Err(failure.clone());
        }
        signals.pass = Some(pass);
        signals.communicating = communicate;
        drop(signals);
        self.changed.notify_all();
        Ok(())
    }

    /// Communication thread: sleeps until there is a pass to run; `None` when the engine ends.
    pub fn next_pass(&self) -> Option<Pass> {
        let mut signals = self.lock();
        loop {
            if signals.stop {
                return None;
            }
            if signals.communicating {
                return signals.pass;
            }
            signals = self.wait(signals, None);
        }
    }

    /// Communication thread: the pass is over.
    pub fn end_pass(&self) {
        self.lock().communicating = false;
        self.changed.notify_all();
    }

    /// Communication thread: whether the engine is being dropped.
    pub fn stopped(&self) -> bool {
        self.lock().stop
    }

    /// Tells the communication thread to end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    /// Communication thread: nothing will be completed any more.
    pub fn fail(&self, failure: EngineError) {
        self.lock().failure.get_or_insert(failure);
        self.changed.notify_all();
    }
}
