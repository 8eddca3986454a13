//! Streams and events: what the GPU does in which order.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::driver::{Context, check};
use crate::device::{DeviceError, View};

/// Work that the GPU does in order, beside other streams. It never waits for the default stream.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the driver's calls on streams are thread safe.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// Whose blocks start first when two streams have some ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Arithmetic.
    Normal,
    /// Communication: its few blocks must not queue behind those of a matrix product.
    High,
}

impl Stream {
    /// A new stream.
    pub fn new(context: &Arc<Context>, priority: Priority) -> Result<Self, DeviceError> {
        context.enter()?;
        let (mut least, mut greatest) = (0, 0);
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: places for the results.
        unsafe {
            check("cuCtxGetStreamPriorityRange", sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest))?;
            let priority = if priority == Priority::High { greatest } else { least };
            check("cuStreamCreateWithPriority", sys::cuStreamCreateWithPriority(&mut raw, flags, priority))?;
        }
        Ok(Stream { context: context.clone(), raw })
    }

    /// The GPU.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// The driver's handle, for its libraries. It lives as long as `self`.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Enqueues a copy of `bytes` bytes; host memory must be pinned, else the call waits. Addresses are of host or GPU: the
    /// driver knows which.
    ///
    /// # Safety
    /// Both ranges are valid until the copy is complete, and nothing touches them against the order of the streams.
    pub unsafe fn copy(&self, from: usize, to: usize, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: the caller's promise.
        check("cuMemcpyAsync", unsafe { sys::cuMemcpyAsync(to as u64, from as u64, bytes, self.raw) })
    }

    /// Enqueues a copy between two views of equal bytes, wherever each is; host memory must be pinned, else the call waits.
    ///
    /// # Panics
    /// If sizes differ.
    pub fn copy_view(&self, from: View, to: View) -> Result<(), DeviceError> {
        assert_eq!(from.bytes(), to.bytes());
        // SAFETY: views are of live memory, and plans keep others off them (see `View`).
        unsafe { self.copy(from.address(), to.address(), from.bytes()) }
    }

    /// Enqueues zeros.
    pub fn clear(&self, view: View) -> Result<(), DeviceError> {
        if view.is_empty() {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: a view is of live memory, and plans keep others off it.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(view.address() as u64, 0, view.bytes(), self.raw) })
    }

    /// Records an event: it is complete when all that was enqueued before is.
    pub fn record(&self, event: &Event) -> Result<(), DeviceError> {
        self.context.enter()?;
        // SAFETY: two live handles of one context.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.raw, self.raw) })
    }

    /// What is enqueued from now on starts when the event, as recorded last, is complete. The host does not wait.
    pub fn wait(&self, event: &Event) -> Result<(), DeviceError> {
        self.context.enter()?;
        // SAFETY: two live handles of one context.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) })
    }

    /// Whether everything enqueued is complete.
    pub fn is_idle(&self) -> Result<bool, DeviceError> {
        self.context.enter()?;
        // SAFETY: a live handle.
        ready("cuStreamQuery", unsafe { sys::cuStreamQuery(self.raw) })
    }

    /// Waits until everything enqueued is complete.
    ///
    /// # Errors
    /// Also those of work enqueued earlier, by anyone in this context.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.context.enter()?;
        // SAFETY: a live handle.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw) })
    }

    /// Enqueues a kernel. `args` point to its arguments, each as wide as the kernel says.
    ///
    /// # Safety
    /// Arguments are what the kernel expects, and all that it touches is valid until it is complete.
    pub(super) unsafe fn launch(
        &self,
        function: sys::CUfunction,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        args: &mut [*mut c_void],
    ) -> Result<(), DeviceError> {
        self.context.enter()?;
        let [x, y, z] = grid;
        let (args, none) = (args.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        let result = unsafe { sys::cuLaunchKernel(function, x, y, z, block, 1, 1, shared, self.raw, args, none) };
        check("cuLaunchKernel", result)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once; the driver ends its work first.
            unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the driver's calls on events are thread safe.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event; one that is not `timed` costs less.
    pub fn new(context: &Arc<Context>, timed: bool) -> Result<Self, DeviceError> {
        use sys::CUevent_flags::{CU_EVENT_DEFAULT, CU_EVENT_DISABLE_TIMING};
        context.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags = if timed { CU_EVENT_DEFAULT } else { CU_EVENT_DISABLE_TIMING } as u32;
        // SAFETY: a place for the handle.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut raw, flags) })?;
        Ok(Event { context: context.clone(), raw })
    }

    /// Whether the event, as recorded last, is complete; true if it never was recorded.
    pub fn is_complete(&self) -> Result<bool, DeviceError> {
        self.context.enter()?;
        // SAFETY: a live handle.
        ready("cuEventQuery", unsafe { sys::cuEventQuery(self.raw) })
    }

    /// Waits until it is complete.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.context.enter()?;
        // SAFETY: a live handle.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })
    }

    /// Seconds from one complete timed event to this one; some half a microsecond is noise.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64, DeviceError> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;
        self.context.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: the function's own type. Looked up by hand because the declarations of CUDA 13 know only the second
        // version of it, which drivers before R570 do not have.
        let result = unsafe {
            let elapsed = sys::culib().get::<Elapsed>(b"cuEventElapsedTime").map(|symbol| *symbol);
            elapsed.map_or(CUresult::CUDA_ERROR_NOT_FOUND, |call| call(&mut milliseconds, earlier.raw, self.raw))
        };
        check("cuEventElapsedTime", result)?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: created once.
            unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}

fn ready(call: &'static str, result: CUresult) -> Result<bool, DeviceError> {
    if result == CUresult::CUDA_ERROR_NOT_READY {
        return Ok(false);
    }
    check(call, result).map(|()| true)
}
