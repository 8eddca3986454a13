//! The communication thread: drives all communication lanes of a rank at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fabric::{Advance, FabricError, NAP, Pending, Progress, Sent, Transfer, Wire, sleep_precisely};
use crate::plan::{Lane, OpId, Span};

use super::events::Pass;
use super::options::{Delays, Poll};
use super::script::Script;
use super::{EngineError, Shared};

/// Longest sleep while nothing is on its way: how soon the watchdog notices.
const LOOK: Duration = Duration::from_millis(100);

/// Longest sleep while messages are on their way.
const LONG_NAP: Duration = Duration::from_millis(1);

/// How long to sleep before the next look at messages that have not moved for this long: a looking thread takes time from
/// the one that computes, and a message that has been on its way for 10 ms may be noticed half a millisecond late.
fn nap(still: Duration) -> Duration {
    (still / 20).clamp(NAP, LONG_NAP)
}

/// Where a lane stands in its list.
#[derive(Default)]
struct LaneState {
    /// Index of the current op in the lane's list.
    at: usize,
    stage: Stage,
    progress: Progress,
}

/// Where the current op stands.
#[derive(Clone, Copy, Default)]
enum Stage {
    /// It waits for other ops.
    #[default]
    Waiting,
    /// It could start but a test holds it back.
    Held(Instant),
    /// It runs, since this time.
    Running(Instant),
}

/// What a look at a lane found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// The lane's list is at its end.
    Finished,
    /// Its op waits for other ops of this rank.
    Idle,
    /// Its op runs, and nothing has changed.
    Pending,
    /// Something happened.
    Moved,
}

/// The communication thread's own things.
struct Communicator {
    shared: Arc<Shared>,
    wire: Box<dyn Wire>,
    lanes: Vec<LaneState>,
    /// Ops of the compute lane that were complete when last looked at.
    computed: usize,
    spans: Vec<Span>,
    sent: Sent,
    delays: Option<Delays>,
}

/// Tells the compute lane if the thread panics.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.events.fail(EngineError::Panicked { rank: self.0.rank });
        }
    }
}

/// The body of the communication thread: runs pass after pass until the engine ends or something fails.
pub(super) fn communicate(shared: Arc<Shared>, wire: Box<dyn Wire>, ranks: usize) {
    sleep_precisely();
    let _alarm = Alarm(shared.clone());
    let lanes = shared.scripts[0].comm.iter().map(|_| LaneState::default()).collect();
    let delays = shared.options.delays.map(|delays| Delays { seed: !delays.seed, ..delays });
    let (spans, sent) = (Vec::new(), Sent::new(ranks));
    let mut me = Communicator { shared: shared.clone(), wire, lanes, computed: 0, spans, sent, delays };
    while let Some(pass) = shared.events.next_pass() {
        match me.run(pass) {
            Ok(true) => {
                let mut report = shared.report.lock().expect("nobody panics with the report");
                std::mem::swap(&mut report.spans, &mut me.spans);
                std::mem::swap(&mut report.sent, &mut me.sent);
                drop(report);
                shared.events.end_pass();
            }
            ended => {
                // Messages may still be on their way into this memory: it must outlive them, so it is never freed.
                std::mem::forget(shared.clone());
                if let Err(failure) = ended {
                    shared.events.fail(failure);
                }
                return;
            }
        }
    }
}

impl Communicator {
    /// Runs all lanes to their ends; false if the engine is dropped meanwhile.
    fn run(&mut self, pass: Pass) -> Result<bool, EngineError> {
        let shared = self.shared.clone();
        let (events, options) = (&shared.events, &shared.options);
        let script = &shared.scripts[pass.phase as usize];
        self.spans.clear();
        self.sent.clear();
        self.lanes.iter_mut().for_each(|lane| lane.at = 0);
        self.computed = 0;
        let mut alive = (Instant::now(), events.ticks());
        let mut moved = Instant::now();
        loop {
            let ticks = events.ticks();
            let mut found = Found::Finished;
            for lane in 0..self.lanes.len() {
                found = found.max(self.look(lane, script, pass)?);
            }
            let computing = self.computes(script, pass)?;
            match found {
                Found::Finished => return Ok(true),
                Found::Moved => moved = Instant::now(),
                Found::Pending if options.poll == Poll::Spin => std::thread::yield_now(),
                Found::Pending => events.sleep(ticks, nap(moved.elapsed())),
                // Nobody wakes this thread when a device completes an op.
                Found::Idle if computing => events.sleep(ticks, NAP),
                Found::Idle => events.sleep(ticks, LOOK.min(options.timeout)),
            }
            if found != Found::Moved && events.stopped() {
                return Ok(false);
            }
            if found == Found::Moved || ticks != alive.1 || computing || events.computing() {
                alive = (Instant::now(), ticks);
            } else if alive.0.elapsed() > options.timeout {
                return Err(self.stalled(script, pass));
            }
        }
    }

    /// Whether all these ops are complete. Those of the compute lane may be on a device, which is asked.
    fn complete(&self, script: &Script<Transfer>, ops: &[OpId], pass: Pass) -> Result<bool, EngineError> {
        let Shared { events, lanes, .. } = &*self.shared;
        for &op in ops {
            if events.complete(&[op], pass.number) {
                continue;
            }
            let there = script.ops[op].lane == Lane::Compute && events.is_put(op, pass.number);
            if !there || !lanes.is_complete(op).map_err(|source| self.shared.broken(source))? {
                return Ok(false);
            }
            events.set_complete(op, pass.number);
        }
        Ok(true)
    }

    /// Whether a device is at an op of the compute lane. A processor is not between two ops.
    fn computes(&mut self, script: &Script<Transfer>, pass: Pass) -> Result<bool, EngineError> {
        while let Some(&op) = script.compute.get(self.computed)
            && self.shared.events.is_put(op, pass.number)
        {
            if !self.complete(script, &[op], pass)? {
                return Ok(true);
            }
            self.computed += 1;
        }
        Ok(false)
    }

    /// Brings a lane as far as it goes without waiting.
    fn look(&mut self, index: usize, script: &Script<Transfer>, pass: Pass) -> Result<Found, EngineError> {
        let mut found = Found::Idle;
        while let Some(&id) = script.comm[index].get(self.lanes[index].at) {
            let op = &script.ops[id];
            if matches!(self.lanes[index].stage, Stage::Waiting) && !self.complete(script, &script.foreign[id], pass)? {
                return Ok(found);
            }
            let lane = &mut self.lanes[index];
            lane.stage = match lane.stage {
                Stage::Waiting => match &mut self.delays {
                    Some(delays) => Stage::Held(Instant::now() + delays.next()),
                    None => Stage::Running(Instant::now()),
                },
                Stage::Held(until) if until > Instant::now() => return Ok(found.max(Found::Pending)),
                Stage::Held(_) => Stage::Running(Instant::now()),
                running => running,
            };
            let Stage::Running(start) = lane.stage else { continue };
            let advance = match &script.transfers[id] {
                Some(transfer) => lane
                    .progress
                    .advance(transfer, &mut *self.wire, &mut self.sent)
                    .map_err(|source| self.failed(script, pass, id, source))?,
                None => {
                    let Shared { events, lanes, compute, memory, .. } = &*self.shared;
                    if !events.is_put(id, pass.number) {
                        let put = lanes.put(op.lane, id, &mut || compute.run(&op.action, memory));
                        put.map_err(|source| self.shared.broken(source))?;
                        events.set_put(id, pass.number);
                    }
                    match lanes.is_complete(id).map_err(|source| self.shared.broken(source))? {
                        true => Advance::Complete,
                        false => Advance::Still,
                    }
                }
            };
            match advance {
                Advance::Still => return Ok(found.max(Found::Pending)),
                Advance::Moved => return Ok(Found::Moved),
                Advance::Complete => {}
            }
            if self.shared.options.trace {
                let seconds = |time: Instant| (time - pass.begin).as_secs_f64();
                let (start, end) = (seconds(start), seconds(Instant::now()));
                self.spans.push(Span { lane: Lane::Comm(index), op: id, start, end });
            }
            let lane = &mut self.lanes[index];
            lane.stage = Stage::Waiting;
            lane.at += 1;
            self.shared.events.set_complete(id, pass.number);
            found = Found::Moved;
        }
        Ok(if found == Found::Moved { found } else { Found::Finished })
    }

    fn failed(&self, script: &Script<Transfer>, pass: Pass, op: OpId, source: FabricError) -> EngineError {
        let what = script.ops[op].action.to_string();
        EngineError::Fabric { rank: self.shared.rank, phase: pass.phase.name(), op, what, source }
    }

    /// Names what nothing has come of: a message if one is on its way, else an op that waits.
    fn stalled(&self, script: &Script<Transfer>, pass: Pass) -> EngineError {
        let current = |index: usize| script.comm[index].get(self.lanes[index].at).copied();
        let message = (0..self.lanes.len()).find_map(|index| {
            let op = current(index).filter(|_| matches!(self.lanes[index].stage, Stage::Running(_)))?;
            let pending = self.lanes[index].progress.pending(script.transfers[op].as_ref()?)?;
            let cause = match pending {
                Pending::Send(peer) => format!("rank {peer} to receive"),
                Pending::Receive(peer) => format!("rank {peer} to send"),
            };
            Some((op, cause))
        });
        let waiting = || {
            let op = (0..self.lanes.len()).find_map(current).expect("a lane that has not finished");
            let mut waits = script.ops[op].waits.iter();
            let on = waits.find(|&&wait| !self.shared.events.complete(&[wait], pass.number));
            (op, on.map_or_else(String::new, |on| format!("op {on} ({})", script.ops[*on].action)))
        };
        let (op, cause) = message.unwrap_or_else(waiting);
        EngineError::Stalled {
            rank: self.shared.rank,
            seconds: self.shared.options.timeout.as_secs(),
            phase: pass.phase.name(),
            op,
            what: script.ops[op].action.to_string(),
            cause,
        }
    }
}
