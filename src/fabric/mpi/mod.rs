//! Ranks as MPI processes.
//!
//! rsmpi starts MPI and splits communicators; messages use its raw interface, because its communicators cannot move to
//! the communication thread and its request scopes do not outlive a function. MPI runs at thread level SERIALIZED:
//! while a plan runs only the communication thread calls it, outside only the main thread.

mod control;
mod library;
mod wire;
mod world;

pub(super) use library::library;
pub use wire::MpiWire;
pub use world::World;
pub(super) use world::abort;

use std::ffi::c_int;

use mpi::ffi;

use super::FabricError;

/// Messages are cut into pieces of at most this many bytes: counts are `int`, and some networks dislike giants.
const PIECE: usize = 256 << 20;

/// Tag of a plan's messages; each lane's rank set has a communicator of its own.
const TAG: c_int = 1;

/// Turns a return value into a result. With MPI's default error handler a failing call never returns.
fn check(call: &'static str, code: c_int) -> Result<(), FabricError> {
    if code == ffi::MPI_SUCCESS as c_int { Ok(()) } else { Err(FabricError::Mpi { call, code }) }
}

/// Pieces of a message: first byte and length of each. An empty message is one empty piece.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, c_int)> {
    (0..bytes.div_ceil(PIECE).max(1)).map(move |i| (i * PIECE, PIECE.min(bytes - i * PIECE) as c_int))
}

/// Starts sending `bytes` bytes at `address`, and adds the requests to `requests`.
///
/// # Safety
/// The memory must stay valid and unchanged until the requests are complete.
unsafe fn send(
    comm: ffi::MPI_Comm,
    to: c_int,
    tag: c_int,
    address: usize,
    bytes: usize,
    requests: &mut Vec<ffi::MPI_Request>,
) -> Result<(), FabricError> {
    for (start, len) in pieces(bytes) {
        // SAFETY: a null request is a valid value to overwrite; the piece lies within the caller's memory.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let from = (address + start) as *const _;
            check("MPI_Isend", ffi::MPI_Isend(from, len, ffi::RSMPI_UINT8_T, to, tag, comm, &mut request))?;
            requests.push(request);
        }
    }
    Ok(())
}

/// Starts receiving `bytes` bytes to `address`, and adds the requests to `requests`.
///
/// # Safety
/// The memory must stay valid and untouched until the requests are complete.
unsafe fn receive(
    comm: ffi::MPI_Comm,
    from: c_int,
    tag: c_int,
    address: usize,
    bytes: usize,
    requests: &mut Vec<ffi::MPI_Request>,
) -> Result<(), FabricError> {
    for (start, len) in pieces(bytes) {
        // SAFETY: a null request is a valid value to overwrite; the piece lies within the caller's memory.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let into = (address + start) as *mut _;
            check("MPI_Irecv", ffi::MPI_Irecv(into, len, ffi::RSMPI_UINT8_T, from, tag, comm, &mut request))?;
            requests.push(request);
        }
    }
    Ok(())
}

/// Takes complete requests off the end of a list and says how many bytes they moved, as far as the library tells
/// (it does for receives).
///
/// # Safety
/// The requests are live.
unsafe fn reap(requests: &mut Vec<ffi::MPI_Request>) -> Result<usize, FabricError> {
    let mut bytes = 0;
    while let Some(request) = requests.last_mut() {
        let mut done = 0;
        let mut status = std::mem::MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: the request is live, and the other arguments are places to write to.
        check("MPI_Test", unsafe { ffi::MPI_Test(request, &mut done, status.as_mut_ptr()) })?;
        if done == 0 {
            break;
        }
        let mut count = 0;
        // SAFETY: MPI_Test has completed the request and filled the status.
        check("MPI_Get_count", unsafe { ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut count) })?;
        bytes += count.max(0) as usize;
        requests.pop();
    }
    Ok(bytes)
}
