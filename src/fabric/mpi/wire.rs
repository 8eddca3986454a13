//! A plan's messages over MPI.

use std::ffi::c_int;

use mpi::ffi;

use crate::cluster::Rank;
use crate::device::View;
use crate::fabric::{FabricError, Request, Wire};
use crate::plan::CommId;

use super::TAG;

/// A message on its way.
struct Message {
    /// Pieces that are not complete yet; empty if the entry is free.
    pieces: Vec<ffi::MPI_Request>,
    /// Receives: sender, expected bytes, bytes that have come.
    receive: Option<(Rank, usize, usize)>,
}

/// One communicator of the plan, as this rank sees it.
pub(super) struct Comm {
    pub raw: ffi::MPI_Comm,
    /// World ranks of its members, ascending.
    pub members: Vec<Rank>,
}

/// A rank's messages over MPI, made by [`super::World::wire`].
pub struct MpiWire {
    /// By [`CommId`]; `None` where this rank is no member.
    comms: Vec<Option<Comm>>,
    messages: Vec<Message>,
    free: Vec<usize>,
}

// SAFETY: communicators and requests are handles of the process, not of a thread; at thread level SERIALIZED any one
// thread at a time may use them, and a wire is used by one thread at a time because its methods need `&mut`.
unsafe impl Send for MpiWire {}

impl MpiWire {
    pub(super) fn new(comms: Vec<Option<Comm>>) -> Self {
        MpiWire { comms, messages: Vec::new(), free: Vec::new() }
    }

    /// Communicator and the peer's number in it.
    fn address(&self, comm: CommId, peer: Rank) -> (ffi::MPI_Comm, c_int) {
        let comm = self.comms[comm].as_ref().expect("a communicator that this rank belongs to");
        (comm.raw, comm.members.binary_search(&peer).expect("a member of the communicator") as c_int)
    }

    fn entry(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.messages.push(Message { pieces: Vec::new(), receive: None });
            self.messages.len() - 1
        })
    }
}

impl Wire for MpiWire {
    fn send(&mut self, comm: CommId, to: Rank, data: View) -> Result<Request, FabricError> {
        let (raw, peer) = self.address(comm, to);
        let index = self.entry();
        let message = &mut self.messages[index];
        message.receive = None;
        // SAFETY: the trait asks callers to keep the view's memory alive and unchanged until completion.
        unsafe { super::send(raw, peer, TAG, data.address(), data.bytes(), &mut message.pieces)? };
        Ok(Request(index))
    }

    fn receive(&mut self, comm: CommId, from: Rank, into: View) -> Result<Request, FabricError> {
        let (raw, peer) = self.address(comm, from);
        let index = self.entry();
        let message = &mut self.messages[index];
        message.receive = Some((from, into.bytes(), 0));
        // SAFETY: the trait asks callers to keep the view's memory alive and untouched until completion.
        unsafe { super::receive(raw, peer, TAG, into.address(), into.bytes(), &mut message.pieces)? };
        Ok(Request(index))
    }

    fn test(&mut self, request: Request) -> Result<Option<Request>, FabricError> {
        let message = &mut self.messages[request.0];
        // SAFETY: the pieces were started by this wire and are not complete.
        let moved = unsafe { super::reap(&mut message.pieces)? };
        if let Some((from, expected, got)) = &mut message.receive {
            *got += moved;
            if message.pieces.is_empty() && got != expected {
                return Err(FabricError::Length { from: *from, got: *got, expected: *expected });
            }
        }
        if !message.pieces.is_empty() {
            return Ok(Some(request));
        }
        self.free.push(request.0);
        Ok(None)
    }
}
