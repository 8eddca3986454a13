//! The CUDA driver's objects, each owned and released once, every call with a typed error.
//!
//! Thin on purpose: nothing here waits, allocates or orders anything that its name does not say. Objects may be used from
//! any thread; each call makes its context the thread's own first. Functions are described in
//! <https://docs.nvidia.com/cuda/cuda-driver-api/>.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::library;
use crate::device::{DeviceError, View};
use crate::model::Dtype;

/// What a call returned, as a result.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), DeviceError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    type Words = unsafe fn(CUresult, *mut *const c_char) -> CUresult;
    let words = |of: Words| {
        let mut text = std::ptr::null();
        // SAFETY: both functions store a pointer to a constant text, or null.
        unsafe {
            of(result, &mut text);
            if text.is_null() { String::from("unknown") } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    };
    let what = format!("{}: {}", words(sys::cuGetErrorName), words(sys::cuGetErrorString));
    Err(DeviceError::Call { call, code: result as u32, what })
}

/// Calls a function of the driver: `cuda!(cuInit(0))?`.
macro_rules! cuda {
    ($name:ident($($arg:expr),* $(,)?)) => {
        check(stringify!($name), sys::$name($($arg),*))
    };
}

/// What the driver says of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its number among those that this process sees.
    pub ordinal: usize,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability: major and minor.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// The same for every process that sees this GPU, or this part of one: 32 hexadecimal digits.
    pub uuid: String,
    /// The newest version of CUDA that the driver speaks: major and minor.
    pub driver: (u32, u32),
}

/// Number of GPUs that this process sees.
///
/// # Errors
/// If there is no driver, or it finds no GPU.
pub fn visible() -> Result<usize, DeviceError> {
    library::driver()?;
    let mut count = 0;
    // SAFETY: a place for the number; initialising twice is allowed.
    unsafe {
        cuda!(cuInit(0))?;
        cuda!(cuDeviceGetCount(&mut count))?;
    }
    Ok(count as usize)
}

/// What the driver says of GPU number `ordinal` of those visible; it makes no context there.
///
/// # Errors
/// If there is no driver or no such GPU.
pub fn properties(ordinal: usize) -> Result<Properties, DeviceError> {
    let visible = visible()?;
    if ordinal >= visible {
        return Err(DeviceError::Absent { ordinal, visible });
    }
    device(ordinal).map(|(_, properties)| properties)
}

/// A visible GPU, and what the driver says of it.
fn device(ordinal: usize) -> Result<(sys::CUdevice, Properties), DeviceError> {
    // SAFETY: every call gets valid places for its results; the device number is in range.
    unsafe {
        let mut device = 0;
        cuda!(cuDeviceGet(&mut device, ordinal as c_int))?;
        let number = |attribute: Attribute| {
            let mut value = 0;
            cuda!(cuDeviceGetAttribute(&mut value, attribute, device)).map(|()| value as u32)
        };
        let mut name = [0 as c_char; 256];
        cuda!(cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
        let mut memory = 0;
        cuda!(cuDeviceTotalMem_v2(&mut memory, device))?;
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        cuda!(cuDeviceGetUuid_v2(&mut uuid, device))?;
        let mut version = 0;
        cuda!(cuDriverGetVersion(&mut version))?;
        let properties = Properties {
            ordinal,
            name: CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned(),
            capability: (
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            memory,
            uuid: uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect(),
            driver: (version as u32 / 1000, version as u32 % 1000 / 10),
        };
        Ok((device, properties))
    }
}

/// A GPU, as this process uses it: its primary context, which NCCL and cuBLASLt use as well.
#[derive(Debug)]
pub struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    properties: Properties,
}

// SAFETY: a context may be current to several threads at once, and the driver's calls are thread safe.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

thread_local! {
    /// The context that this thread has made current.
    static CURRENT: Cell<sys::CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

impl Context {
    /// Opens GPU number `ordinal` of those visible.
    ///
    /// # Errors
    /// If there is no driver or no such GPU, or the driver refuses.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, DeviceError> {
        let visible = visible()?;
        if ordinal >= visible {
            return Err(DeviceError::Absent { ordinal, visible });
        }
        let (device, properties) = device(ordinal)?;
        // SAFETY: a device of the driver, and a place for its context.
        unsafe {
            let mut raw = std::ptr::null_mut();
            cuda!(cuDevicePrimaryCtxRetain(&mut raw, device))?;
            let context = Arc::new(Context { raw, device, properties });
            context.enter()?;
            Ok(context)
        }
    }

    /// What the driver says of the GPU.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Makes this the calling thread's context. Every call of this module does so by itself; what calls the maker's
    /// libraries directly must.
    pub fn enter(&self) -> Result<(), DeviceError> {
        if CURRENT.get() != self.raw {
            // SAFETY: a context that lives as long as `self`.
            unsafe { cuda!(cuCtxSetCurrent(self.raw))? };
            CURRENT.set(self.raw);
        }
        Ok(())
    }

    /// Bytes of the GPU's memory that nobody uses, and all.
    pub fn free_memory(&self) -> Result<(usize, usize), DeviceError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places for two numbers.
        unsafe { cuda!(cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok((free, total))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if CURRENT.get() == self.raw {
            CURRENT.set(std::ptr::null_mut());
        }
        // SAFETY: retained once in `open`; everything made in the context holds it and is gone.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Memory of the GPU, owned.
#[derive(Debug)]
pub struct Allocation {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Allocation {
    /// Allocates `bytes` (at least one), aligned to 256; what they hold is unknown.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] with what is left.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, DeviceError> {
        context.enter()?;
        let mut address = 0;
        // SAFETY: a place for the address.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = context.free_memory()?;
                Err(DeviceError::Memory { wanted: bytes, free, total })
            }
            other => {
                check("cuMemAlloc", other)?;
                Ok(Allocation { context: context.clone(), address, bytes })
            }
        }
    }

    /// Its first byte, in the address space that host and GPUs share.
    pub fn address(&self) -> usize {
        self.address as usize
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `elems` elements from byte `offset` on, for as long as the allocation lives.
    ///
    /// # Panics
    /// If they do not lie within it.
    pub fn view(&self, offset: usize, elems: usize, dtype: Dtype) -> View {
        assert!(offset + elems * dtype.bytes() <= self.bytes && offset.is_multiple_of(dtype.bytes()));
        // SAFETY: within the allocation, aligned; that it outlives the view's uses is the owner's care.
        unsafe { View::new(self.address() + offset, elems, dtype) }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once; the driver waits for work that uses it.
            unsafe { sys::cuMemFree_v2(self.address) };
        }
    }
}

/// Host memory that stays in place, so that the GPU copies to and from it while the host does something else.
#[derive(Debug)]
pub struct Pinned {
    context: Arc<Context>,
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory; who may touch it when is the owner's care, as with any buffer that messages use.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Allocates `bytes` (at least one) of zeros, aligned to a page.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, DeviceError> {
        context.enter()?;
        let mut start = std::ptr::null_mut();
        // SAFETY: a place for the address; then memory just allocated, of this size.
        unsafe {
            cuda!(cuMemHostAlloc(&mut start, bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE))?;
            std::ptr::write_bytes(start.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned { context: context.clone(), start, bytes })
    }

    /// Its first byte.
    pub fn address(&self) -> usize {
        self.start as usize
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// `elems` elements from byte `offset` on: host memory, for as long as this lives.
    ///
    /// # Panics
    /// If they do not lie within it.
    pub fn view(&self, offset: usize, elems: usize, dtype: Dtype) -> View {
        assert!(offset + elems * dtype.bytes() <= self.bytes && offset.is_multiple_of(dtype.bytes()));
        // SAFETY: within the allocation, aligned; that it outlives the view's uses is the owner's care.
        unsafe { View::new(self.address() + offset, elems, dtype) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated once; who copies has waited.
            unsafe { sys::cuMemFreeHost(self.start) };
        }
    }
}
