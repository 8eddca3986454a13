//! Runs a plan on a GPU whose streams also carry the messages, through NCCL.
//!
//! One thread walks the rank's list once, in issue order, and enqueues each op on its lane's stream; a wait for an op of
//! another lane makes the stream wait for that op's event. The host looks on while the GPU works, and is behind it by a few
//! ops only, so that it can say which op does not end.
//!
//! Why this is another loop than [`super::Engine`]'s: there the host itself moves the messages and must look after each,
//! which takes a thread of its own and starts nothing before it may start; here everything is handed over in advance.
//!
//! Why it cannot deadlock: every rank calls NCCL in its issue order, and operations start in the order of the calls (see
//! [`crate::fabric::nccl::prepare`]; with an older NCCL each is made to wait for the one before). The checker's second rule
//! proves that no circle arises even if each rank runs its communication one op at a time in issue order. As computation
//! only waits for ops of its own rank that were issued earlier, that also holds for a host that stops anywhere in its list:
//! inside NCCL while it connects to a peer, or because a queue of the driver is full.

mod watch;

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::Rank;
use crate::device::cuda::Nvtx;
use crate::device::{DeviceError, Memory};
use crate::fabric::nccl::{Calls, Nccl, calls};
use crate::fabric::{FabricError, Sent};
use crate::plan::{Action, Lane, OpId, RankPlan, Span, Split};

use super::script::{Phase, Script};
use super::{Compute, EngineError, Executor, Lanes, Measured, Options, Queues, Source};

use self::watch::Watch;

/// Ops of the compute lane that may be enqueued and not complete. Some hundred launches: enough to keep the GPU busy, and
/// fewer than the driver takes before its calls block, because who is blocked there cannot look after messages.
const AHEAD: usize = 12;

/// Runs one rank's plan on a GPU with NCCL.
pub struct Streams {
    rank: Rank,
    /// By [`Phase`], with what each sends.
    scripts: Vec<(Script<Calls>, Sent)>,
    memory: Arc<Memory>,
    compute: Arc<dyn Compute>,
    queues: Arc<Queues>,
    nccl: Option<Nccl>,
    /// NCCL does not keep the order of calls of different communicators.
    ordered: bool,
    nvtx: Option<Nvtx>,
    options: Options,
    /// Why it cannot run again.
    failure: Option<EngineError>,
}

impl Streams {
    /// Makes a plan ready to run. `ranks` is the size of the world, `splits` are the schedule's and those that `nccl` was
    /// made of; a plan in which nobody talks to another rank needs none. `queues` can hold the plan's longest list.
    ///
    /// # Panics
    /// If the plan has an op on a lane that cannot run it.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the machine")]
    pub fn new(
        plan: &RankPlan,
        splits: &[Split],
        ranks: usize,
        memory: Memory,
        compute: Arc<dyn Compute>,
        queues: Queues,
        nccl: Option<Nccl>,
        nvtx: Option<Nvtx>,
        options: Options,
    ) -> Self {
        let script = |phase: Phase| {
            let ops = phase.ops(plan);
            let script = Script::new(ops, plan.comm_lanes, |action| calls(action, plan.rank, splits, &memory));
            (script, Sent::planned(ranks, splits, plan, ops))
        };
        let scripts = Phase::ALL.into_iter().map(script).collect();
        let ordered = nccl.as_ref().is_none_or(Nccl::keeps_order);
        let (memory, queues, failure) = (Arc::new(memory), Arc::new(queues), None);
        Streams { rank: plan.rank, scripts, memory, compute, queues, nccl, ordered, nvtx, options, failure }
    }

    /// Enqueues a list and waits until it is done.
    fn pass(&mut self, phase: Phase, source: &dyn Source) -> Result<Measured, EngineError> {
        let Streams { rank, scripts, memory, compute, queues, nccl, ordered, nvtx, options, .. } = self;
        let (script, sent) = &scripts[phase as usize];
        let mut watch = Watch::new(*rank, phase, script, queues, options);
        let broken = |source: DeviceError| EngineError::Device { rank: *rank, source };
        queues.begin().map_err(broken)?;
        let began = Instant::now();
        let mut last_call = None;
        for (id, op) in script.ops.iter().enumerate() {
            watch.until(nccl.as_ref(), |watch| watch.open(Lane::Compute) < AHEAD)?;
            let _range = nvtx.as_ref().map(|nvtx| nvtx.range(&op.action));
            for &wait in &script.foreign[id] {
                queues.follow(op.lane, wait).map_err(broken)?;
            }
            if script.transfers[id].is_some()
                && let Some(call) = last_call.replace(id).filter(|_| !*ordered)
            {
                queues.follow(op.lane, call).map_err(broken)?;
            }
            let mut fed = Ok(());
            let mut sent = Ok(());
            let mut work = || match (&op.action, &script.transfers[id]) {
                (Action::Load { work, tokens }, _) => {
                    fed = memory.feed(memory.view(*tokens), |tokens| source.load(work.micro, tokens));
                }
                (_, Some(calls)) => sent = enqueue(nccl.as_mut(), calls, queues, op.lane),
                (action, None) => compute.run(action, memory),
            };
            queues.put(op.lane, id, &mut work).and(fed).map_err(broken)?;
            sent.map_err(|source| watch.failed(id, source))?;
            watch.put(id);
        }
        watch.until(nccl.as_ref(), Watch::is_over)?;
        compute.finish().map_err(broken)?;
        let seconds = began.elapsed().as_secs_f64();
        let exposed = exposed(script, queues).map_err(broken)?;
        let spans = if options.trace { spans(script, queues).map_err(broken)? } else { Vec::new() };
        Ok(Measured { began, seconds, exposed, sent: sent.clone(), spans })
    }
}

impl Executor for Streams {
    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn run(&mut self, phase: Phase, source: &dyn Source) -> Result<Measured, EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let measured = self.pass(phase, source);
        if let Err(failure) = &measured {
            self.failure = Some(failure.clone());
        }
        measured
    }

    fn finish(&mut self) -> Result<(), EngineError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let ended = self.nccl.take().map_or(Ok(()), Nccl::finish);
        ended.map_err(|source| EngineError::End { rank: self.rank, source })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if self.failure.is_some() {
            // To free what a GPU uses would wait for it, and it may never end: what is left of the job is to say why.
            drop(self.nccl.take());
            std::mem::forget((self.memory.clone(), self.compute.clone(), self.queues.clone()));
        }
    }
}

/// Gives an op's calls to NCCL. A rank that is alone in its set has none, and perhaps no NCCL.
fn enqueue(nccl: Option<&mut Nccl>, calls: &Calls, queues: &Queues, lane: Lane) -> Result<(), FabricError> {
    match nccl {
        Some(nccl) => nccl.enqueue(calls, queues.stream(lane)),
        None => {
            assert!(calls.list.is_empty(), "a plan that communicates needs NCCL");
            Ok(())
        }
    }
}

/// Seconds in which the compute lane waited for others, those at the end of the pass included.
fn exposed(script: &Script<Calls>, queues: &Queues) -> Result<f64, DeviceError> {
    let end =
        |list: &[OpId]| list.last().map_or(Ok(0.0), |&id| queues.times(id).map(|t| t.map_or(0.0, |[_, end]| end)));
    let computed = end(&script.compute)?;
    let mut last = computed;
    for lane in &script.comm {
        last = f64::max(last, end(lane)?);
    }
    Ok(script.waited(queues)?.unwrap_or(0.0) + last - computed)
}

/// When each op ran, in the form that every engine records.
fn spans(script: &Script<Calls>, queues: &Queues) -> Result<Vec<Span>, DeviceError> {
    let mut spans = Vec::with_capacity(script.ops.len());
    for (id, op) in script.ops.iter().enumerate() {
        if let Some([start, end]) = queues.times(id)? {
            spans.push(Span { lane: op.lane, op: id, start, end });
        }
    }
    Ok(spans)
}
