//! The device under test: our kernels in the emulator, or on a GPU where `TAWPIPE_TEST_GPU=1` asks for one.

use std::sync::OnceLock;

use tawpipe::device::cuda::{Context, Cuda, CudaOptions, Gpu, Launch, Launcher};
use tawpipe::device::{Device, DeviceError, Matrix, Memory, View};
use tawpipe::plan::Slot;

use crate::emulator::Emulator;
use crate::support;

/// A device of emulated kernels, whose threads run in an order drawn from a seed.
pub fn emulated(seed: u64) -> Gpu<Emulator> {
    Gpu::new(Emulator::new(seed))
}

/// The GPU, if one is asked for.
pub fn real() -> Option<&'static Cuda> {
    static GPU: OnceLock<Option<Cuda>> = OnceLock::new();
    let open = || Cuda::new(&Context::open(0)?, CudaOptions::default());
    GPU.get_or_init(|| std::env::var_os("TAWPIPE_TEST_GPU").map(|_| open().expect("a GPU, as TAWPIPE_TEST_GPU says")))
        .as_ref()
}

/// Runs `body`, whose buffers lie on the GPU.
pub fn on_place<R>(cuda: &Cuda, body: impl FnOnce() -> R) -> R {
    support::on(cuda.place(), body)
}

/// Runs `body` on the device under test.
pub fn on_gpu<R>(seed: u64, body: impl FnOnce(&dyn Device) -> R) -> R {
    run(seed, true, body)
}

/// Runs `body` on the device under test, which may take sums in any order.
pub fn on_gpu_in_any_order<R>(seed: u64, body: impl FnOnce(&dyn Device) -> R) -> R {
    run(seed, false, body)
}

/// Runs `body` on the device under test as if a block could have no more than `shared` bytes of shared memory; sums are taken
/// in any order where they fit.
pub fn on_gpu_with_little_shared_memory<R>(shared: usize, body: impl FnOnce(&dyn Device) -> R) -> R {
    let Some(cuda) = real() else {
        let mut emulator = Emulator::new(3);
        emulator.shared = shared;
        return body(&Gpu::new(emulator).deterministic(false));
    };
    let device = Gpu::new(Limited { cuda: cuda.clone(), shared }).deterministic(false);
    let result = on_place(cuda, || body(&device));
    device.finish().expect("nothing failed on the GPU");
    result
}

/// A GPU with less shared memory than it has.
#[derive(Clone)]
struct Limited {
    cuda: Cuda,
    shared: usize,
}

impl Launcher for Limited {
    fn launch(&self, launch: &Launch) {
        self.cuda.launch(launch);
    }

    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        self.cuda.matmul(a, b, c, add);
    }

    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        self.cuda.memory(slots)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.cuda.finish()
    }

    fn shared(&self) -> usize {
        self.shared
    }

    fn squares(&self) -> View {
        self.cuda.squares()
    }
}

fn run<R>(seed: u64, deterministic: bool, body: impl FnOnce(&dyn Device) -> R) -> R {
    let Some(cuda) = real() else { return body(&emulated(seed).deterministic(deterministic)) };
    let device = Gpu::new(cuda.clone()).deterministic(deterministic);
    let result = on_place(cuda, || body(&device));
    device.finish().expect("nothing failed on the GPU");
    result
}
