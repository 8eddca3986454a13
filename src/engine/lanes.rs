//! The communication thread: drives all communication lanes of a rank at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fabric::{Advance, FabricError, NAP, Pending, Progress, Sent, Wire, sleep_precisely};
use crate::plan::{Lane, OpId, Span};

use super::events::Pass;
use super::options::{Delays, Poll};
use super::script::Script;
use super::{EngineError, Shared};

/// Longest sleep while nothing is on its way: how soon the watchdog notices.
const LOOK: Duration = Duration::from_millis(100);

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
    let mut me = Communicator { shared: shared.clone(), wire, lanes, spans, sent, delays };
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
        let mut alive = (Instant::now(), events.ticks());
        loop {
            let ticks = events.ticks();
            let mut found = Found::Finished;
            for lane in 0..self.lanes.len() {
                found = found.max(self.look(lane, script, pass)?);
            }
            match found {
                Found::Finished => return Ok(true),
                Found::Moved => {}
                Found::Pending if options.poll == Poll::Spin => std::thread::yield_now(),
                Found::Pending => events.sleep(ticks, NAP),
                Found::Idle => events.sleep(ticks, LOOK.min(options.timeout)),
            }
            if found != Found::Moved && events.stopped() {
                return Ok(false);
            }
            if found == Found::Moved || ticks != alive.1 || events.computing() {
                alive = (Instant::now(), ticks);
            } else if alive.0.elapsed() > options.timeout {
                return Err(self.stalled(script, pass));
            }
        }
    }

    /// Brings a lane as far as it goes without waiting.
    fn look(&mut self, index: usize, script: &Script, pass: Pass) -> Result<Found, EngineError> {
        let mut found = Found::Idle;
        while let Some(&id) = script.comm[index].get(self.lanes[index].at) {
            let op = &script.ops[id];
            let lane = &mut self.lanes[index];
            lane.stage = match lane.stage {
                Stage::Waiting if !self.shared.events.complete(&op.waits, pass.number) => return Ok(found),
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
                    self.shared.compute.run(&op.action, &self.shared.memory);
                    Advance::Complete
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

    fn failed(&self, script: &Script, pass: Pass, op: OpId, source: FabricError) -> EngineError {
        let what = script.ops[op].action.to_string();
        EngineError::Fabric { rank: self.shared.rank, phase: pass.phase.name(), op, what, source }
    }

    /// Names what nothing has come of: a message if one is on its way, else an op that waits.
    fn stalled(&self, script: &Script, pass: Pass) -> EngineError {
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
