//! Runs a plan: lanes, events, and a record of when each op started and ended.
//!
//! The compute lane is the thread that calls [`Engine::run`]; all communication lanes together are one more thread,
//! asleep between passes, which a plan without communication does not have. An op starts when the previous op of its
//! lane and the ops it waits for are complete, and nothing else is waited for.

mod compute;
mod error;
mod events;
mod lanes;
mod options;
mod script;

pub use compute::{Compute, Source};
pub use error::EngineError;
pub use options::{Delays, Options, Poll};
pub use script::Phase;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::Rank;
use crate::device::{DeviceError, Memory};
use crate::fabric::{Sent, Transfers, Wire};
use crate::plan::{Action, Lane, RankPlan, Span, Split};

use self::events::{Events, Pass};
use self::script::Script;

/// What one pass over a list took and moved, on this rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// When the pass began.
    pub began: Instant,
    /// Seconds from the beginning to the end of the last op.
    pub seconds: f64,
    /// Seconds of these in which the compute lane waited for communication.
    pub exposed: f64,
    /// Bytes this rank sent.
    pub sent: Sent,
    /// With [`Options::trace`]: when each op ran, lane by lane.
    pub spans: Vec<Span>,
}

/// What both threads see.
struct Shared {
    rank: Rank,
    /// By [`Phase`].
    scripts: Vec<Script>,
    memory: Memory,
    compute: Arc<dyn Compute>,
    options: Options,
    events: Events,
    /// The communication thread's part of the last pass.
    report: Mutex<Report>,
}

impl Shared {
    fn broken(&self, source: DeviceError) -> EngineError {
        EngineError::Device { rank: self.rank, source }
    }
}

#[derive(Default)]
struct Report {
    spans: Vec<Span>,
    sent: Sent,
}

/// Runs one rank's plan on its memory.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pass: u64,
    delays: Option<Delays>,
}

impl Engine {
    /// Makes a plan ready to run. `ranks` is the size of the world, `splits` are the schedule's and those that the wire
    /// was made of; a plan without communication lanes needs no wire and starts no thread.
    ///
    /// # Panics
    /// If the plan communicates without a wire, or has an op on a lane that cannot run it.
    pub fn new(
        plan: &RankPlan,
        splits: &[Split],
        ranks: usize,
        memory: Memory,
        compute: Arc<dyn Compute>,
        wire: Option<Box<dyn Wire>>,
        options: Options,
    ) -> Self {
        let mut transfers = Transfers::new(plan.rank, splits);
        let scripts: Vec<Script> = Phase::ALL
            .iter()
            .map(|phase| Script::new(phase.ops(plan), plan.comm_lanes, &mut transfers, &memory))
            .collect();
        let ops = scripts.iter().map(|script| script.ops.len()).max().unwrap_or(0);
        let communicates = scripts.iter().any(Script::communicates);
        let shared = Arc::new(Shared {
            rank: plan.rank,
            scripts,
            memory,
            compute,
            options,
            events: Events::new(ops),
            report: Mutex::new(Report { spans: Vec::new(), sent: Sent::new(ranks) }),
        });
        let thread = communicates.then(|| {
            let wire = wire.expect("a plan that communicates needs a wire");
            let shared = shared.clone();
            let name = format!("comm {}", plan.rank);
            let body = move || lanes::communicate(shared, wire, ranks);
            std::thread::Builder::new().name(name).spawn(body).expect("a thread for communication")
        });
        Engine { shared, thread, pass: 0, delays: options.delays }
    }

    /// The rank's memory. Between passes nothing else touches it.
    pub fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    /// Runs one of the plan's lists from its beginning to its end.
    ///
    /// # Errors
    /// If a message fails or nothing moves for [`Options::timeout`]; the engine then refuses to run again, and other
    /// ranks may wait for this one, so the job must end.
    pub fn run(&mut self, phase: Phase, source: &dyn Source) -> Result<Measured, EngineError> {
        let Shared { scripts, memory, compute, options, events, .. } = &*self.shared;
        let script = &scripts[phase as usize];
        self.pass += 1;
        let begin = Instant::now();
        let communicates = script.communicates();
        events.begin(Pass { number: self.pass, phase, begin }, communicates)?;
        let mut exposed = Duration::ZERO;
        let mut spans = Vec::with_capacity(if options.trace { script.ops.len() } else { 0 });
        for &id in &script.compute {
            let op = &script.ops[id];
            exposed += events.wait_for(&op.waits, self.pass)?;
            if let Some(delays) = &mut self.delays {
                std::thread::sleep(delays.next());
            }
            let start = begin.elapsed();
            events.set_computing(true);
            match &op.action {
                Action::Load { work, tokens } => {
                    let fill = |tokens: &mut [i32]| source.load(work.micro, tokens);
                    memory.feed(memory.view(*tokens), fill).map_err(|source| self.shared.broken(source))?;
                }
                action => compute.run(action, memory),
            }
            events.set_computing(false);
            if options.trace {
                let (start, end) = (start.as_secs_f64(), begin.elapsed().as_secs_f64());
                spans.push(Span { lane: Lane::Compute, op: id, start, end });
            }
            events.set_complete(id, self.pass);
        }
        exposed += events.join()?;
        compute.finish().map_err(|source| self.shared.broken(source))?;
        let seconds = begin.elapsed().as_secs_f64();
        let report = self.shared.report.lock().expect("nobody panics with the report");
        let mut sent = report.sent.clone();
        if communicates {
            spans.extend_from_slice(&report.spans);
        } else {
            sent.clear();
        }
        Ok(Measured { began: begin, seconds, exposed: exposed.as_secs_f64(), sent, spans })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.events.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by the run that it broke.
            let _ = thread.join();
        }
    }
}
