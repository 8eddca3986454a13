//! The device that a rank computes on.

#[cfg(feature = "cuda")]
use super::cuda::{Context, Cuda, CudaOptions, Gpu};
use super::{Bf16Products, Device, DeviceError, Memory};
use crate::plan::Slot;

/// A device, chosen when the program runs. `on_device!` makes code generic over it.
#[derive(Clone, Debug)]
pub enum Chosen {
    /// The host's processor.
    Cpu {
        /// Computing threads, at least one.
        threads: usize,
        /// What multiplies bf16 matrices; left out: the best that this machine can run.
        products: Option<Bf16Products>,
    },
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Gpu<Cuda>),
}

impl Chosen {
    /// The host's processor.
    pub fn cpu(threads: usize) -> Self {
        Chosen::Cpu { threads, products: None }
    }

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
        Chosen::cpu(threads)
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

    /// The library that multiplies bf16 matrices on it, such as `oneDNN 2.6.3`; none where that is this program's own code, a
    /// GPU, or not decided because nothing is computed in bf16.
    pub fn library(&self) -> Option<String> {
        match self {
            Chosen::Cpu { products: Some(Bf16Products::OneDnn), .. } => super::cpu::library(),
            _ => None,
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

    /// Of a GPU: which it is (ranks that share it say the same), and the bytes of its memory that nobody uses.
    ///
    /// # Errors
    /// If the GPU does not say.
    pub fn gpu_free(&self) -> Result<Option<(String, u64)>, DeviceError> {
        match self {
            Chosen::Cpu { .. } => Ok(None),
            #[cfg(feature = "cuda")]
            Chosen::Cuda(gpu) => {
                let context = gpu.launcher().context();
                Ok(Some((context.properties().uuid.clone(), context.free_memory()?.0 as u64)))
            }
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
            $crate::device::Chosen::Cpu { threads, products } => {
                let $device = $crate::device::Cpu::with_products(*threads, *products);
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
