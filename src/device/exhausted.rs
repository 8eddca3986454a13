//! An allocation that the system refuses ends the program in one line and with code 1, as every other failure does.
//! Without this, Rust aborts: code 134, and MPI adds a page about the signal.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::exit::Exit;

/// The system's allocator, for `#[global_allocator]` in the program.
#[derive(Debug)]
pub struct Exhausted;

// SAFETY: every call goes to the system's allocator, with the caller's arguments and under the caller's promises.
unsafe impl GlobalAlloc for Exhausted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Passes an address on, unless there is none.
#[inline]
fn there(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() {
        end(bytes);
    }
    start
}

/// Says so and ends the process, without allocating anything.
#[cold]
fn end(bytes: usize) -> ! {
    let (mut digits, mut at, mut left) = ([0u8; 20], 20, bytes);
    while at == 20 || left > 0 {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    let parts: [&[u8]; 3] = [b"tawpipe: out of memory: the system refuses ", &digits[at..], b" bytes\n"];
    for part in parts {
        // SAFETY: a readable run of bytes; nothing can be done if standard error is closed.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process at once. Handlers and destructors might want memory.
    unsafe { libc::_exit(Exit::Failure.code().into()) }
}
