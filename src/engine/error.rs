//! How a plan's run can fail.

use crate::cluster::Rank;
use crate::device::DeviceError;
use crate::fabric::FabricError;

/// Why a run did not end well. The engine cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The watchdog: nothing moved.
    #[error("rank {rank}: no progress for {seconds} s: {phase} op {op} ({what}) waits for {cause}")]
    Stalled {
        /// Whose plan.
        rank: Rank,
        /// For how long nothing moved.
        seconds: u64,
        /// Which list of the plan.
        phase: &'static str,
        /// Which op of the list.
        op: usize,
        /// The op in words: what it moves and with whom.
        what: String,
        /// What it waits for.
        cause: String,
    },
    /// A message failed.
    #[error("rank {rank}: {phase} op {op} ({what}): {source}")]
    Fabric {
        /// Whose plan.
        rank: Rank,
        /// Which list of the plan.
        phase: &'static str,
        /// Which op of the list.
        op: usize,
        /// The op in words.
        what: String,
        /// What went wrong.
        source: FabricError,
    },
    /// The device failed.
    #[error("rank {rank}: {source}")]
    Device {
        /// Whose plan.
        rank: Rank,
        /// What went wrong.
        source: DeviceError,
    },
    /// The other ranks could not be taken leave of.
    #[error("rank {rank}: at the end: {source}")]
    End {
        /// Whose plan.
        rank: Rank,
        /// What went wrong.
        source: FabricError,
    },
    /// The communication thread panicked; its message has been printed.
    #[error("rank {rank}: the communication thread panicked")]
    Panicked {
        /// Whose plan.
        rank: Rank,
    },
}
