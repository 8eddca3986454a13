//! Standard output of every command.
//!
//! `println!` panics when nobody reads any more (`tawpipe plan … | head`) or a disk is full, and a panic ends a training.
//! Here a write that fails is remembered, later writes are left out, and the command does the rest of its work;
//! [`finish`] says at its end whether everything arrived.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write, stdout};
use std::sync::OnceLock;

/// Why standard output cannot be written any more.
static FAILED: OnceLock<Error> = OnceLock::new();

/// Writes to standard output, as long as that is possible. Called by `out!` and `outln!`.
pub fn write(text: Arguments) {
    if FAILED.get().is_some() {
        return;
    }
    let mut stdout = stdout().lock();
    // In one piece: a launcher may put something else between two pieces of a line.
    if let Err(reason) = stdout.write_all(text.to_string().as_bytes()).and_then(|()| stdout.flush()) {
        // Only the first failure counts.
        let _ = FAILED.set(reason);
    }
}

/// Why a write has failed, if one has.
pub fn failed() -> Option<&'static Error> {
    FAILED.get()
}

/// At the end of a command: whether all that it wrote has arrived. A reader who has closed the pipe has seen enough.
///
/// # Errors
/// The first write that failed for another reason, such as a full disk.
pub fn finish() -> Result<(), &'static Error> {
    match failed() {
        Some(reason) if reason.kind() != ErrorKind::BrokenPipe => Err(reason),
        _ => Ok(()),
    }
}

/// As `print!`, but a reader who is gone or a full disk does no harm.
macro_rules! out {
    ($($words:tt)*) => { $crate::output::write(format_args!($($words)*)) };
}

/// As `println!`, but a reader who is gone or a full disk does no harm.
macro_rules! outln {
    ($($words:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($words)*))) };
}

pub(crate) use {out, outln};
