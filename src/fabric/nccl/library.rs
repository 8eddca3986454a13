//! NCCL's functions, looked up when a GPU's messages are to go through it.
//!
//! Our own table, because cudarc looks for `libnccl.so`, which only development packages have, and keeps result codes in an
//! enum that a newer library would step out of. Functions are described in
//! <https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>.

use std::error::Error;
use std::ffi::{CStr, c_char, c_int, c_void};

use libloading::Library as Loaded;

use crate::fabric::FabricError;
use crate::model::Dtype;

/// `ncclComm_t`: a communicator, NCCL's own.
pub type Comm = *mut c_void;

/// Where the library is looked for, besides the paths that the system searches (`LD_LIBRARY_PATH`, `ld.so.conf`).
pub const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Results that are no failures.
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

/// `ncclSum`.
pub const SUM: c_int = 0;

/// `ncclUniqueId`: by what the members of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [c_char; 128]);

/// `ncclConfig_t` as of NCCL 2.14, the first that has it. Every later library takes the shorter struct and fills in its
/// defaults, by `size` and `version`.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// What would be padding; "undefined" to later versions.
    unused: c_int,
}

macro_rules! functions {
    ($($field:ident = $name:literal: fn($($arg:ty),* $(,)?) -> $result:ty;)*) => {
        /// The functions, in the types of `nccl.h`.
        struct Functions { $($field: unsafe extern "C" fn($($arg),*) -> $result,)* }

        impl Functions {
            /// # Safety
            /// The library is NCCL, and stays loaded for as long as the functions are called.
            unsafe fn load(library: &Loaded) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of the header.
                unsafe { Ok(Functions { $($field: *library.get(concat!($name, "\0").as_bytes())?,)* }) }
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
    get_unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
    get_error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
    get_last_error = "ncclGetLastError": fn(Comm) -> *const c_char;
    init_rank_config = "ncclCommInitRankConfig": fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int;
    get_async_error = "ncclCommGetAsyncError": fn(Comm, *mut c_int) -> c_int;
    finalize = "ncclCommFinalize": fn(Comm) -> c_int;
    destroy = "ncclCommDestroy": fn(Comm) -> c_int;
    abort = "ncclCommAbort": fn(Comm) -> c_int;
    group_start = "ncclGroupStart": fn() -> c_int;
    group_end = "ncclGroupEnd": fn() -> c_int;
    send = "ncclSend": fn(*const c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
    recv = "ncclRecv": fn(*mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
    broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
    reduce = "ncclReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Comm, *mut c_void) -> c_int;
    all_reduce = "ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
    all_gather = "ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> c_int;
    reduce_scatter = "ncclReduceScatter":
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
}

/// Version of NCCL as it tells it: 22703 is 2.27.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// NCCL, loaded for as long as the program runs: a thread of its own may still be at a communicator that was never connected.
pub struct Library {
    functions: Functions,
    version: Version,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is done, or enqueued.
    Done,
    /// A thread of NCCL is at it.
    InProgress,
}

impl Library {
    /// Looks for the library.
    ///
    /// # Errors
    /// [`FabricError::NoNccl`], with what was looked for.
    pub fn open() -> Result<Self, FabricError> {
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: loads the library, whose initialisers are its maker's business; it is never unloaded.
            let found = unsafe { Loaded::new(name).and_then(|loaded| Ok((Functions::load(&loaded)?, loaded))) };
            match found {
                Ok((functions, loaded)) => {
                    let mut version = 0;
                    // SAFETY: a place for the number.
                    let code = unsafe { (functions.get_version)(&mut version) };
                    std::mem::forget(loaded);
                    let library = Library { functions, version: Version(version as u32) };
                    library.check("ncclGetVersion", None, code)?;
                    return Ok(library);
                }
                // What the system's loader says is one error further down.
                Err(error) => reasons.push(error.source().map_or_else(|| error.to_string(), ToString::to_string)),
            }
        }
        Err(FabricError::NoNccl { looked_for: NAMES.join(", "), reason: reasons.swap_remove(0) })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Turns a code into a result, with NCCL's own words for what it means and what happened last.
    pub(super) fn check(&self, call: &'static str, comm: Option<Comm>, code: c_int) -> Result<State, FabricError> {
        match code {
            SUCCESS => return Ok(State::Done),
            IN_PROGRESS => return Ok(State::InProgress),
            _ => {}
        }
        // SAFETY: NCCL gives constant or thread-local texts, which are copied at once. A null communicator is allowed.
        let (meaning, last) = unsafe {
            let text = |start: *const c_char| {
                if start.is_null() { String::new() } else { CStr::from_ptr(start).to_string_lossy().trim().into() }
            };
            let last = (self.functions.get_last_error)(comm.unwrap_or(std::ptr::null_mut()));
            (text((self.functions.get_error_string)(code)), text(last))
        };
        let text = if last.is_empty() { meaning } else { format!("{meaning}: {last}") };
        Err(FabricError::Nccl { call, code, text })
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId, FabricError> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: a place for the id.
        let code = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", None, code)?;
        Ok(id)
    }

    /// Starts to make a communicator whose calls never block.
    pub(super) fn init(&self, members: usize, id: UniqueId, me: usize) -> Result<Comm, FabricError> {
        const MAGIC: u32 = 0xcafe_beef;
        const VERSION: u32 = 21400;
        let size = size_of::<Config>();
        let mut config = Config { size, magic: MAGIC, version: VERSION, blocking: 0, unused: c_int::MIN };
        let mut comm = std::ptr::null_mut();
        // SAFETY: places for communicator and configuration; the latter is copied before the call returns.
        let code =
            unsafe { (self.functions.init_rank_config)(&mut comm, members as c_int, id, me as c_int, &mut config) };
        self.check("ncclCommInitRankConfig", Some(comm), code)?;
        Ok(comm)
    }

    /// How far the last call on a communicator has come, or what has gone wrong since.
    ///
    /// # Safety
    /// The communicator lives.
    pub(super) unsafe fn state(&self, comm: Comm) -> Result<State, FabricError> {
        let mut code = SUCCESS;
        // SAFETY: the caller's promise; a place for the code.
        let own = unsafe { (self.functions.get_async_error)(comm, &mut code) };
        self.check("ncclCommGetAsyncError", Some(comm), own)?;
        self.check("a call of NCCL", Some(comm), code)
    }

    /// # Safety
    /// The communicator lives, and is not destroyed while its calls run.
    pub(super) unsafe fn finalize(&self, comm: Comm) -> Result<State, FabricError> {
        // SAFETY: the caller's promise.
        self.check("ncclCommFinalize", Some(comm), unsafe { (self.functions.finalize)(comm) })
    }

    /// # Safety
    /// The communicator is not used again.
    pub(super) unsafe fn destroy(&self, comm: Comm) -> Result<State, FabricError> {
        // SAFETY: the caller's promise. It is not asked about afterwards.
        self.check("ncclCommDestroy", None, unsafe { (self.functions.destroy)(comm) })
    }

    /// # Safety
    /// The communicator is not used again.
    pub(super) unsafe fn abort(&self, comm: Comm) -> Result<State, FabricError> {
        // SAFETY: the caller's promise.
        self.check("ncclCommAbort", None, unsafe { (self.functions.abort)(comm) })
    }

    pub(super) fn group_start(&self) -> Result<State, FabricError> {
        // SAFETY: no arguments.
        self.check("ncclGroupStart", None, unsafe { (self.functions.group_start)() })
    }

    pub(super) fn group_end(&self) -> Result<State, FabricError> {
        // SAFETY: no arguments.
        self.check("ncclGroupEnd", None, unsafe { (self.functions.group_end)() })
    }

    /// Enqueues a call on a stream.
    ///
    /// # Safety
    /// Communicator and stream live; the call's views are GPU memory that stays valid and that nothing else touches
    /// against the order of streams.
    pub(super) unsafe fn call(
        &self,
        call: &super::Call,
        comm: Comm,
        stream: *mut c_void,
    ) -> Result<State, FabricError> {
        use super::Call;
        let f = &self.functions;
        // SAFETY: the caller's promise, for all calls below.
        let (name, code) = unsafe {
            match call {
                Call::Send { data, to } => {
                    let (at, count, dtype) = (data.address() as _, data.len(), code(data.dtype()));
                    ("ncclSend", (f.send)(at, count, dtype, *to as c_int, comm, stream))
                }
                Call::Receive { into, from } => {
                    let (at, count, dtype) = (into.address() as _, into.len(), code(into.dtype()));
                    ("ncclRecv", (f.recv)(at, count, dtype, *from as c_int, comm, stream))
                }
                Call::Broadcast { data, root } => {
                    let (at, count, dtype) = (data.address(), data.len(), code(data.dtype()));
                    let root = *root as c_int;
                    ("ncclBroadcast", (f.broadcast)(at as _, at as _, count, dtype, root, comm, stream))
                }
                Call::Reduce { data, root } => {
                    let (at, count, dtype) = (data.address(), data.len(), code(data.dtype()));
                    let root = *root as c_int;
                    ("ncclReduce", (f.reduce)(at as _, at as _, count, dtype, SUM, root, comm, stream))
                }
                Call::AllReduce { data } => {
                    let (at, count, dtype) = (data.address(), data.len(), code(data.dtype()));
                    ("ncclAllReduce", (f.all_reduce)(at as _, at as _, count, dtype, SUM, comm, stream))
                }
                Call::AllGather { data, own } => {
                    let (from, dtype) = (data.sub(own.clone()), code(data.dtype()));
                    let (from, into) = (from.address() as _, data.address() as _);
                    ("ncclAllGather", (f.all_gather)(from, into, own.len(), dtype, comm, stream))
                }
                Call::ReduceScatter { data, own } => {
                    let (into, dtype) = (data.sub(own.clone()), code(data.dtype()));
                    let (from, into) = (data.address() as _, into.address() as _);
                    ("ncclReduceScatter", (f.reduce_scatter)(from, into, own.len(), dtype, SUM, comm, stream))
                }
            }
        };
        self.check(name, Some(comm), code)
    }
}

/// `ncclDataType_t`.
fn code(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::Byte => 1,
        Dtype::I32 => 2,
        Dtype::F32 => 7,
        Dtype::F64 => 8,
        Dtype::Bf16 => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions are written as NCCL's own header writes them.
    #[test]
    fn versions() {
        assert_eq!(Version(22703).to_string(), "2.27.3");
        assert_eq!(Version(23007).to_string(), "2.30.7");
    }
}
