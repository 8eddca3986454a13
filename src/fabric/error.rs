//! What can go wrong between ranks.

use std::time::Duration;

use crate::cluster::Rank;
use crate::device::DeviceError;

/// A failure of the fabric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FabricError {
    /// The launcher started several programs that do not know of each other.
    #[error(
        "{variable}={ranks} says that this job has {ranks} ranks, but MPI sees only one: the program was started by \
         a launcher of another MPI library, or without one; start it with this MPI's own `mpirun -n {ranks}`, or with \
         `srun --mpi=pmix`"
    )]
    Singletons {
        /// Environment variable that tells.
        variable: &'static str,
        /// What it says.
        ranks: usize,
    },
    /// MPI's threads are too weak.
    #[error("this MPI library grants thread level {provided}; tawpipe needs MPI_THREAD_SERIALIZED or more")]
    Threads {
        /// What `MPI_Init_thread` granted.
        provided: String,
    },
    /// MPI was initialised before.
    #[error("MPI is already initialised in this process")]
    Initialised,
    /// An MPI call returned an error.
    #[error("{call} failed with MPI error {code}")]
    Mpi {
        /// Which function.
        call: &'static str,
        /// Its return value.
        code: i32,
    },
    /// A message was not as long as its receiver expected.
    #[error("a message from rank {from} has {got} bytes instead of {expected}")]
    Length {
        /// Who sent it.
        from: Rank,
        /// Bytes that came.
        got: usize,
        /// Bytes that were expected.
        expected: usize,
    },
    /// A rank does not take part in what all ranks do between steps.
    #[error("rank {peer} has not answered for {seconds} s")]
    Silent {
        /// Which rank.
        peer: Rank,
        /// For how long.
        seconds: u64,
    },
    /// NCCL is not there.
    #[error(
        "NCCL is not here; looked for {looked_for} where the system looks for libraries (LD_LIBRARY_PATH): {reason}"
    )]
    NoNccl {
        /// The file names that were tried.
        looked_for: String,
        /// What the loader says of the first.
        reason: String,
    },
    /// Several ranks use one GPU, which this NCCL does not allow.
    #[error("several ranks use one GPU, which NCCL {found} does not allow: it needs {needed}, or run.fabric = \"mpi\"")]
    NcclShared {
        /// Its version.
        found: String,
        /// The first that does.
        needed: String,
    },
    /// Ranks have not come to where all ranks of a set meet.
    #[error("{missing} did not come within {after:?} to make communicator \"{name}\"")]
    Missing {
        /// The communicator.
        name: &'static str,
        /// Who is missing.
        missing: String,
        /// For how long the others have waited.
        after: Duration,
    },
    /// All ranks have come, but NCCL could not connect them.
    #[error(
        "NCCL has not connected {members} of communicator \"{name}\" within {after:?}, though all have come; \
         NCCL_DEBUG=INFO tells why, NCCL_SOCKET_IFNAME chooses the network"
    )]
    Unconnected {
        /// The communicator.
        name: &'static str,
        /// Its members.
        members: String,
        /// For how long it has tried.
        after: Duration,
    },
    /// A call of NCCL returned an error.
    #[error("{call}: {text} (NCCL result {code})")]
    Nccl {
        /// Which function.
        call: &'static str,
        /// Its result.
        code: i32,
        /// What NCCL says of it.
        text: String,
    },
    /// The GPU whose memory was to be sent or received failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Another rank of this process failed.
    #[error("rank {0} failed")]
    Peer(Rank),
}
