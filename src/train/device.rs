//! Which device the ranks compute on: the same kind on all of them.

use crate::cluster::Groups;
use crate::deck::{DeviceKind, GpuSection};
use crate::device::Chosen;
use crate::fabric::Control;
use crate::plan::systems::Schedule;
use crate::plan::{RankPlan, tables};
use crate::units::{memory, size};

/// Bytes of a rank's memory on a GPU; 0 on a processor. Rank 0 says what they are for: the plan's slots by segment, and what
/// the device and the network keep beside them.
pub fn gpu_memory(device: &Chosen, schedule: &Schedule, plan: &RankPlan) -> u64 {
    if device.gpu().is_none() {
        return 0;
    }
    let slots =
        tables::memory(&plan.slots).into_iter().map(|(segment, bytes)| (format!("{segment:?}").to_lowercase(), bytes));
    let rotary = 4 * schedule.job.batch.seq * schedule.job.shape.head_dim;
    let beside = device.scratch().into_iter().chain([("rotary table", rotary)]);
    let all: Vec<_> = slots.chain(beside.map(|(name, bytes)| (name.to_string(), bytes))).collect();
    let some = all.iter().filter(|(_, bytes)| *bytes > 0);
    let list: Vec<String> = some.map(|(name, bytes)| format!("{name} {}", size(*bytes))).collect();
    let total: usize = all.iter().map(|(_, bytes)| bytes).sum();
    if plan.rank == 0 {
        log::info!("GPU memory of rank 0: {}; in all {}", list.join(", "), memory(total));
    }
    total as u64
}

/// Collective. The device that `kind` asks for, on every rank. `found` are the ranks that share a machine, by which GPUs are
/// dealt out.
///
/// # Errors
/// [`super::Agreed`] bad input, if the deck asks for GPUs and a rank has none of its own.
#[cfg(not(feature = "cuda"))]
pub fn choose(
    kind: DeviceKind,
    _gpu: &GpuSection,
    threads: usize,
    control: &dyn Control,
    _found: &Groups,
) -> anyhow::Result<Chosen> {
    match kind {
        DeviceKind::Cuda => {
            let message = "run.device = \"cuda\", but this program was built without the feature cuda".to_string();
            Err(super::Agreed::new(control, crate::exit::Exit::BadInput, message).into())
        }
        _ => Ok(Chosen::cpu(threads)),
    }
}

#[cfg(feature = "cuda")]
pub use gpus::choose;

#[cfg(feature = "cuda")]
mod gpus {
    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::device::cuda::{Context, Cuda, CudaOptions, Gpu, select, visible};
    use crate::exit::Exit;
    use crate::train::agree;

    /// Collective. The device that `kind` asks for, on every rank. `found` are the ranks that share a machine, by which GPUs are
    /// dealt out. `auto` takes GPUs if every rank has its own, ready to use, and says why not if there are some.
    ///
    /// # Errors
    /// [`crate::train::Agreed`] bad input, if the deck asks for GPUs and a rank has none of its own.
    pub fn choose(
        kind: DeviceKind,
        gpu: &GpuSection,
        threads: usize,
        control: &dyn Control,
        found: &Groups,
    ) -> anyhow::Result<Chosen> {
        let cpu = Chosen::cpu(threads);
        if kind == DeviceKind::Cpu {
            return Ok(cpu);
        }
        let wanted = kind == DeviceKind::Cuda;
        if !wanted {
            let mut seeing = [u64::from(visible().is_ok_and(|count| count > 0))];
            control.sum_u64(&mut seeing);
            if seeing[0] == 0 {
                return Ok(cpu);
            }
        }
        match seated(gpu, control, found) {
            Ok(gpu) => Ok(Chosen::Cuda(gpu)),
            Err(error) if wanted => Err(error),
            Err(error) => {
                if control.rank() == 0 {
                    log::warn!("there are GPUs, but all ranks compute on the CPU: {error:#}");
                }
                Ok(cpu)
            }
        }
    }

    /// Collective. A GPU for every rank, or the same error on all.
    fn seated(options: &GpuSection, control: &dyn Control, found: &Groups) -> anyhow::Result<Gpu<Cuda>> {
        let local = found.locate(control.rank()).1;
        let context = visible().and_then(|count| Context::open(select::ordinal(local, count)));
        let context = agree(control, Exit::BadInput, context.context("run.device = \"cuda\""))?;
        let properties = context.properties();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mine = format!("{}\n{}\n{}", host.trim(), properties.uuid, properties.name);
        let seats = control.gather(mine.as_bytes()).map(|all| all.iter().map(|bytes| seat(bytes)).collect::<Vec<_>>());
        let shared = seats.as_deref().and_then(select::shared).filter(|_| !options.share);
        agree(control, Exit::BadInput, shared.map_or(Ok(()), |words| Err(anyhow!(words))))?;
        let cuda = Cuda::new(&context, CudaOptions { tf32: options.tf32 });
        let cuda = agree(control, Exit::BadInput, cuda.context("run.device = \"cuda\""))?;
        if control.rank() == 0 {
            let ((major, minor), driver) = (properties.capability, properties.driver);
            log::info!(
                "GPU of rank 0: {}, sm_{major}{minor}, {} multiprocessors, {:.1} GiB; driver for CUDA {}.{}; kernels from {}",
                properties.name,
                properties.multiprocessors,
                properties.memory as f64 / f64::from(1 << 30),
                driver.0,
                driver.1,
                cuda.kernels(),
            );
        }
        Ok(Gpu::new(cuda))
    }

    fn seat(bytes: &[u8]) -> select::Seat {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.splitn(3, '\n').map(str::to_string);
        let mut line = || lines.next().unwrap_or_default();
        select::Seat { host: line(), uuid: line(), name: line() }
    }
}
