//! The emulator of kernels/emu: compiled with the kernels by g++, loaded, called as a GPU's driver would be.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::OnceLock;

use tawpipe::device::cuda::{Arg, Launch, Launcher};
use tawpipe::device::{Cpu, Device, DeviceError, Matrix, Memory, View};
use tawpipe::model::Dtype;
use tawpipe::plan::Slot;

use crate::{built, gpu, support};

#[repr(C)]
struct Buffer {
    start: *const c_void,
    bytes: usize,
}

#[repr(C)]
struct Call {
    kernel: *const c_char,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    buffer_count: u32,
    args: *mut *mut c_void,
    buffers: *const Buffer,
    seed: u64,
}

/// What a launch tells beside its result.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows of matrices that shared a bank of shared memory with another row.
    pub conflicts: u64,
    /// Bytes of shared memory of a block.
    pub shared: u64,
}

type Entry = unsafe extern "C" fn(*const Call, *mut Report) -> *const c_char;

/// Builds and loads the kernels, once. A machine whose GPU is tested may have neither their source nor a compiler.
fn entry() -> Entry {
    static ENTRY: OnceLock<Entry> = OnceLock::new();
    *ENTRY.get_or_init(|| {
        assert!(gpu::real().is_none(), "a test on a GPU asks for the emulator");
        let path = CString::new(built::emulator().into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: our own library, whose constructors only register kernels; the symbol has this type.
        unsafe {
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!library.is_null(), "{path:?} cannot be loaded");
            let symbol = libc::dlsym(library, c"emu_launch".as_ptr());
            assert!(!symbol.is_null());
            std::mem::transmute::<*mut c_void, Entry>(symbol)
        }
    })
}

/// Runs kernels with the order of blocks and threads drawn from a seed; matrix products are the host's.
pub struct Emulator {
    pub seed: u64,
    /// Bytes of shared memory that a block may have.
    pub shared: usize,
    products: Cpu,
    squares: support::Buffer,
}

impl Emulator {
    pub fn new(seed: u64) -> Self {
        // An H100's.
        Emulator { seed, shared: 227 * 1024, products: Cpu::new(1), squares: support::Buffer::new(1024, Dtype::F64) }
    }

    /// Runs a kernel; the error is the emulator's complaint.
    pub fn run(&self, launch: &Launch) -> Result<Report, String> {
        let kernel = CString::new(launch.kernel.as_str()).unwrap();
        // Every argument in a place of its own; pointers are as wide as the widest of them.
        let mut values: Vec<u64> = launch.args.iter().map(Arg::bits).collect();
        let mut args: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        let buffers: Vec<Buffer> = launch
            .args
            .iter()
            .filter_map(|arg| match arg {
                Arg::View(view) => Some(Buffer { start: view.address() as *const c_void, bytes: view.bytes() }),
                _ => None,
            })
            .collect();
        let call = Call {
            kernel: kernel.as_ptr(),
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
            buffer_count: buffers.len() as u32,
            args: args.as_mut_ptr(),
            buffers: buffers.as_ptr(),
            seed: self.seed,
        };
        let mut report = Report::default();
        // SAFETY: pointers are valid during the call; the views' memory lives as long as the test's buffers. The
        // message is copied before another thread's launch can change it, or else is cut: it is text with a zero.
        unsafe {
            let message = entry()(&call, &mut report);
            if message.is_null() { Ok(report) } else { Err(CStr::from_ptr(message).to_string_lossy().into_owned()) }
        }
    }
}

impl Launcher for Emulator {
    fn launch(&self, launch: &Launch) {
        match self.run(launch) {
            Ok(report) => assert_eq!(report.conflicts, 0, "matrix loads that wait for each other: {launch:?}"),
            Err(complaint) => panic!("{complaint}\n{launch:?}"),
        }
    }

    fn matmul(&self, a: Matrix, b: Matrix, c: Matrix, add: bool) {
        self.products.matmul(a, b, c, add);
    }

    fn memory(&self, slots: &[Slot]) -> Result<Memory, DeviceError> {
        Ok(Memory::new(slots))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn shared(&self) -> usize {
        self.shared
    }

    fn squares(&self) -> View {
        self.squares.view()
    }
}
