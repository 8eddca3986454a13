//! The driver's functions, looked up by name as the program looks them up, and the errors that misuse gives.

use std::ffi::{CString, c_int, c_void};
use std::sync::OnceLock;

use crate::built::emulated_driver;

/// A library of the emulated driver.
#[derive(Clone, Copy)]
pub struct Library(usize);

impl Library {
    fn open(name: &str) -> Self {
        let path = emulated_driver().join(name).into_os_string().into_encoded_bytes();
        // SAFETY: our own library; the settings are read at the first call, after this.
        unsafe {
            std::env::set_var("EMU_DEVICES", "4");
            let library = libc::dlopen(CString::new(path).unwrap().as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!library.is_null(), "{name} cannot be loaded");
            Library(library as usize)
        }
    }

    /// The address of a function.
    pub fn symbol(self, name: &str) -> *mut c_void {
        // SAFETY: a library that stays loaded.
        let symbol = unsafe { libc::dlsym(self.0 as *mut c_void, CString::new(name).unwrap().as_ptr()) };
        assert!(!symbol.is_null(), "there is no {name}");
        symbol
    }
}

/// libcuda, initialised.
pub fn cuda() -> Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        let library = Library::open("libcuda.so.1");
        assert_eq!(call!(library, cuInit(0u32)), 0);
        library
    })
}

/// libcublasLt, over the same libcuda.
pub fn blas() -> Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    cuda();
    *LIBRARY.get_or_init(|| Library::open("libcublasLt.so.13"))
}

/// libnccl, over the same libcuda.
pub fn nccl() -> Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    cuda();
    *LIBRARY.get_or_init(|| Library::open("libnccl.so.2"))
}

/// A value as a C function's argument: pointers and numbers of at most 8 bytes.
pub trait Word {
    /// The register that carries it.
    fn word(self) -> u64;
}
impl<T> Word for *mut T {
    fn word(self) -> u64 {
        self as u64
    }
}
impl<T> Word for *const T {
    fn word(self) -> u64 {
        self as u64
    }
}
macro_rules! words {
    ($($t:ty),*) => {$(impl Word for $t {
        fn word(self) -> u64 {
            self as u64
        }
    })*};
}
words!(u8, i32, u32, i64, u64, usize);

/// Calls a C function that takes pointers and whole numbers and returns a code: `call!(library, name(a, b))`.
macro_rules! call {
    ($library:expr, $name:ident($($arg:expr),* $(,)?)) => {{
        let symbol = $library.symbol(stringify!($name));
        // SAFETY: every argument is of an integer register's class, which a C function takes alike whatever its width;
        // the tests pass what each function is documented to take.
        #[allow(unused_unsafe, reason = "some calls stand in an unsafe block already")]
        unsafe {
            let f: unsafe extern "C" fn($($crate::driver::api::call!(@u64 $arg)),*) -> std::ffi::c_int = std::mem::transmute(symbol);
            f($($crate::driver::api::Word::word($arg)),*)
        }
    }};
    (@u64 $arg:expr) => { u64 };
}
pub(crate) use call;

/// Calls a function that must succeed.
macro_rules! good {
    ($library:expr, $name:ident($($arg:expr),* $(,)?)) => {
        assert_eq!($crate::driver::api::call!($library, $name($($arg),*)), 0, stringify!($name))
    };
}
pub(crate) use good;

/// A device's context, current to this thread, with nothing of an earlier test in it.
pub struct Gpu {
    pub context: usize,
}

impl Gpu {
    /// Makes device `ordinal` the thread's own.
    pub fn enter(ordinal: i32) -> Gpu {
        let (library, mut context) = (cuda(), 0usize);
        good!(library, cuDevicePrimaryCtxRetain(&raw mut context, ordinal));
        good!(library, cuCtxSetCurrent(context));
        Gpu { context }
    }

    /// A stream that waits for no other.
    pub fn stream(&self) -> usize {
        let mut stream = 0usize;
        good!(cuda(), cuStreamCreate(&raw mut stream, 1u32));
        stream
    }

    /// Memory of the device that holds these numbers.
    pub fn buffer(&self, values: &[f32]) -> u64 {
        let mut address = 0u64;
        good!(cuda(), cuMemAlloc_v2(&raw mut address, size_of_val(values)));
        good!(cuda(), cuMemcpyHtoD_v2(address, values.as_ptr(), size_of_val(values)));
        address
    }

    /// The numbers at an address.
    pub fn numbers(&self, address: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0f32; len];
        good!(cuda(), cuMemcpyDtoH_v2(values.as_mut_ptr(), address, 4 * len));
        values
    }

    /// A kernel of a module.
    pub fn kernel(&self, module: &str, name: &str) -> usize {
        let path = emulated_driver().join("modules").join(module).into_os_string().into_encoded_bytes();
        let (path, name) = (CString::new(path).unwrap(), CString::new(name).unwrap());
        let (mut module, mut function) = (0usize, 0usize);
        good!(cuda(), cuModuleLoad(&raw mut module, path.as_ptr()));
        good!(cuda(), cuModuleGetFunction(&raw mut function, module, name.as_ptr()));
        function
    }
}

/// Launches `kernel(from, to, count)` of flat.cu.
pub fn launch_flat(kernel: usize, from: u64, to: u64, count: i64, stream: usize) -> c_int {
    let (mut from, mut to, mut count) = (from, to, count);
    let mut args = [(&raw mut from).cast::<c_void>(), (&raw mut to).cast(), (&raw mut count).cast()];
    let grid = (count as u32).div_ceil(2048);
    let none = std::ptr::null_mut::<c_void>();
    call!(cuda(), cuLaunchKernel(kernel, grid, 1u32, 1u32, 256u32, 1u32, 1u32, 0u32, stream, args.as_mut_ptr(), none))
}

const INVALID_VALUE: c_int = 1;
const INVALID_CONTEXT: c_int = 201;
const INVALID_HANDLE: c_int = 400;
const NOT_FOUND: c_int = 500;
const ILLEGAL_ADDRESS: c_int = 700;

/// New memory is NaN; what was copied there comes back; freed memory, memory beyond the end and the host's are refused.
#[test]
fn memory() {
    let (gpu, library) = (Gpu::enter(0), cuda());
    let mut address = 0u64;
    good!(library, cuMemAlloc_v2(&raw mut address, 100usize));
    assert!(gpu.numbers(address, 25).iter().all(|x| x.is_nan()));
    let values: Vec<f32> = (0..25).map(|i| i as f32).collect();
    good!(library, cuMemcpyHtoD_v2(address, values.as_ptr(), 100usize));
    assert_eq!(gpu.numbers(address, 25), values);
    good!(library, cuMemsetD32_v2(address + 8, 0u32, 2usize));
    assert_eq!(gpu.numbers(address, 5), [0.0, 1.0, 0.0, 0.0, 4.0]);
    let mut back = [0f32; 25];
    assert_eq!(call!(library, cuMemcpyDtoH_v2(back.as_mut_ptr(), address + 4, 100usize)), INVALID_VALUE);
    assert_eq!(call!(library, cuMemcpyDtoH_v2(back.as_mut_ptr(), values.as_ptr(), 100usize)), INVALID_VALUE);
    good!(library, cuMemFree_v2(address));
    assert_eq!(call!(library, cuMemcpyDtoH_v2(back.as_mut_ptr(), address, 100usize)), INVALID_VALUE);
    assert_eq!(call!(library, cuMemFree_v2(address)), INVALID_VALUE);
}

/// A thread without a context gets nothing, and a device's handles are no good on another.
#[test]
fn contexts() {
    let gpu = Gpu::enter(0);
    let stream = gpu.stream();
    std::thread::spawn(move || {
        let mut address = 0u64;
        assert_eq!(call!(cuda(), cuMemAlloc_v2(&raw mut address, 100usize)), INVALID_CONTEXT);
        let other = Gpu::enter(1);
        assert_ne!(other.context, gpu.context);
        assert_eq!(call!(cuda(), cuStreamSynchronize(stream)), INVALID_HANDLE);
    })
    .join()
    .unwrap();
    good!(cuda(), cuStreamDestroy_v2(stream));
    assert_eq!(call!(cuda(), cuStreamSynchronize(stream)), INVALID_HANDLE);
}

/// A kernel computes; too much shared memory and a kernel of another file are refused. A launch that points nowhere spoils
/// the context for good.
#[test]
fn launches() {
    let (gpu, library) = (Gpu::enter(2), cuda());
    let (stream, add) = (gpu.stream(), gpu.kernel("flat.fatbin", "accumulate_f32_f32"));
    let (x, y) = (gpu.buffer(&[1.5; 3000]), gpu.buffer(&[2.0; 3000]));
    assert_eq!(launch_flat(add, x, y, 3000, stream), 0);
    good!(library, cuStreamSynchronize(stream));
    assert_eq!(gpu.numbers(y, 3000), [3.5; 3000]);

    let name =
        CString::new(emulated_driver().join("modules/rope.fatbin").into_os_string().into_encoded_bytes()).unwrap();
    let (mut module, mut function) = (0usize, 0usize);
    good!(library, cuModuleLoad(&raw mut module, name.as_ptr()));
    assert_eq!(
        call!(library, cuModuleGetFunction(&raw mut function, module, c"accumulate_f32_f32".as_ptr())),
        NOT_FOUND
    );

    let flash = gpu.kernel("attention_forward.fatbin", "attention_flash_64");
    let (args, none) = ([std::ptr::null_mut::<c_void>(); 6], std::ptr::null_mut::<c_void>());
    let launch = |shared: u32| {
        call!(library, cuLaunchKernel(flash, 1u32, 1u32, 1u32, 128u32, 1u32, 1u32, shared, stream, args.as_ptr(), none))
    };
    assert_eq!(launch(49 << 10), INVALID_VALUE);
    assert_eq!(call!(library, cuFuncSetAttribute(flash, 8, 228 << 10)), INVALID_VALUE);

    assert_eq!(launch_flat(add, x, 4096, 3000, stream), ILLEGAL_ADDRESS);
    assert_eq!(call!(library, cuStreamSynchronize(stream)), ILLEGAL_ADDRESS);
}
