//! What can go wrong between ranks.

use crate::cluster::Rank;

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
    /// Another rank of this process failed.
    #[error("rank {0} failed")]
    Peer(Rank),
}
