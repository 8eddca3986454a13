//! The machine that runs a rank's plan: from its device and from who carries its messages.

use std::sync::Arc;
use std::time::Duration;

use crate::deck::{self, Deck};
use crate::device::{Chosen, Memory};
use crate::engine::{Compute, Engine, Executor, Options, Poll};
use crate::plan::RankPlan;
use crate::plan::systems::Schedule;

use super::messages::Messages;

/// Collective. Makes a plan ready to run.
///
/// # Errors
/// If a GPU refuses, or the ranks do not find each other. The others wait, so the job must end.
pub fn executor(
    deck: &Deck,
    schedule: &Schedule,
    plan: &RankPlan,
    device: &Chosen,
    memory: Memory,
    compute: Arc<dyn Compute>,
    messages: Messages,
) -> anyhow::Result<Box<dyn Executor>> {
    let poll = match deck.run.poll {
        deck::Poll::Nap => Poll::Nap,
        deck::Poll::Spin => Poll::Spin,
    };
    let timeout = Duration::from_secs_f64(deck.run.timeout.0);
    let options = Options { poll, timeout, trace: deck.run.trace.is_some(), ..Options::default() };
    let ranks = schedule.job.groups.ranks();
    let splits = &schedule.splits;
    Ok(match (messages, device) {
        (Messages::Host(wire), Chosen::Cpu { .. }) => {
            Box::new(Engine::new(plan, splits, ranks, memory, compute, wire(splits), options))
        }
        #[cfg(feature = "cuda")]
        (Messages::Host(wire), Chosen::Cuda(gpu)) => {
            let gpu = gpu.launcher();
            let staged = wire(splits).map(|wire| crate::fabric::Staged::new(wire, gpu, plan, splits)).transpose()?;
            if let (Some(staged), 0) = (&staged, plan.rank) {
                log::info!("pinned host memory of rank 0: {}", crate::units::size(staged.pinned()));
            }
            let wire = staged.map(|staged| Box::new(staged) as Box<dyn crate::fabric::Wire>);
            let queues = Arc::new(gpus::queues(gpu, plan)?);
            Box::new(Engine::on(queues, plan, splits, ranks, memory, compute, wire, options))
        }
        #[cfg(feature = "cuda")]
        (Messages::Streams { nccl, control, shared }, Chosen::Cuda(gpu)) => {
            use crate::engine::Streams;
            use crate::fabric::nccl::Nccl;
            let gpu = gpu.launcher();
            gpu.context().enter()?;
            let nccl = nccl.map(|library| Nccl::start(library, control, splits, shared, timeout)).transpose()?;
            let nvtx = gpus::nvtx(deck.run.nvtx, plan.rank);
            let queues = gpus::queues(gpu, plan)?;
            Box::new(Streams::new(plan, splits, ranks, memory, compute, queues, nccl, nvtx, options))
        }
        #[cfg(feature = "cuda")]
        (Messages::Streams { .. }, Chosen::Cpu { .. }) => unreachable!("a processor has no streams"),
    })
}

#[cfg(feature = "cuda")]
mod gpus {
    use super::*;
    use crate::device::DeviceError;
    use crate::device::cuda::{Cuda, Nvtx};
    use crate::engine::{Phase, Queues};

    /// Streams and events for a plan.
    pub fn queues(gpu: &Cuda, plan: &RankPlan) -> Result<Queues, DeviceError> {
        let longest = Phase::ALL.map(|phase| phase.ops(plan).len()).into_iter().max().unwrap_or(0);
        Queues::new(gpu, plan.comm_lanes, longest)
    }

    /// Names for profilers, if the deck wants them.
    pub fn nvtx(wanted: bool, rank: usize) -> Option<Nvtx> {
        let opened = wanted.then(Nvtx::open)?;
        if let (Err(names), 0) = (&opened, rank) {
            log::warn!("run.nvtx: none of {names} is here (LD_LIBRARY_PATH), ops stay without names");
        }
        opened.ok()
    }
}
