//! Runs a plan: lanes, events, and a record of when each op started and ended.
//!
//! An op starts when the previous op of its lane and the ops it waits for are complete, and nothing else is waited for. Who
//! moves the messages decides how: [`Engine`] is for messages that the host looks after (MPI), `Streams` for those that a
//! GPU carries out by itself (NCCL). Both run the same plan as an [`Executor`] and record the same.
//!
//! In an [`Engine`] the compute lane is the thread that calls [`Engine::run`]; all communication lanes together are one more
//! thread, asleep between passes, which a plan without communication does not have. Where ops are done is for [`Lanes`] to
//! say: a processor does them at once; a GPU's stream does them later, and the host waits for an op only before another
//! lane's may start.

mod compute;
mod error;
mod events;
mod lane;
mod lanes;
mod options;
#[cfg(feature = "cuda")]
mod queues;
mod script;
#[cfg(feature = "cuda")]
mod streams;

pub use compute::{Compute, Source};
pub use error::EngineError;
pub use lane::{AtOnce, Lanes};
pub use options::{Delays, Options, Poll};
#[cfg(feature = "cuda")]
pub use queues::Queues;
pub use script::Phase;
#[cfg(feature = "cuda")]
pub use streams::Streams;

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::Rank;
use crate::device::{DeviceError, Memory};
use crate::fabric::{Sent, Transfer, Transfers, Wire};
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

/// Runs one rank's plan on its memory.
pub trait Executor {
    /// The rank's memory. Between passes nothing else touches it.
    fn memory(&self) -> &Memory;

    /// Runs one of the plan's lists from its beginning to its end.
    ///
    /// # Errors
    /// If a message or the device fails, or nothing moves for [`Options::timeout`]; the executor then refuses to run again,
    /// and other ranks may wait for this one, so the job must end.
    fn run(&mut self, phase: Phase, source: &dyn Source) -> Result<Measured, EngineError>;

    /// Collective, after the last pass: takes leave of the other ranks. An executor that is dropped without it gives up what
    /// it has of them.
    ///
    /// # Errors
    /// If they cannot be reached any more.
    fn finish(&mut self) -> Result<(), EngineError>;
}

/// What both threads see.
struct Shared {
    rank: Rank,
    /// By [`Phase`].
    scripts: Vec<Script<Transfer>>,
    memory: Memory,
    compute: Arc<dyn Compute>,
    lanes: Arc<dyn Lanes>,
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

/// Runs one rank's plan on its memory; the host looks after its messages.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    pass: u64,
    delays: Option<Delays>,
}

impl Engine {
    /// Makes a plan ready to run. `ranks` is the size of the world, `splits` are the schedule's and those that the wire
    /// was made of; a plan without communication lanes needs no wire and starts no thread. `compute` is a processor's.
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
        Engine::on(Arc::new(AtOnce), plan, splits, ranks, memory, compute, wire, options)
    }

    /// As [`Engine::new`], with ops done by `lanes`.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the machine")]
    pub fn on(
        lanes: Arc<dyn Lanes>,
        plan: &RankPlan,
        splits: &[Split],
        ranks: usize,
        memory: Memory,
        compute: Arc<dyn Compute>,
        wire: Option<Box<dyn Wire>>,
        options: Options,
    ) -> Self {
        let mut transfers = Transfers::new(plan.rank, splits);
        let scripts: Vec<Script<Transfer>> = Phase::ALL
            .iter()
            .map(|phase| Script::new(phase.ops(plan), plan.comm_lanes, |action| transfers.make(action, &memory)))
            .collect();
        let ops = scripts.iter().map(|script| script.ops.len()).max().unwrap_or(0);
        let communicates = scripts.iter().any(Script::communicates);
        let shared = Arc::new(Shared {
            rank: plan.rank,
            scripts,
            memory,
            compute,
            lanes,
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
}

impl Executor for Engine {
    fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    fn run(&mut self, phase: Phase, source: &dyn Source) -> Result<Measured, EngineError> {
        let Shared { scripts, memory, compute, lanes, options, events, .. } = &*self.shared;
        let broken = |source| self.shared.broken(source);
        let script = &scripts[phase as usize];
        self.pass += 1;
        let communicates = script.communicates();
        lanes.begin().map_err(broken)?;
        let begin = Instant::now();
        events.begin(Pass { number: self.pass, phase, begin }, communicates)?;
        let mut waited = Duration::ZERO;
        let mut spans = Vec::with_capacity(if options.trace { script.ops.len() } else { 0 });
        for &id in &script.compute {
            let op = &script.ops[id];
            waited += events.wait_for(&script.foreign[id], self.pass)?;
            if let Some(delays) = &mut self.delays {
                std::thread::sleep(delays.next());
            }
            let start = begin.elapsed().as_secs_f64();
            events.set_computing(true);
            let mut fed = Ok(());
            let mut work = || match &op.action {
                Action::Load { work, tokens } => {
                    fed = memory.feed(memory.view(*tokens), |tokens| source.load(work.micro, tokens));
                }
                action => compute.run(action, memory),
            };
            lanes.put(Lane::Compute, id, &mut work).and(fed).map_err(broken)?;
            events.set_computing(false);
            if options.trace {
                spans.push(Span { lane: Lane::Compute, op: id, start, end: begin.elapsed().as_secs_f64() });
            }
            events.set_put(id, self.pass);
            if lanes.is_complete(id).map_err(broken)? {
                events.set_complete(id, self.pass);
            }
        }
        compute.finish().map_err(broken)?;
        let tail = events.join()?;
        let seconds = begin.elapsed().as_secs_f64();
        for span in &mut spans {
            if let Some([start, end]) = lanes.times(span.op).map_err(broken)? {
                (span.start, span.end) = (start, end);
            }
        }
        let waited = script.waited(&**lanes).map_err(broken)?.unwrap_or(waited.as_secs_f64());
        let report = self.shared.report.lock().expect("nobody panics with the report");
        let mut sent = report.sent.clone();
        if communicates {
            spans.extend_from_slice(&report.spans);
        } else {
            sent.clear();
        }
        Ok(Measured { began: begin, seconds, exposed: waited + tail.as_secs_f64(), sent, spans })
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        // Communicators of MPI live as long as the world.
        Ok(())
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
