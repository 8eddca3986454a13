//! Start and end of MPI, groups of ranks, communicators.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::Once;
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::cluster::{Groups, Rank};
use crate::fabric::process::{is_launched, refuse_singletons, refuse_unmanaged};
use crate::fabric::{FabricError, Sent, abort as end};
use crate::plan::Split;

use super::wire::{Comm, MpiWire};

/// All ranks of the job. Dropped without [`World::finish`] it ends the job on all ranks with exit code 1, because the
/// others would wait forever for a rank that gave up.
pub struct World {
    universe: ManuallyDrop<Universe>,
    /// All ranks, numbered group by group.
    comm: ManuallyDrop<SimpleCommunicator>,
    /// Communicators of wires, kept until the end.
    comms: RefCell<Vec<SimpleCommunicator>>,
    groups: Groups,
    rank: Rank,
    /// What [`crate::fabric::Control`] has sent.
    sent: RefCell<Sent>,
    patience: Cell<Duration>,
}

/// How long [`crate::fabric::Control`] waits for a rank, unless told otherwise: long enough for one that reads a corpus
/// or writes a large checkpoint while the others wait.
const PATIENCE: Duration = Duration::from_secs(600);

impl World {
    /// Starts MPI and numbers the ranks: node by node (ranks that share memory are a node), and within a node as
    /// launched. Groups are the nodes. From here on a panic on any thread ends the job.
    ///
    /// # Errors
    /// All ranks return the same error, and MPI is finished.
    pub fn start() -> Result<World, FabricError> {
        is_launched();
        refuse_unmanaged(|name| std::env::var(name).ok())?;
        let (universe, threads) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or(FabricError::Initialised)?;
        if threads < Threading::Serialized {
            return Err(FabricError::Threads { provided: format!("{threads:?}") });
        }
        abort_on_panic();
        let world = universe.world();
        let ranks = world.size() as usize;
        refuse_singletons(ranks, |name| std::env::var(name).ok())?;

        // A node is named by the lowest world rank on it.
        let me = world.rank();
        let mut node = me;
        {
            let shared = world.split_shared(me);
            let mut everyone = vec![0; shared.size() as usize];
            shared.all_gather_into(&me, &mut everyone[..]);
            node = everyone.iter().fold(node, |low, &rank| low.min(rank));
        }
        let mut nodes = vec![0; ranks];
        world.all_gather_into(&node, &mut nodes[..]);
        let (order, by_node) = number(&nodes);
        let rank = order.iter().position(|&launched| launched == me as usize).expect("every rank has a number");
        let color = Color::with_value(0);
        let comm = world.split_by_color_with_key(color, rank as i32).expect("a color gives a communicator");
        Ok(World {
            universe: ManuallyDrop::new(universe),
            comm: ManuallyDrop::new(comm),
            comms: RefCell::default(),
            groups: Groups::new(&by_node),
            rank,
            sent: RefCell::new(Sent::new(ranks)),
            patience: Cell::new(PATIENCE),
        })
    }

    /// This rank's number, counted group by group.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// The groups of ranks.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Replaces the groups, so that one machine can play several nodes or two nodes be one. Ranks keep their numbers.
    ///
    /// # Panics
    /// If the groups have not as many ranks as the world.
    pub fn regroup(&mut self, groups: Groups) {
        assert_eq!(groups.ranks(), self.groups.ranks(), "groups of another number of ranks");
        self.groups = groups;
    }

    /// How long [`crate::fabric::Control`] waits for a rank before the job ends.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience.get()
    }

    /// Bytes this rank has sent through [`crate::fabric::Control`].
    pub fn sent(&self) -> Sent {
        self.sent.borrow().clone()
    }

    /// A communicator for each rank set of each split, created in order. Collective over all ranks. The communicators
    /// live until the world ends.
    pub fn wire(&self, splits: &[Split]) -> MpiWire {
        let comms = splits.iter().map(|split| {
            let set = split.sets.iter().position(|set| set.contains(&self.rank));
            let color = set.map_or_else(Color::undefined, |set| Color::with_value(set as i32));
            let comm = self.comm.split_by_color_with_key(color, self.rank as i32)?;
            let raw = comm.as_raw();
            self.comms.borrow_mut().push(comm);
            Some(Comm { raw, members: split.sets[set?].clone() })
        });
        MpiWire::new(comms.collect())
    }

    /// Ends MPI. Every rank must call it; wires must be gone.
    pub fn finish(mut self) {
        self.comms.borrow_mut().clear();
        // SAFETY: the world is forgotten right after, so that neither is dropped twice. The communicator goes first.
        unsafe {
            ManuallyDrop::drop(&mut self.comm);
            ManuallyDrop::drop(&mut self.universe);
        }
        std::mem::forget(self);
    }

    pub(super) fn comm(&self) -> &SimpleCommunicator {
        &self.comm
    }

    pub(super) fn count(&self, to: Rank, bytes: usize) {
        self.sent.borrow_mut().count(to, bytes, true);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        end(1);
    }
}

/// Orders ranks by node, nodes by their lowest rank; also gives the nodes' sizes. `nodes[rank]` names a rank's node.
fn number(nodes: &[i32]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&rank| (nodes[rank], rank));
    let sizes = order.chunk_by(|&a, &b| nodes[a] == nodes[b]).map(<[usize]>::len).collect();
    (order, sizes)
}

/// MPI_Abort asks the launcher to end all ranks and waits for it. If the launcher cannot be reached either, because the
/// link to it is gone, this process ends after so many seconds.
const LAST_SECONDS: libc::c_uint = 5;

/// Ends all ranks with this exit code, if MPI runs.
pub fn abort(code: i32) {
    // SAFETY: these two and alarm may be called at any time; MPI_Abort between initialisation and finalisation. Another
    // thread may be inside MPI just now, which SERIALIZED forbids: the process ends either way.
    unsafe {
        let (mut started, mut finished) = (0, 0);
        ffi::MPI_Initialized(&mut started);
        ffi::MPI_Finalized(&mut finished);
        if started != 0 && finished == 0 {
            libc::alarm(LAST_SECONDS);
            ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code);
        }
    }
}

/// After a panic's message, ends the job: the other ranks would wait forever.
fn abort_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let message = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            message(info);
            end(1);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any launch order gives groups of consecutive numbers.
    #[test]
    fn numbers_node_by_node() {
        let (order, sizes) = number(&[0, 1, 0, 1, 4, 1]);
        assert_eq!((order, sizes), (vec![0, 2, 1, 3, 5, 4], vec![2, 3, 1]));
    }
}
