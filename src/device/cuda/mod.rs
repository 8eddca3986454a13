//! NVIDIA GPUs.
//!
//! [`Gpu`] turns operations into launches of our kernels and knows nothing of the driver; [`Cuda`] is one rank's GPU and
//! runs them; the other files wrap what the driver and cuBLASLt offer. Work is enqueued and never waited for, except where
//! a function says so. It goes to the GPU's own stream for arithmetic, or to the one named by [`on`].

mod attention;
mod driver;
mod feed;
mod kernels;
mod launch;
mod library;
mod modules;
mod nvtx;
mod products;
pub mod select;
mod stream;

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

pub use driver::{Allocation, Context, Pinned, Properties, properties, visible};
pub use feed::Feeder;
pub use kernels::Gpu;
pub use launch::{Arg, Launch, Launcher};
pub use library::products as products_present;
pub use modules::{names, place as kernels_place};
pub use nvtx::Nvtx;
pub use stream::{Event, Priority, Stream};

use self::modules::Kernels;
use self::products::Products;
use super::beside::SQUARES_PARTS;
use super::{DeviceError, Matrix, Memory, Place, View};
use crate::model::Dtype;
use crate::plan::Slot;

/// What a GPU is asked for beside its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Products of f32 matrices may round their operands to TF32: 10 bits instead of 23, several times faster.
    pub tf32: bool,
}

/// One rank's GPU: its context, kernels, matrix products and scratch memory, all made at the start. Clones are the same GPU.
#[derive(Clone, Debug)]
pub struct Cuda(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kernels: Kernels,
    products: Products,
    scratch: Allocation,
    /// What went wrong first; nothing is enqueued after it.
    failure: Mutex<Option<DeviceError>>,
    stream: Arc<Stream>,
}

thread_local! {
    /// Where this thread's operations go, if not to their GPU's own stream.
    static STREAM: RefCell<Option<Arc<Stream>>> = const { RefCell::new(None) };
}

/// Runs `body`; what it asks a GPU to do goes to `stream`. Only casts, sums and zeros may go to another stream than the
/// GPU's own: the other operations share scratch memory.
pub fn on<R>(stream: &Arc<Stream>, body: impl FnOnce() -> R) -> R {
    /// Puts back what was there, also when `body` panics.
    struct Back(Option<Arc<Stream>>);
    impl Drop for Back {
        fn drop(&mut self) {
            STREAM.set(self.0.take());
        }
    }
    let _back = Back(STREAM.replace(Some(stream.clone())));
    body()
}

/// The stream that [`on`] named, or else this one.
pub fn current(own: &Arc<Stream>) -> Arc<Stream> {
    STREAM.with_borrow(|named| named.as_ref().unwrap_or(own).clone())
}

impl Cuda {
    /// Makes a GPU ready: loads its kernels and allocates its scratch memory.
    ///
    /// # Errors
    /// If a library or the kernels are missing, or there is not enough memory.
    pub fn new(context: &Arc<Context>, options: CudaOptions) -> Result<Self, DeviceError> {
        let kernels = Kernels::load(context)?;
        let products = Products::new(context, options)?;
        let scratch = Allocation::new(context, SQUARES_PARTS * Dtype::F64.bytes())?;
        let stream = Arc::new(Stream::new(context, Priority::Normal)?);
        Ok(Cuda(Arc::new(Inner { kernels, products, scratch, failure: Mutex::new(None), stream })))
    }

    /// The stream for arithmetic.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.0.stream
    }

    /// The GPU's context.
    pub fn context(&self) -> &Arc<Context> {
        self.0.stream.context()
    }

    /// Where the kernels were found.
    pub fn kernels(&self) -> &str {
        &self.0.kernels.place
    }

    /// Memory that this device keeps beside a plan's slots, for as long as it lives: what for, and bytes.
    pub fn scratch(&self) -> [(&'static str, usize); 2] {
        [("matrix products", self.0.products.workspace()), ("sums of squares", self.0.scratch.bytes())]
    }

    /// Where its memory lies.
    pub fn place(&self) -> Place {
        Place::Cuda(self.0.stream.clone())
    }

    /// Does something on the current stream unless something has failed before.
    fn enqueue(&self, work: impl FnOnce(&Stream) -> Result<(), DeviceError>) {
        let mut failure = self.0.failure.lock().unwrap_or_else(|e| e.into_inner());
        if failure.is_none() {
            *failure = work(&current(&self.0.stream)).err();
        }
    }
}

impl Launcher for Cuda {
    fn launch(&self, launch: &Launch) {
        // Every argument in a place of its own; those are as wide as the widest of them.
        let mut values: Vec<u64> = launch.args.iter().map(Arg::bits).collect();
        let mut args: Vec<*mut c_void> = values.iter_mut().map(|value| (value as *mut u64).cast()).collect();
        let function = self.0.kernels.get(&launch.kernel);
        self.enqueue(|stream| {
            // SAFETY: `Gpu` gives each kernel the arguments that it is written for; their memory outlives the plan's run.
            unsafe { stream.launch(function, launch.grid, launch.block, launch.shared, &mut args) }
        });
    }

    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        self.enqueue(|stream| self.0.products.enqueue(stream, a, b, c, add));
    }

    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        Memory::on(&self.place(), slots)
    }

    fn finish(&self) -> Result<(), DeviceError> {
        if let Some(failure) = &*self.0.failure.lock().unwrap_or_else(|e| e.into_inner()) {
            return Err(failure.clone());
        }
        self.0.stream.synchronize()
    }

    fn shared(&self) -> usize {
        self.context().properties().shared
    }

    fn squares(&self) -> View {
        self.0.scratch.view(0, SQUARES_PARTS, Dtype::F64)
    }
}
