//! Agreements between main threads over MPI.

use std::time::{Duration, Instant};

use mpi::ffi;
use mpi::raw::AsRaw;

use crate::fabric::{Control, FabricError, NAP};

use super::World;

/// Tag of control messages: first the length (8 bytes), then the bytes.
const TAG: std::ffi::c_int = 2;

impl World {
    /// Runs started requests to their end, asleep in between: who waits for a rank that writes a checkpoint must not
    /// take its core.
    fn finish_requests(&self, peer: usize, mut requests: Vec<ffi::MPI_Request>) -> Result<(), FabricError> {
        // Pieces are completed from the back of the list.
        requests.reverse();
        let start = Instant::now();
        let mut looks = 0;
        loop {
            // SAFETY: the requests were just started by the caller.
            unsafe { super::reap(&mut requests)? };
            if requests.is_empty() {
                return Ok(());
            }
            looks += 1;
            if looks > 100 {
                std::thread::sleep(NAP);
            }
            if start.elapsed() > self.patience() {
                return Err(FabricError::Silent { peer, seconds: self.patience().as_secs() });
            }
        }
    }

    fn send_bytes(&self, to: usize, bytes: &[u8]) -> Result<(), FabricError> {
        let length = (bytes.len() as u64).to_le_bytes();
        let mut requests = Vec::new();
        let raw = self.comm().as_raw();
        for part in [&length[..], bytes] {
            // SAFETY: the slices outlive the requests: those are complete when this function returns, or its error ends
            // the process.
            unsafe { super::send(raw, to as _, TAG, part.as_ptr() as usize, part.len(), &mut requests)? };
        }
        self.count(to, length.len() + bytes.len());
        self.finish_requests(to, requests)
    }

    fn receive_bytes(&self, from: usize) -> Result<Vec<u8>, FabricError> {
        let mut length = [0; 8];
        self.receive_into(from, &mut length)?;
        let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
        self.receive_into(from, &mut bytes)?;
        Ok(bytes)
    }

    /// Waits for an empty message from each of these ranks; gives those from which none has come in time.
    fn arrivals(&self, from: &[usize], patience: Duration) -> Result<Vec<usize>, FabricError> {
        // What an empty message consists of: its length. The memory is never freed, because a message that has not come
        // may still do so.
        let lengths = vec![[0u8; 8]; from.len()].leak();
        let mut waiting = Vec::new();
        for (&rank, length) in from.iter().zip(lengths.iter_mut()) {
            let mut requests = Vec::new();
            let address = length.as_mut_ptr() as usize;
            // SAFETY: the memory is leaked, and nobody else has its address.
            unsafe { super::receive(self.comm().as_raw(), rank as _, TAG, address, length.len(), &mut requests)? };
            waiting.push((rank, requests));
        }
        let start = Instant::now();
        while !waiting.is_empty() && start.elapsed() < patience {
            for (_, requests) in &mut waiting {
                // SAFETY: the requests were just started.
                unsafe { super::reap(requests)? };
            }
            let arrived = waiting.extract_if(.., |(_, requests)| requests.is_empty());
            for (rank, _) in arrived.collect::<Vec<_>>() {
                self.receive_into(rank, &mut [])?;
            }
            std::thread::sleep(NAP);
        }
        Ok(waiting.into_iter().map(|(rank, _)| rank).collect())
    }

    fn receive_into(&self, from: usize, into: &mut [u8]) -> Result<(), FabricError> {
        let mut requests = Vec::new();
        let address = into.as_mut_ptr() as usize;
        // SAFETY: the slice outlives the requests: those are complete when this function returns, or its error ends the
        // process.
        unsafe { super::receive(self.comm().as_raw(), from as _, TAG, address, into.len(), &mut requests)? };
        self.finish_requests(from, requests)
    }
}

/// # Panics
/// If MPI returns an error: the panic hook of [`World::start`] then ends the job.
impl Control for World {
    fn rank(&self) -> usize {
        World::rank(self)
    }

    fn size(&self) -> usize {
        self.groups().ranks()
    }

    fn set_patience(&self, patience: Duration) {
        World::set_patience(self, patience);
    }

    fn roll_call(&self, members: &[usize], patience: Duration) -> Vec<usize> {
        if World::rank(self) != members[0] {
            Control::send(self, members[0], &[]);
            return Vec::new();
        }
        self.arrivals(&members[1..], patience).unwrap_or_else(|error| panic!("roll call: {error}"))
    }

    fn send(&self, to: usize, bytes: &[u8]) {
        self.send_bytes(to, bytes).unwrap_or_else(|error| panic!("send to rank {to}: {error}"));
    }

    fn receive(&self, from: usize) -> Vec<u8> {
        self.receive_bytes(from).unwrap_or_else(|error| panic!("receive from rank {from}: {error}"))
    }
}
