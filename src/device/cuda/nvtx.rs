//! Named ranges for NVIDIA's profilers: what the host enqueues while one is open belongs to it.
//!
//! The library only hands names on to a profiler that has started the program; without one it does nothing.

use std::ffi::{CString, c_char, c_int};
use std::fmt::Display;

use libloading::Library;

/// Where it is looked for: CUDA 13's and CUDA 12's.
const NAMES: [&str; 2] = ["libnvtx3interop.so.1", "libnvToolsExt.so.1"];

/// The profiler's library, loaded.
pub struct Nvtx {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
    _loaded: Library,
}

impl Nvtx {
    /// Looks for the library.
    ///
    /// # Errors
    /// The names that were looked for.
    pub fn open() -> Result<Self, String> {
        let load = |name: &&str| {
            // SAFETY: loads the library, whose initialisers are its maker's business; the functions have the header's types
            // and live with it.
            unsafe {
                let loaded = Library::new(*name).ok()?;
                let push = *loaded.get(b"nvtxRangePushA\0").ok()?;
                let pop = *loaded.get(b"nvtxRangePop\0").ok()?;
                Some(Nvtx { push, pop, _loaded: loaded })
            }
        };
        NAMES.iter().find_map(load).ok_or_else(|| NAMES.join(", "))
    }

    /// Opens a range, which ends when it is dropped.
    pub fn range(&self, name: &impl Display) -> Range<'_> {
        // A name with a zero byte would be cut there: none has one.
        let name = CString::new(name.to_string()).unwrap_or_default();
        // SAFETY: the library copies the name.
        unsafe { (self.push)(name.as_ptr()) };
        Range(self)
    }
}

/// An open range of the calling thread.
pub struct Range<'a>(&'a Nvtx);

impl Drop for Range<'_> {
    fn drop(&mut self) {
        // SAFETY: ends the thread's innermost range, which is this one.
        unsafe { (self.0.pop)() };
    }
}
