//! The device that a rank computes on.

#[cfg(feature = "cuda")]
use super::cuda::{Context, Cuda, CudaOptions, Gpu};
use super::{Device, DeviceError, Memory};
use crate::plan::Slot;

/// A device, chosen when the program runs. `on_device!` makes code generic over it.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// The host's processor.
    Cpu {
        /// Computing threads, at least one.
        threads: usize,
    },
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Gpu<Cuda>),
}

impl Chosen {
    /// For one process alone: the first GPU that it sees, if there is one that can be used, else the processor.
    pub fn alone(threads: usize) -> Self {
        #[cfg(feature = "cuda")]
        {
            let first = Context::open(0).and_then(|context| Cuda::new(&context, CudaOptions::default()));
            match first {
                Ok(cuda) => return Chosen::Cuda(Gpu::new(cuda)),
                Err(DeviceError::Kernels(why)) => log::warn!("there is a GPU, but the CPU computes: {why}"),
                Err(why) => log::debug!("no GPU: {why}"),
            }
        }
        Chosen::Cpu { threads }
    }

    /// The same device. A GPU that need not be `deterministic` may take sums in any order; a processor always is.
    pub fn deterministic(self, deterministic: bool) -> Self {
        match self {
            #[cfg(feature = "cuda")]
            Chosen::Cuda(gpu) => Chosen::Cuda(gpu.deterministic(deterministic)),
            cpu => {
                let _ = deterministic; // used with GPUs only
                cpu
            }
        }
    }

    /// As [`Device::memory`].
    pub fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        on_device!(self, device => device.memory(slots))
    }

    /// What it keeps beside the plan's memory, in bytes, with what for; none of a processor, whose threads have stacks.
    pub fn scratch(&self) -> Vec<(&'static str, usize)> {
        match self {
            Chosen::Cpu { .. } => Vec::new(),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(gpu) => gpu.launcher().scratch().to_vec(),
        }
    }

    /// Bytes of a GPU's memory.
    pub fn gpu_memory(&self) -> Option<f64> {
        match self {
            Chosen::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Chosen::Cuda(gpu) => Some(gpu.launcher().context().properties().memory as f64),
        }
    }

    /// What it is called by its maker, where a program must know: GPUs.
    pub fn gpu(&self) -> Option<&str> {
        match self {
            Chosen::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Chosen::Cuda(gpu) => Some(&gpu.launcher().context().properties().name),
        }
    }
}

/// Compiles an expression for every kind of device and runs it on the chosen one: `on_device!(chosen, device => …)`.
macro_rules! on_device {
    ($chosen:expr, $device:ident => $body:expr) => {
        match $chosen {
            $crate::device::Chosen::Cpu { threads } => {
                let $device = $crate::device::Cpu::new(*threads);
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::device::Chosen::Cuda(gpu) => {
                let $device = gpu.clone();
                $body
            }
        }
    };
}
pub(crate) use on_device;
